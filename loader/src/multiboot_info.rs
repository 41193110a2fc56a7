//! Multiboot2 boot information as the UEFI application leaves it for Postern (Multiboot2 Specification, section 3.6):
//! [`crate::multiboot`] reads it, and so does nobody who minds a tag that is not in the specification.

use crate::Bytes;
use crate::memory_map::MemoryMap;
use abi::handoff::{HandOff, MULTIBOOT_TAG, memory, pixel};
use alloc::vec::Vec;

/// Types of tags.
const MODULE: u32 = 3;
const MEMORY_MAP: u32 = 6;
const FRAMEBUFFER: u32 = 8;
const ACPI_OLD: u32 = 14;
const ACPI_NEW: u32 = 15;
/// Types of memory.
const AVAILABLE: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;
const PRESERVED: u32 = 4;

/// Writes boot information.
///
/// `rsdp` is a copy of ACPI's root pointer, `record` is where the hand-off record is: the host is to leave it alone. `None`
/// when an address does not fit: modules are below 4 GiB.
pub fn write(facts: &HandOff, map: &MemoryMap, rsdp: Option<&[u8]>, record: &Bytes) -> Option<Vec<u8>> {
    // Total size and a reserved word, which Postern's first instructions use as their stack.
    let mut out = Vec::from([0; 8]);
    let bundle = [facts.bundle.start, facts.bundle.start.checked_add(facts.bundle.size)?];
    let [start, end] = [u32::try_from(bundle[0]).ok()?, u32::try_from(bundle[1]).ok()?];
    tag(&mut out, MODULE, &[&start.to_le_bytes()[..], &end.to_le_bytes(), b"bundle\0"]);
    let mut areas = Vec::new();
    for range in map {
        let kind = match range.kind {
            memory::FREE => AVAILABLE,
            memory::ACPI => ACPI,
            _ => RESERVED,
        };
        areas.extend(area(&(range.start..range.end), kind));
    }
    // Not among what Postern leaves out when there is too much that is no RAM.
    areas.extend(area(record, PRESERVED));
    tag(&mut out, MEMORY_MAP, &[&24u32.to_le_bytes()[..], &0u32.to_le_bytes(), &areas]);
    if let Some(copy) = rsdp {
        // The revision is at offset 15 (ACPI Specification 6.5, section 5.2.5.3); 0 is that of ACPI 1.0.
        let kind = if copy.get(15).is_some_and(|revision| *revision == 0) { ACPI_OLD } else { ACPI_NEW };
        tag(&mut out, kind, &[copy]);
    }
    if facts.framebuffer.size > 0 {
        tag(&mut out, FRAMEBUFFER, &[&framebuffer(facts)]);
    }
    tag(&mut out, MULTIBOOT_TAG, &[&record.start.to_le_bytes()[..]]);
    tag(&mut out, 0, &[]);
    let size = u32::try_from(out.len()).ok()?;
    out[..4].copy_from_slice(&size.to_le_bytes());
    Some(out)
}

fn tag(out: &mut Vec<u8>, kind: u32, parts: &[&[u8]]) {
    let size = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    out.extend(kind.to_le_bytes());
    out.extend((size as u32).to_le_bytes());
    parts.iter().for_each(|part| out.extend(*part));
    out.resize(out.len().next_multiple_of(8), 0);
}

fn area(range: &Bytes, kind: u32) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&range.start.to_le_bytes());
    out[8..16].copy_from_slice(&(range.end - range.start).to_le_bytes());
    out[16..20].copy_from_slice(&kind.to_le_bytes());
    out
}

fn framebuffer(facts: &HandOff) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(facts.framebuffer.start.to_le_bytes());
    for word in [facts.stride * 4, facts.resolution[0], facts.resolution[1]] {
        out.extend(word.to_le_bytes());
    }
    // 32 bits, colours in place; position and width of red, green and blue.
    let (red, blue) = if facts.pixel_format == pixel::RGB { (0, 16) } else { (16, 0) };
    out.extend([32, 1, 0, 0, red, 8, 8, 8, blue, 8]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::{Layout, Order};
    use crate::{handoff, memory_map, multiboot};
    use abi::handoff::Region;

    #[test]
    fn postern_reads_what_is_written() {
        let mut map = MemoryMap::new();
        for (range, kind) in [
            (0x1000..0xa_0000, memory::FREE),
            (0x10_0000..0x4000_0000, memory::FREE),
            (0x4000_0000..0x4001_0000, memory::ACPI),
            (0x4001_0000..0x4002_0000, memory::FIRMWARE),
        ] {
            memory_map::add(&mut map, &range, kind);
        }
        let facts = HandOff {
            bundle: Region { start: 0x100_0000, size: 0x1234 },
            framebuffer: Region { start: 0x8000_0000, size: 0x30_0000 },
            resolution: [1000, 700],
            stride: 1024,
            pixel_format: pixel::BGR,
            ..handoff::EMPTY
        };
        let record = 0x3000_0000..0x3000_2000;
        let info = write(&facts, &map, Some(b"RSD PTR \0OEMID\0\x02more"), &record).unwrap();
        let machine = multiboot::parse(&info, 0x5000).unwrap();
        assert_eq!(machine.initrd, Some(0x100_0000..0x100_1234));
        assert_eq!(machine.memory.as_slice(), [0x1000..0xa_0000, 0x10_0000..0x3000_0000, 0x3000_2000..0x4000_0000]);
        assert!(machine.reserved.contains(&(0x4000_0000..0x4002_0000)) && machine.reserved.contains(&record));
        assert_eq!(machine.hand_off, Some(record.start));
        let memory = 0x8000_0000..0x8000_0000 + 1024 * 700 * 4;
        let screen = Layout { memory, width: 1000, height: 700, stride: 1024, order: Order::Bgr };
        assert_eq!(machine.screen, Some(screen));
        let copy = (machine.rsdp.unwrap() - 0x5000) as usize;
        assert_eq!(&info[copy..copy + 8], b"RSD PTR ");
    }

    #[test]
    fn a_bundle_above_4_gib_is_refused() {
        let facts = HandOff { bundle: Region { start: 0xffff_f000, size: 0x2000 }, ..handoff::EMPTY };
        assert_eq!(write(&facts, &MemoryMap::new(), None, &(0..4096)), None);
    }
}
