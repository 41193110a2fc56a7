//! Device registers.

use core::arch::asm;

// Device registers are accessed with the one form that a hypervisor can emulate: the compiler may pick a pair or a
// write-back form even for volatile accesses, whose syndrome does not say what they do (Arm ARM, ESR_EL2.ISV).

/// Reads a device register.
pub fn read32(address: u64) -> u32 {
    let value: u32;
    // SAFETY: callers pass addresses of device registers, which paging maps as device memory.
    unsafe { asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes a device register.
pub fn write32(address: u64, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address, options(nostack, preserves_flags)) };
}

/// Reads an eight-byte device register.
pub fn read64(address: u64) -> u64 {
    let value: u64;
    // SAFETY: as above.
    unsafe { asm!("ldr {0}, [{1}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes an eight-byte device register.
pub fn write64(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { asm!("str {0}, [{1}]", in(reg) value, in(reg) address, options(nostack, preserves_flags)) };
}
