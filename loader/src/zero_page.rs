//! What an x86-64 host gets from Postern instead of a boot loader: the zero page, page tables and segments that the 64-bit
//! boot protocol asks for (Linux `Documentation/arch/x86/boot.rst`, `Documentation/arch/x86/zero-page.rst`).

use crate::machine::Machine;
use crate::screen::{Layout, Order};
use crate::{BootError, Bytes, bzimage, layout};
use alloc::vec;
use alloc::vec::Vec;

/// Offset of the top page table.
pub const PAGE_TABLE: u64 = 0x1000;
/// Offset of the descriptor table: null, null, 64-bit code at 0x10, data at 0x18.
pub const GDT: u64 = 0x7000;
/// Bytes of the descriptor table.
pub const GDT_SIZE: u64 = 32;
/// Offset of the command line.
const CMDLINE: usize = 0x7100;
/// Longest command line in bytes.
pub const CMDLINE_MAX: usize = 0x800;
/// Offset of a piece of setup data: address of the next, type, size, content (boot.rst, "setup_data"). Kernels pass over
/// types that they do not know, and Linux shows them in `/sys/kernel/boot_params/setup_data`.
const SETUP_DATA: usize = 0x7a00;
/// Bytes of all of it, in whole frames.
pub const SIZE: u64 = 0x8000;

/// Present, writable.
const TABLE: u64 = 3;
/// Present, writable, a 2 MiB page.
const PAGE_2M: u64 = 0x83;
/// What a screen is called whose picture memory firmware has set up, and whether its address goes on beyond 32 bits (Linux
/// `include/uapi/linux/screen_info.h`).
const SCREEN_OF_FIRMWARE: u8 = 0x70;
const CAPABILITY_64BIT_BASE: u32 = 1 << 1;
/// Types of memory in the E820 table (ACPI specification, "Address Range Types").
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const E820_MAX: usize = 128;

/// What the host is to find.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// Its kernel's file, which [`bzimage::parse`] has accepted.
    pub kernel: &'a [u8],
    /// Its initrd.
    pub initrd: &'a Bytes,
    /// Its command line.
    pub cmdline: &'a str,
}

/// Writes it all, as it is to lie at physical address `at`, which is below 4 GiB.
///
/// Memory is what the machine has minus `postern`, which is listed as reserved, as are firmware's own ranges.
///
/// # Errors
/// The command line is too long; more ranges than the table holds.
pub fn zero_page(machine: &Machine, postern: &[Bytes], host: &Host<'_>, at: u64) -> Result<Vec<u8>, BootError> {
    let mut out = vec![0; SIZE as usize];
    if host.cmdline.len() > CMDLINE_MAX {
        return Err(BootError::TooMany("bytes of the host's command line"));
    }
    let header = bzimage::header(host.kernel);
    out.get_mut(bzimage::HEADER..bzimage::HEADER + header.len())
        .ok_or(BootError::BzImage(abi::bundle::HOST_KERNEL))?
        .copy_from_slice(header);
    let size = host.initrd.end.saturating_sub(host.initrd.start);
    let cmdline = at + CMDLINE as u64;
    put(&mut out, 0x70, &machine.rsdp.unwrap_or(0).to_le_bytes());
    // Extended halves first: each pair is one number.
    for (low, high, value) in [(0x218, 0xc0, host.initrd.start), (0x21c, 0xc4, size), (0x228, 0xc8, cmdline)] {
        put(&mut out, low, &(value as u32).to_le_bytes());
        put(&mut out, high, &((value >> 32) as u32).to_le_bytes());
    }
    // Whatever the kernel's file has there, there is only ours.
    put(&mut out, 0x250, &machine.hand_off.map_or(0, |_| at + SETUP_DATA as u64).to_le_bytes());
    if let Some(record) = machine.hand_off {
        put(&mut out, SETUP_DATA + 8, &abi::handoff::MULTIBOOT_TAG.to_le_bytes());
        put(&mut out, SETUP_DATA + 12, &8u32.to_le_bytes());
        put(&mut out, SETUP_DATA + 16, &record.to_le_bytes());
    }
    if let Some(screen) = &machine.screen {
        describe(&mut out, screen);
    }
    // A boot loader without a number of its own (boot.rst, "type_of_loader").
    out[0x210] = 0xff;
    put(&mut out, CMDLINE, host.cmdline.as_bytes());
    memory_map(&mut out, machine, postern)?;
    page_tables(&mut out, at);
    for (index, descriptor) in [0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        put(&mut out, GDT as usize + index * 8, &descriptor.to_le_bytes());
    }
    Ok(out)
}

/// The screen that is the host's from now on, by its `screen_info` (zero-page.rst). One that is too large for that is not told of.
fn describe(out: &mut [u8], screen: &Layout) {
    let size = u32::try_from(screen.memory.end - screen.memory.start);
    let (Ok(size), Ok(line)) = (size, u16::try_from(u64::from(screen.stride) * 4)) else { return };
    let half = |number: u32| (number as u16).to_le_bytes();
    out[0xf] = SCREEN_OF_FIRMWARE;
    put(out, 0x12, &half(screen.width));
    put(out, 0x14, &half(screen.height));
    // Bits of an element.
    put(out, 0x16, &half(32));
    put(out, 0x18, &(screen.memory.start as u32).to_le_bytes());
    put(out, 0x1c, &size.to_le_bytes());
    put(out, 0x24, &line.to_le_bytes());
    // Width and position of red, green, blue and nothing.
    let (red, blue) = if screen.order == Order::Rgb { (0, 16) } else { (16, 0) };
    put(out, 0x26, &[8, red, 8, 8, 8, blue, 8, 24]);
    put(out, 0x36, &CAPABILITY_64BIT_BASE.to_le_bytes());
    put(out, 0x3a, &((screen.memory.start >> 32) as u32).to_le_bytes());
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn memory_map(out: &mut [u8], machine: &Machine, postern: &[Bytes]) -> Result<(), BootError> {
    let ram = layout::without(&machine.memory, postern);
    let ranges = ram.iter().map(|range| (range, RAM));
    let reserved = machine.reserved.iter().chain(postern).map(|range| (range, RESERVED));
    let mut all: Vec<_> = ranges.chain(reserved).collect();
    all.sort_by_key(|(range, _)| range.start);
    if all.len() > E820_MAX {
        return Err(BootError::TooMany("pieces of memory"));
    }
    out[0x1e8] = all.len() as u8;
    for (index, (range, kind)) in all.into_iter().enumerate() {
        let entry = 0x2d0 + index * 20;
        put(out, entry, &range.start.to_le_bytes());
        put(out, entry + 8, &(range.end - range.start).to_le_bytes());
        put(out, entry + 16, &kind.to_le_bytes());
    }
    Ok(())
}

/// 4 GiB at their own addresses, in pages of 2 MiB: one top table, one below it, four directories.
fn page_tables(out: &mut [u8], at: u64) {
    let tables = at + PAGE_TABLE;
    put(out, PAGE_TABLE as usize, &((tables + 0x1000) | TABLE).to_le_bytes());
    for gib in 0..4 {
        let directory = tables + 0x2000 + gib * 0x1000;
        put(out, (PAGE_TABLE + 0x1000 + gib * 8) as usize, &(directory | TABLE).to_le_bytes());
        for block in 0..512 {
            let page = gib << 30 | block << 21 | PAGE_2M;
            put(out, (PAGE_TABLE + 0x2000 + gib * 0x1000 + block * 8) as usize, &page.to_le_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // Lists of ranges, some of which have one.
mod tests {
    use super::*;

    fn word(page: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"))
    }

    fn page(cmdline: &str) -> Result<Vec<u8>, BootError> {
        page_with(cmdline, None)
    }

    fn page_with(cmdline: &str, screen: Option<Layout>) -> Result<Vec<u8>, BootError> {
        let mut kernel = vec![0; 1024];
        kernel[0x201] = 0x66;
        kernel[0x236] = 1;
        let machine = Machine {
            memory: [0..0x9_f000, 0x10_0000..0x4000_0000].into_iter().collect(),
            reserved: [0xf_0000..0x10_0000].into_iter().collect(),
            rsdp: Some(0xf_1230),
            hand_off: Some(0x5000),
            screen,
            ..Machine::default()
        };
        let host = Host { kernel: &kernel, initrd: &(0x3000_0000..0x3000_1234), cmdline };
        zero_page(&machine, &[0x20_0000..0x80_0000], &host, 0x100_0000)
    }

    #[test]
    fn the_host_is_told_of_its_screen() {
        let page = |start, size, stride, order| {
            let screen = Layout::new(start, size, [800, 600], stride, order).expect("a screen");
            page_with("quiet", Some(screen)).expect("fits")
        };
        let told = page(0xe000_0000, 0x100_0000, 832, Order::Bgr);
        let half = |at| word(&told, at) as u16;
        assert_eq!((told[0xf], [0x12, 0x14, 0x16, 0x24].map(half)), (0x70, [800, 600, 32, 832 * 4]));
        assert_eq!(word(&told, 0x18), 0x100_0000 << 32 | 0xe000_0000);
        assert_eq!(told[0x26..0x2e], [8, 16, 8, 8, 8, 0, 8, 24]);
        assert_eq!((word(&told, 0x36), told[0x3e]), (2, 0));
        let high = page(0x8_e000_0000, 0x100_0000, 832, Order::Rgb);
        assert_eq!((word(&high, 0x18) as u32, high[0x3a], high[0x27], high[0x2b]), (0xe000_0000, 8, 0, 16));
        for (size, stride) in [(1 << 32, 832), (0x400_0000, 1 << 14)] {
            let none = page(0xe000_0000, size, stride, Order::Rgb);
            assert!(none[..0x40].iter().all(|byte| *byte == 0), "too large");
        }
    }

    #[test]
    fn the_host_sees_its_memory_and_not_posterns() {
        let page = page("quiet").expect("fits");
        let entries: Vec<_> = (0..usize::from(page[0x1e8]))
            .map(|index| (word(&page, 0x2d0 + index * 20), word(&page, 0x2d8 + index * 20), page[0x2e0 + index * 20]))
            .collect();
        assert_eq!(
            entries,
            [
                (0, 0x9_f000, 1),
                (0xf_0000, 0x1_0000, 2),
                (0x10_0000, 0x10_0000, 1),
                (0x20_0000, 0x60_0000, 2),
                (0x80_0000, 0x3f80_0000, 1)
            ]
        );
    }

    #[test]
    fn the_protocol_s_fields_are_set() {
        let page = page("quiet").expect("fits");
        assert_eq!(word(&page, 0x70), 0xf_1230);
        assert_eq!(word(&page, 0x218), 0x1234 << 32 | 0x3000_0000);
        let data = (word(&page, 0x250) - 0x100_0000) as usize;
        assert_eq!(
            [word(&page, data), word(&page, data + 8), word(&page, data + 16)],
            [0, 8 << 32 | 0x5053_544e, 0x5000]
        );
        assert_eq!(word(&page, 0x228) as u32, 0x100_7100);
        assert_eq!(&page[CMDLINE..CMDLINE + 6], b"quiet\0");
        assert_eq!(page[0x236], 1, "the kernel's own header");
        assert_eq!(word(&page, 0x1000), 0x100_2003);
        assert_eq!(word(&page, 0x2018), 0x100_6003);
        assert_eq!(word(&page, 0x6ff8), 0xffe0_0083);
        assert_eq!(word(&page, GDT as usize + 16), 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn a_command_line_that_does_not_fit_is_refused() {
        let long = alloc::string::String::from_utf8(vec![b'x'; CMDLINE_MAX + 1]).expect("text");
        assert_eq!(page(&long).err(), Some(BootError::TooMany("bytes of the host's command line")));
    }
}
