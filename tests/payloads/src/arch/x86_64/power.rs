//! Power, under the names that both architectures have.

use super::{cpu, start, tdcall, uart};

/// The sleep control register that [`crate::pc`] gives a guest, see its ACPI tables.
use crate::pc;

/// Switches the machine off: a guest by its ACPI register, the host by what emulators offer.
pub fn off() -> ! {
    if tdcall::present() {
        cpu::outb(pc::SLEEP_CONTROL, pc::SLEEP_OFF);
    } else {
        let console = u64::from(pc::COM1);
        if uart::is_there(pc::COM1) {
            uart::drain(console);
        }
        // Bochs' own port; ACPI sleep control of QEMU's q35 and of Bochs.
        b"Shutdown".iter().for_each(|byte| cpu::outb(0x8900, *byte));
        cpu::outw(0x604, 0x2000);
        cpu::outw(0xb004, 0x2000);
    }
    cpu::park()
}

/// Resets the machine.
pub fn reset() -> ! {
    if tdcall::present() {
        cpu::outb(pc::RESET, pc::RESET_VALUE);
    } else {
        // Reset control of the PC's chip set, as FADT names it.
        cpu::outb(0xcf9, 6);
    }
    cpu::park()
}

/// Switches the calling CPU off until [`crate::start_cpu`] starts it again.
pub fn cpu_off() {
    start::rest()
}

/// Whether starting CPU `index`, which runs, is refused.
pub fn refuses_second_start(index: usize) -> bool {
    !start::is_off(index)
}

/// Whether CPU `index` is off.
pub fn is_off(index: usize) -> bool {
    start::is_off(index)
}
