//! Postern's own exceptions: always a bug, or broken hardware. Ends in a legible crash record.

use super::sysreg::{field, mrs};

/// Bytes of the stack that only a crash uses.
pub const CRASH_STACK_SIZE: usize = 8 << 10;

/// The stack that only a crash uses: the stack pointer may be what failed.
#[repr(C, align(16))]
pub struct CrashStack([u8; CRASH_STACK_SIZE]);

pub static mut CRASH_STACK: CrashStack = CrashStack([0; CRASH_STACK_SIZE]);

/// Comes from the vectors, on the crash stack.
pub extern "C" fn own_fault(vector: u64, esr: u64, elr: u64, far: u64, sp: u64) -> ! {
    let image = super::entry::image()[0];
    panic!(
        "exception in Postern: vector {vector}, ESR {esr:#x} (class {:#x}), ELR {elr:#x} (image + {:#x}), FAR {far:#x}, \
         HPFAR {:#x}, SP {sp:#x}",
        field(esr, 26, 6),
        elr.wrapping_sub(image),
        mrs!("hpfar_el2"),
    )
}
