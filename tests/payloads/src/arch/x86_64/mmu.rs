//! Paging: an identity map of the first 512 GiB, and the shared half of a TDX guest behind it. Everything is cacheable
//! here: memory types of devices are the MTRRs' business, or Postern's.

use super::{cpu, tdcall};
use core::arch::asm;

const ENTRIES: usize = 512;
const GIB: u64 = 1 << 30;
const BLOCK: u64 = 2 << 20;

#[repr(C, align(4096))]
struct Table([u64; ENTRIES]);
static mut LEVEL4: Table = Table([0; ENTRIES]);
/// The lower 512 GiB, the shared half, the window.
static mut LEVEL3: [Table; 3] = [const { Table([0; ENTRIES]) }; 3];
/// For CPUs without pages of 1 GiB: 4 GiB of each half.
static mut LEVEL2: [Table; 8] = [const { Table([0; ENTRIES]) }; 8];

/// Present, writable, open to privilege level 3, accessed, dirty (SDM volume 3, "4-Level Paging").
const PAGE: u64 = 0x67;
const LARGE: u64 = 1 << 7;
/// Physical Address Extension, FXSAVE, SSE exceptions.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;

/// Where the shared half of a TDX guest is mapped, whichever physical address bit selects it.
pub const ALIAS: u64 = 1 << 39;
/// Where [`map_window`] maps.
pub const WINDOW: u64 = 1 << 40;

/// The physical address of something in the shared half, without the bit that selects that.
pub fn guest_physical(address: u64) -> u64 {
    address & !ALIAS
}

/// Fills the tables. Runs once, before [`enable`].
pub(super) fn build() {
    let shared = if tdcall::present() { tdcall::shared_bit() } else { 0 };
    let huge = cpu::cpuid(0x8000_0001, 0).edx & 1 << 26 != 0;
    // SAFETY: one CPU, which does not use these tables yet.
    unsafe {
        for (half, bit) in [0, shared].into_iter().enumerate().take(if shared == 0 { 1 } else { 2 }) {
            (&raw mut LEVEL4.0[half]).write_volatile(&raw const LEVEL3[half] as u64 | PAGE);
            for gib in 0..if huge { ENTRIES } else { 4 } {
                let start = (gib as u64 * GIB) | bit;
                let directory = half * 4 + gib;
                let entry = if huge { start | LARGE } else { &raw const LEVEL2[directory % 8] as u64 };
                (&raw mut LEVEL3[half].0[gib]).write_volatile(entry | PAGE);
                for block in 0..if huge { 0 } else { ENTRIES } {
                    let page = start + block as u64 * BLOCK;
                    (&raw mut LEVEL2[directory].0[block]).write_volatile(page | LARGE | PAGE);
                }
            }
        }
    }
}

/// The top table.
pub fn root() -> u64 {
    &raw const LEVEL4 as u64
}

/// Makes the calling CPU use the tables, and SSE registers, which some tests fill by hand.
pub(super) fn enable() {
    // SAFETY: the map is an identity map, so code, stack and data stay where they are.
    unsafe {
        asm!(
            "mov {t}, cr4", "or {t}, {features}", "mov cr4, {t}",
            "mov {t}, cr0", "and {t}, -13", "or {t}, 2", "mov cr0, {t}",
            "mov cr3, {root}",
            t = out(reg) _, features = in(reg) CR4, root = in(reg) root(),
        );
    }
}

fn flush() {
    switch(root());
}

/// Makes the calling CPU use the tables below `top`, which have to map what the program lives in as [`root`]'s do.
pub fn switch(top: u64) {
    // SAFETY: code, stack and data stay where they are.
    unsafe { asm!("mov cr3, {0}", in(reg) top) };
}

/// Maps 1 GiB at any physical address to [`WINDOW`], as memory that may be executed.
pub fn map_window(physical: u64) {
    // SAFETY: nothing but tests of accesses that may fail uses the window; the invalidation follows the write.
    unsafe {
        (&raw mut LEVEL3[2].0[0]).write_volatile(physical & !(GIB - 1) | LARGE | PAGE);
        (&raw mut LEVEL4.0[2]).write_volatile(&raw const LEVEL3[2] as u64 | PAGE);
    }
    flush();
}

/// Maps [`WINDOW`] with the raw entry `entry`.
pub fn map_window_raw(entry: u64) {
    map_window(0);
    // SAFETY: as above.
    unsafe { (&raw mut LEVEL3[2].0[0]).write_volatile(entry) };
    flush();
}

/// Reads through a page table at physical address `table`, which may be anything.
///
/// # Errors
/// The exception that the read raised.
pub fn try_table(table: u64) -> Result<u64, crate::exception::Abort> {
    // SAFETY: as above; the table serves the window alone.
    unsafe { (&raw mut LEVEL4.0[2]).write_volatile(table | PAGE) };
    flush();
    let found = crate::exception::try_read(WINDOW);
    map_window(0);
    found
}
