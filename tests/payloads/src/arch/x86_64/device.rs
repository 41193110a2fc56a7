//! Device registers in memory. A TDX guest asks its host with a call for each access: a plain one would raise #VE, whose
//! handler had to decode the instruction.

use super::{mmu, tdcall};
use core::arch::asm;

/// Sets of plain accesses, each with one instruction.
macro_rules! accesses {
    ($(($read:ident, $write:ident, $kind:ty, $size:literal, $modifier:literal)),+) => {$(
        #[doc = concat!("Reads a register of ", $size, " bytes.")]
        pub fn $read(address: u64) -> $kind {
            if address & mmu::ALIAS != 0 {
                return tdcall::mmio_read(mmu::guest_physical(address), $size) as $kind;
            }
            let value: $kind;
            // SAFETY: callers pass addresses of device registers.
            unsafe {
                asm!(concat!("mov {0", $modifier, "}, [{1}]"), out(reg) value, in(reg) address, options(nostack, preserves_flags))
            };
            value
        }

        #[doc = concat!("Writes a register of ", $size, " bytes.")]
        pub fn $write(address: u64, value: $kind) {
            if address & mmu::ALIAS != 0 {
                return tdcall::mmio_write(mmu::guest_physical(address), $size, value.into());
            }
            // SAFETY: as above.
            unsafe {
                asm!(concat!("mov [{1}], {0", $modifier, "}"), in(reg) value, in(reg) address, options(nostack, preserves_flags))
            };
        }
    )+};
}

accesses!((read32, write32, u32, 4, ":e"), (read64, write64, u64, 8, ""));
