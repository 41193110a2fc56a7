//! Ways for a guest to give itself up.

use core::arch::asm;

/// Code at `nowhere`, and exception vectors there too.
pub fn jump(nowhere: u64) -> ! {
    // SAFETY: the guest gives itself up.
    unsafe { asm!("msr vbar_el1, {0}", "isb", "br {0}", in(reg) nowhere, options(noreturn)) };
}

/// An exception whose vector is at `device`.
pub fn vectors(device: u64) -> ! {
    // SAFETY: the guest gives itself up.
    unsafe { asm!("msr vbar_el1, {0}", "isb", "udf #0", in(reg) device, options(noreturn)) };
}

/// An exception whose entry stores to `device`.
pub fn stack(device: u64) -> ! {
    // SAFETY: the guest gives itself up.
    unsafe { asm!("mov sp, {0}", "udf #0", in(reg) device, options(noreturn)) };
}
