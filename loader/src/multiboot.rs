//! What a multiboot2 boot loader says of the machine (Multiboot2 Specification, section 3.6 "Boot information").

use crate::machine::{Machine, RANGES_MAX};
use crate::screen::{Layout, Order};
use crate::{BootError, Bytes, overlap};
use abi::handoff::MULTIBOOT_TAG;
use arrayvec::ArrayVec;
use multiboot2::{DynSizedStructure, MemoryAreaType, MemoryMapTag, ModuleTag, TagHeader, TagType};

/// What EAX holds when a multiboot2 boot loader has started a program.
pub const MAGIC: u32 = multiboot2::MAGIC;
/// Fewest and most bytes of boot information that are believed.
pub const SIZES: core::ops::RangeInclusive<u32> = 16..=1 << 20;

type InfoTag = DynSizedStructure<TagHeader>;

/// Bytes before the contents of a tag: type and size.
const TAG_HEADER: usize = 8;
/// Bytes before the entries of a memory map, and of each entry.
const MEMORY_MAP_HEADER: usize = 16;
const MEMORY_MAP_ENTRY: usize = 24;
const MODULE_HEADER: usize = 16;
/// Most ranges before neighbours are joined.
const RAW_MAX: usize = 128;
/// Nothing lies above this: no CPU has more bits of physical address.
const ADDRESS_END: u64 = 1 << 52;

const DAMAGED: BootError = BootError::HandOff("boot information: its tags are damaged");
const MAP: BootError = BootError::HandOff("memory map");

/// Reads boot information of which `info` is all and which lies at physical address `at`: RAM, what firmware keeps, the
/// first module as initrd, and the copy of ACPI's root pointer when there is one.
///
/// The root pointer's copy stays where it is, so that boot information with one becomes reserved memory. The first frame,
/// which holds the BIOS's data, is reserved too.
///
/// # Errors
/// Damaged tags, no memory map, a map that makes no sense or has too many pieces, no module or an empty one.
#[inline(never)] // Kilobytes of stack, which nothing else is to keep.
pub fn parse(info: &[u8], at: u64) -> Result<Machine, BootError> {
    let mut machine = Machine::default();
    let mut map = Ranges::new();
    let mut rsdp = [None; 2];
    let mut offset = TAG_HEADER;
    loop {
        // Both are refused by the crate too, but by a panic.
        let bytes = info.get(offset..).filter(|bytes| bytes.len() >= TAG_HEADER).ok_or(DAMAGED)?;
        let tag = InfoTag::ref_from_slice(bytes).map_err(|_| DAMAGED)?;
        match tag.header().typ.into() {
            TagType::End => break,
            TagType::Mmap => map.add(tag)?,
            TagType::Module if machine.initrd.is_none() => machine.initrd = Some(module(tag)?),
            TagType::AcpiV1 => rsdp[1] = Some((offset + TAG_HEADER) as u64),
            TagType::AcpiV2 => rsdp[0] = Some((offset + TAG_HEADER) as u64),
            TagType::Custom(MULTIBOOT_TAG) => {
                machine.uefi = true;
                machine.hand_off = tag.payload().first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            }
            TagType::Efi32 | TagType::Efi64 | TagType::EfiMmap => machine.uefi = true,
            TagType::Framebuffer => machine.screen = screen(tag.payload()),
            _ => {}
        }
        let size = (tag.header().size as usize).next_multiple_of(TAG_HEADER);
        offset = offset.checked_add(size).ok_or(DAMAGED)?;
    }
    machine.initrd.as_ref().ok_or(BootError::NoBundle)?;
    machine.rsdp = rsdp[0].or(rsdp[1]).map(|offset| at + offset);
    machine.memory = map.ram()?;
    // RAM too, but for what it holds.
    map.reserved.try_push(0..abi::FRAME_SIZE).map_err(|_| MAP)?;
    if machine.rsdp.is_some() {
        map.reserved.try_push(at..at + info.len() as u64).map_err(|_| MAP)?;
    }
    machine.reserved = map.reserved()?;
    Ok(machine)
}

fn module(tag: &InfoTag) -> Result<Bytes, BootError> {
    if (tag.header().size as usize) < MODULE_HEADER {
        return Err(DAMAGED);
    }
    let module = tag.cast::<ModuleTag>();
    let range = u64::from(module.start_address())..u64::from(module.end_address());
    if range.is_empty() { Err(BootError::HandOff("module: it is empty")) } else { Ok(range) }
}

/// The screen of a framebuffer tag, if its elements have 32 bits with eight for each colour in an order that is known. The
/// crate's own reader panics at types that it does not know.
fn screen(tag: &[u8]) -> Option<Layout> {
    let start = u64::from_le_bytes(*tag.first_chunk()?);
    let word = |at: usize| Some(u32::from_le_bytes(*tag.get(at..)?.first_chunk()?));
    let (pitch, width, height) = (word(8)?, word(12)?, word(16)?);
    // Bits of an element, type 1: colours in place; then position and width of red, green and blue.
    let order = match (tag.get(20..22)?, tag.get(24..30)?) {
        ([32, 1], [0, 8, 8, 8, 16, 8]) => Order::Rgb,
        ([32, 1], [16, 8, 8, 8, 0, 8]) => Order::Bgr,
        _ => return None,
    };
    let size = u64::from(pitch) * u64::from(height);
    pitch.is_multiple_of(4).then(|| Layout::new(start, size, [width, height], pitch / 4, order)).flatten()
}

/// A memory map as it is collected.
struct Ranges {
    available: ArrayVec<Bytes, RAW_MAX>,
    /// ACPI's tables and memory, and other RAM that has to stay as it is.
    reserved: ArrayVec<Bytes, RAW_MAX>,
    /// All else that is not RAM: firmware's devices, broken memory.
    other: ArrayVec<Bytes, RAW_MAX>,
}

impl Ranges {
    fn new() -> Self {
        Self { available: ArrayVec::new(), reserved: ArrayVec::new(), other: ArrayVec::new() }
    }

    fn add(&mut self, tag: &InfoTag) -> Result<(), BootError> {
        // The crate panics at sizes that are not those of the structures it knows.
        let size = tag.header().size as usize;
        let entry_size = tag.payload().first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        if size < MEMORY_MAP_HEADER
            || !(size - MEMORY_MAP_HEADER).is_multiple_of(MEMORY_MAP_ENTRY)
            || entry_size != Some(MEMORY_MAP_ENTRY)
        {
            return Err(MAP);
        }
        for area in tag.cast::<MemoryMapTag>().memory_areas() {
            let end = area.start_address().checked_add(area.size()).ok_or(MAP)?;
            let range = area.start_address()..end.min(ADDRESS_END);
            let list = match area.typ() {
                MemoryAreaType::Available => &mut self.available,
                MemoryAreaType::AcpiAvailable | MemoryAreaType::ReservedHibernate => &mut self.reserved,
                _ => &mut self.other,
            };
            if !range.is_empty() {
                list.try_push(range).map_err(|_| BootError::TooMany("pieces of memory"))?;
            }
        }
        Ok(())
    }

    /// What is reserved. The ranges that are not RAM only help the host to keep off them, so that they are left out when
    /// there are too many of them.
    fn reserved(&mut self) -> Result<ArrayVec<Bytes, RANGES_MAX>, BootError> {
        let mut all: ArrayVec<Bytes, { 2 * RAW_MAX }> = self.reserved.iter().chain(&self.other).cloned().collect();
        joined(&mut all).or_else(|_| joined(&mut self.reserved))
    }

    /// RAM that nothing else claims, in whole frames.
    fn ram(&mut self) -> Result<ArrayVec<Bytes, RANGES_MAX>, BootError> {
        let mut ram = ArrayVec::new();
        let holes: ArrayVec<Bytes, { 2 * RAW_MAX }> = self.other.iter().chain(&self.reserved).cloned().collect();
        for range in joined(&mut self.available)? {
            cut(range, &holes, &mut ram)?;
        }
        if ram.is_empty() { Err(MAP) } else { Ok(ram) }
    }
}

/// Sorts ranges and joins those that touch or overlap.
fn joined(ranges: &mut [Bytes]) -> Result<ArrayVec<Bytes, RANGES_MAX>, BootError> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out = ArrayVec::<Bytes, RANGES_MAX>::new();
    for range in ranges.iter() {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.try_push(range.clone()).map_err(|_| BootError::TooMany("pieces of memory"))?,
        }
    }
    Ok(out)
}

/// Adds to `out` what is left of `range` without `holes`, in whole frames.
fn cut(range: Bytes, holes: &[Bytes], out: &mut ArrayVec<Bytes, RANGES_MAX>) -> Result<(), BootError> {
    let mut start = range.start.next_multiple_of(abi::FRAME_SIZE);
    let end = range.end & !(abi::FRAME_SIZE - 1);
    while start < end {
        // The first hole that is at `start` or after it.
        let ahead = holes.iter().filter(|hole| hole.end > start && overlap(hole, &(start..end)));
        let hole = ahead.min_by_key(|hole| hole.start);
        let stop = hole.map_or(end, |hole| hole.start.max(start) & !(abi::FRAME_SIZE - 1)).max(start);
        if start < stop {
            out.try_push(start..stop).map_err(|_| BootError::TooMany("pieces of memory"))?;
        }
        start = hole.map_or(end, |hole| hole.end.next_multiple_of(abi::FRAME_SIZE));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // Lists of ranges, some of which have one.
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const AT: u64 = 0x1_0000;
    const END: &[u8] = &[0, 0, 0, 0, 8, 0, 0, 0];

    fn tag(kind: u32, contents: &[u8]) -> Vec<u8> {
        let mut tag = [kind.to_le_bytes(), (8 + contents.len() as u32).to_le_bytes()].concat();
        tag.extend_from_slice(contents);
        tag.resize(tag.len().next_multiple_of(8), 0);
        tag
    }

    fn module() -> Vec<u8> {
        let range = [0x40_0000u32.to_le_bytes(), 0x50_0000u32.to_le_bytes()].concat();
        tag(3, &[range.as_slice(), b"bundle\0"].concat())
    }

    fn map(areas: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut contents = [24u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        for (start, size, kind) in areas {
            contents.extend_from_slice(&start.to_le_bytes());
            contents.extend_from_slice(&size.to_le_bytes());
            contents.extend_from_slice(&u64::from(*kind).to_le_bytes());
        }
        tag(6, &contents)
    }

    fn good_map() -> Vec<u8> {
        map(&[
            (0, 0x9_fc00, 1),
            (0x9_fc00, 0x400, 2),
            (0xf_0000, 0x1_0000, 2),
            (0x10_0000, 0x3fef_0000, 1),
            (0x3fff_0000, 0x1_0000, 3),
        ])
    }

    /// Parses information made of these bytes after its header, at an address that is a multiple of eight.
    fn parse_raw(contents: &[u8]) -> Result<Machine, BootError> {
        let size = 8 + contents.len();
        let mut room = vec![0u8; size + 8];
        let shift = room.as_ptr().align_offset(8);
        let info = &mut room[shift..shift + size];
        info[..4].copy_from_slice(&(size as u32).to_le_bytes());
        info[8..].copy_from_slice(contents);
        parse(info, AT)
    }

    fn parse_tags(tags: &[&[u8]]) -> Result<Machine, BootError> {
        parse_raw(&[tags.concat().as_slice(), END].concat())
    }

    #[test]
    fn memory_module_and_root_pointer_are_found() {
        let machine =
            parse_tags(&[&tag(2, b"GRUB 2.12\0"), &good_map(), &module(), &tag(14, &[1; 20])]).expect("in order");
        assert_eq!(machine.memory.as_slice(), [0..0x9_f000, 0x10_0000..0x3fff_0000]);
        assert_eq!(machine.initrd, Some(0x40_0000..0x50_0000));
        let rsdp = machine.rsdp.expect("given");
        assert!(machine.reserved.iter().any(|range| range.contains(&rsdp)));
        assert!(machine.reserved.contains(&(0..0x1000)) && machine.reserved.contains(&(0x3fff_0000..0x4000_0000)));
        assert!(machine.reserved.contains(&(0xf_0000..0x10_0000)));
    }

    #[test]
    fn the_first_module_is_the_initrd() {
        let other = tag(3, &[0x60_0000u32.to_le_bytes(), 0x70_0000u32.to_le_bytes()].concat());
        let machine = parse_tags(&[&good_map(), &module(), &other]).expect("in order");
        assert_eq!(machine.initrd, Some(0x40_0000..0x50_0000));
    }

    #[test]
    fn the_newer_root_pointer_wins() {
        let order = [tag(15, &[1; 36]), tag(14, &[1; 20])];
        for tags in [[&order[0], &order[1]], [&order[1], &order[0]]] {
            let machine = parse_tags(&[tags[0], tags[1], &good_map(), &module()]).expect("in order");
            let offset = if core::ptr::eq(tags[0], &order[0]) { 16 } else { 16 + order[1].len() as u64 };
            assert_eq!(machine.rsdp, Some(AT + offset));
        }
        assert_eq!(parse_tags(&[&good_map(), &module()]).expect("in order").rsdp, None);
    }

    #[test]
    fn uefi_shows() {
        let uefi = |tag: &[u8]| parse_tags(&[&good_map(), &module(), tag]).expect("in order").uefi;
        assert!(!uefi(&tag(2, b"GRUB 2.12\0")) && !uefi(&tag(14, &[1; 20])));
        let map = [48u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
        for tag in [tag(11, &[0; 4]), tag(12, &[0; 8]), tag(17, &map), tag(MULTIBOOT_TAG, &[0; 8])] {
            assert!(uefi(&tag), "{tag:?}");
        }
    }

    #[test]
    fn no_module_and_no_memory_are_refused() {
        assert_eq!(parse_tags(&[&good_map()]).err(), Some(BootError::NoBundle));
        assert_eq!(parse_tags(&[&module()]).err(), Some(MAP));
        assert_eq!(parse_tags(&[&module(), &map(&[(0x1000, 0x1000, 2)])]).err(), Some(MAP));
        let empty = tag(3, &[0x40_0000u32.to_le_bytes(), 0x40_0000u32.to_le_bytes()].concat());
        assert!(parse_tags(&[&good_map(), &empty]).is_err());
        let reversed = tag(3, &[0x40_0000u32.to_le_bytes(), 0x3f_0000u32.to_le_bytes()].concat());
        assert!(parse_tags(&[&good_map(), &reversed]).is_err());
    }

    #[test]
    fn where_the_map_contradicts_itself_ram_loses() {
        let memory =
            |areas: &[(u64, u64, u32)]| parse_tags(&[&module(), &map(areas)]).map(|machine| machine.memory.to_vec());
        assert_eq!(
            memory(&[(0, 1 << 20, 1), (0x8_0000, 0x1001, 2), (0x4_0800, 0x10, 5)]),
            Ok(vec![0..0x4_0000, 0x4_1000..0x8_0000, 0x8_2000..0x10_0000])
        );
        assert_eq!(memory(&[(0, 0x8000, 1), (0x4000, 0x8000, 1), (0xc000, 0x4000, 1)]), Ok(vec![0..0x1_0000]));
        assert_eq!(memory(&[(0, 1 << 20, 1), (0, 1 << 20, 2)]), Err(MAP));
        assert_eq!(memory(&[(0x10, 0x20, 1)]), Err(MAP));
    }

    #[test]
    fn too_many_pieces_that_are_not_ram_are_left_out() {
        let ram = [(0x10_0000, 0x10_0000, 1), (0x30_0000, 0x1000, 3)];
        let many: Vec<_> =
            ram.into_iter().chain((0..100).map(|index| (0xf000_0000 + index * 0x4000, 0x2000, 2))).collect();
        let machine = parse_tags(&[&module(), &map(&many)]).expect("in order");
        assert_eq!(machine.reserved.as_slice(), [0..0x1000, 0x30_0000..0x30_1000]);
    }

    #[test]
    fn absurd_maps_are_refused() {
        let error = |areas: &[(u64, u64, u32)]| parse_tags(&[&module(), &map(areas)]).err();
        assert_eq!(error(&[(u64::MAX, 2, 1)]), Some(MAP));
        assert_eq!(error(&[(0, 0x1000, 1), (u64::MAX - 0xfff, 0x2000, 2)]), Some(MAP));
        assert_eq!(error(&[(0, u64::MAX, 1)]), None);
        assert_eq!(error(&[(1 << 60, 1 << 20, 1)]), Some(MAP));
        for kind in [1, 3] {
            let ram = [(0, 0x1000, 1)];
            let many: Vec<_> =
                ram.into_iter().chain((0..200).map(|index| (0x10_0000 + index * 0x4000, 0x2000, kind))).collect();
            assert_eq!(error(&many), Some(BootError::TooMany("pieces of memory")));
            assert_eq!(error(&many[..RANGES_MAX + 2]), Some(BootError::TooMany("pieces of memory")));
        }
        for entry_size in [0u8, 1, 23, 25, 255] {
            let mut bad = good_map();
            bad[8] = entry_size;
            assert_eq!(parse_tags(&[&module(), &bad]).err(), Some(MAP), "{entry_size}");
        }
    }

    #[test]
    fn information_cut_short_anywhere_is_refused() {
        let whole = [good_map().as_slice(), &module(), END].concat();
        assert!(parse_raw(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(parse_raw(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn sizes_that_lie_are_refused_or_harmless_and_never_a_panic() {
        let whole = [good_map().as_slice(), &module(), &tag(14, &[1; 20]), END].concat();
        for at in (0..whole.len()).step_by(4) {
            for value in [0u32, 1, 7, 8, 15, 16, 17, 23, 0x7fff_ffff, u32::MAX - 7, u32::MAX] {
                let mut bad = whole.clone();
                bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let _ = parse_raw(&bad);
            }
        }
        for size in [0u32, 1, 7, u32::MAX, u32::MAX - 8] {
            let mut bad = whole.clone();
            bad[4..8].copy_from_slice(&size.to_le_bytes());
            assert!(parse_raw(&bad).is_err(), "{size}");
        }
    }
}
