//! Wiping, and cache maintenance by address (Arm ARM D7.5).

use super::features::{self, Feature};
use super::sysreg::{instruction, mrs};
use core::arch::asm;

/// Bytes in the smallest data cache line of the machine (CTR_EL0.DminLine).
fn line() -> u64 {
    4 << super::sysreg::field(mrs!("ctr_el0"), 16, 4)
}

/// Cleans and invalidates `start..end` (bytes) to the point of coherency.
pub fn clean_invalidate(start: u64, end: u64) {
    let line = line();
    let mut at = start & !(line - 1);
    while at < end {
        instruction!("dc civac, {}", at);
        at += line;
    }
    instruction!("dsb sy");
}

/// Makes instructions written to `start..end` visible to instruction fetch on every CPU.
pub fn sync_instructions(start: u64, end: u64) {
    clean_invalidate(start, end);
    forget_instructions();
}

/// Invalidates the instruction caches of all CPUs.
pub fn forget_instructions() {
    instruction!("ic ialluis");
    instruction!("dsb ish");
    super::sysreg::isb();
}

/// Zeroes the frame at `address`.
///
/// With FEAT_S2FWB every mapping of it that Postern ever makes is write-back, so the zeroes need not leave the caches.
/// Without it an owner may look at it uncached, and they must be at the point of coherency.
///
/// # Safety
/// `address` is a frame mapped as normal memory that no Rust reference points into.
pub unsafe fn wipe(address: u64) {
    let id = mrs!("dczid_el0");
    // DZP = 0 and blocks of 64 bytes: every Arm core so far. Others get stores.
    if id & 0x1f == 4 {
        // SAFETY: the caller's frame, 64 blocks of 64 bytes.
        unsafe {
            asm!(
                ".rept 63", "dc zva, {a}", "add {a}, {a}, #64", ".endr", "dc zva, {a}",
                a = inout(reg) address => _, options(nostack)
            );
        }
    } else {
        // SAFETY: the caller's frame; volatile so that it cannot be left out.
        unsafe {
            for word in 0..512 {
                (address as *mut u64).add(word).write_volatile(0);
            }
        }
    }
    if !features::has(Feature::ForcedWriteBack) {
        clean_invalidate(address, address + abi::FRAME_SIZE);
    }
}
