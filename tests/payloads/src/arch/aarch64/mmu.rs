//! Stage 1: an identity map of the first TiB in 1 GiB blocks, RAM cacheable, everything else device memory.
//!
//! The upper 512 GiB repeat the lower ones: in a realm they are the shared half.

use core::arch::asm;
use core::ops::Range;

const ENTRIES: usize = 512;
const GIB: u64 = 1 << 30;

#[repr(C, align(4096))]
struct Table([u64; ENTRIES]);
static mut LEVEL0: Table = Table([0; ENTRIES]);
static mut LEVEL1: [Table; 2] = [const { Table([0; ENTRIES]) }; 2];

// Descriptor bits: Arm ARM D8.3.
const BLOCK: u64 = 1;
const TABLE: u64 = 3;
const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 3 << 8;
const DEVICE: u64 = 1 << 2;
const NEVER_EXECUTE: u64 = 3 << 53;
/// Attribute 0: write-back memory; attribute 1: Device-nGnRE.
const MAIR: u64 = 0x04_ff;
/// 48-bit addresses, 4 KiB granule, cacheable inner shareable walks, no TTBR1.
const TCR: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// The RES1 bits, MMU, data and instruction cache.
const SCTLR: u64 = 0x30d0_0800 | 1 | 1 << 2 | 1 << 12;

/// Fills the tables. Runs once, before [`enable`].
pub(super) fn build(memory: &[Range<u64>]) {
    // SAFETY: one CPU, paging off: nothing else touches the tables.
    unsafe {
        for (half, gib) in (0..2).flat_map(|half| (0..ENTRIES).map(move |gib| (half, gib))) {
            let start = gib as u64 * GIB;
            let ram = memory.iter().any(|range| range.start < start + GIB && range.end > start);
            let kind = if ram { INNER_SHAREABLE } else { DEVICE | NEVER_EXECUTE };
            let address = start + half as u64 * ENTRIES as u64 * GIB;
            (&raw mut LEVEL1[half].0[gib]).write_volatile(address | BLOCK | ACCESSED | kind);
            (&raw mut LEVEL0.0[half]).write_volatile(&raw const LEVEL1[half] as u64 | TABLE);
        }
    }
}

/// Turns paging and caches on for the calling CPU.
pub(super) fn enable() {
    // SAFETY: the map is an identity map, so code, stack and data stay where they are.
    unsafe {
        let features: u64;
        asm!("mrs {0}, id_aa64mmfr0_el1", out(reg) features);
        let physical_size = (features & 0xf).min(5);
        asm!(
            "msr mair_el1, {mair}", "msr tcr_el1, {tcr}", "msr ttbr0_el1, {table}", "isb",
            "tlbi vmalle1", "ic iallu", "dsb nsh", "isb",
            "msr sctlr_el1, {sctlr}", "isb",
            mair = in(reg) MAIR,
            tcr = in(reg) TCR | physical_size << 32,
            table = in(reg) &raw const LEVEL0,
            sctlr = in(reg) SCTLR,
        );
    }
}

/// Where [`map_window`] maps: the third half TiB, which the identity map leaves out.
pub const WINDOW: u64 = 1 << 40;
static mut WINDOW_LEVEL1: Table = Table([0; ENTRIES]);

/// Maps 1 GiB at any physical address to [`WINDOW`], as memory that may be executed, for the calling CPU.
pub fn map_window(physical: u64) {
    // SAFETY: nothing but tests of accesses that may fail uses the window; the invalidation follows the write.
    unsafe {
        (&raw mut WINDOW_LEVEL1.0[0]).write_volatile(0);
        (&raw mut LEVEL0.0[2]).write_volatile(&raw const WINDOW_LEVEL1 as u64 | TABLE);
        asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb");
        (&raw mut WINDOW_LEVEL1.0[0]).write_volatile(physical & !(GIB - 1) | BLOCK | ACCESSED | INNER_SHAREABLE);
        asm!("dsb ish", "isb");
    }
}

/// Reads through a level 1 table at physical address `table`, which may be anything.
///
/// # Errors
/// The exception that the read raised.
pub fn try_table(table: u64) -> Result<u64, crate::exception::Abort> {
    // SAFETY: as above; the table serves the window alone.
    unsafe {
        (&raw mut LEVEL0.0[2]).write_volatile(0);
        asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb");
        (&raw mut LEVEL0.0[2]).write_volatile(table | TABLE);
        asm!("dsb ish", "isb");
    }
    let found = crate::exception::try_read(WINDOW);
    map_window(0);
    found
}
