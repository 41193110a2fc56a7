//! Wiping. Caches and instruction fetch are coherent on x86 (SDM volume 3, "Self-Modifying Code", "Cache Control"): RAM has
//! one memory type for everybody (`stage2`), and every VM entry serialises, so that nobody runs what was fetched before.

use core::arch::asm;

/// Zeroes the frame at `address`.
///
/// # Safety
/// `address` is a frame mapped as normal memory that no Rust reference points into.
pub unsafe fn wipe(address: u64) {
    // SAFETY: the caller's frame. The direction flag is clear in all of Postern. Fast string stores may be weakly ordered
    // among themselves, but not with the store that later hands the frame over (SDM volume 3, "Fast-String Operation and
    // Out-of-Order Stores").
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") abi::FRAME_SIZE / 8 => _, inout("rdi") address => _, in("rax") 0u64,
            options(nostack, preserves_flags)
        );
    }
}
