//! Ways for a guest to give itself up.

use super::descriptors::Pointer;
use core::arch::asm;

/// Makes the descriptor table of exceptions `limit` + 1 bytes at `base`.
fn exceptions(base: u64, limit: u16) {
    let pointer = Pointer { limit, base };
    // SAFETY: the guest gives itself up.
    unsafe { asm!("lidt [{0}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

/// Code at `nowhere`, and the exceptions' descriptors there too.
pub fn jump(nowhere: u64) -> ! {
    exceptions(nowhere, 0xfff);
    // SAFETY: the guest gives itself up.
    unsafe { asm!("jmp {0}", in(reg) nowhere, options(noreturn)) };
}

/// An exception whose descriptor is at `device`.
pub fn vectors(device: u64) -> ! {
    exceptions(device, 0xfff);
    // SAFETY: the guest gives itself up.
    unsafe { asm!("ud2", options(noreturn)) };
}

/// An exception whose entry stores to `device`.
pub fn stack(device: u64) -> ! {
    // SAFETY: the guest gives itself up.
    unsafe { asm!("mov rsp, {0}", "ud2", in(reg) device, options(noreturn)) };
}

/// An exception, no descriptor for it, and none for what that raises.
pub fn triple_fault() -> ! {
    exceptions(0, 0);
    // SAFETY: the guest gives itself up.
    unsafe { asm!("ud2", options(noreturn)) };
}
