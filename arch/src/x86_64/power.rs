//! Switching the machine off.

use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

/// COM1's line status register, and its bit that says that everything has left.
const LINE_STATUS: u16 = 0x3fd;
const ALL_SENT: u8 = 1 << 6;
/// Bochs switches off when it reads this word here.
const BOCHS: (u16, &[u8]) = (0x8900, b"Shutdown");
/// ACPI's power management control register in QEMU's chipsets (PIIX4 and ICH9 have it at the same port), and the value
/// that means soft off there.
const QEMU: (u16, u16) = (0x604, 0x2000);

/// Switches the machine off, as far as that can be done without ACPI's byte code, and stops this CPU in any case.
pub fn off() -> ! {
    // SAFETY: reading the status of COM1 has no effect; the other ports are those of the emulators, and real machines of
    // the last decades have nothing there.
    unsafe {
        let mut status = Port::<u8>::new(LINE_STATUS);
        // What is still in the UART would be lost. Bounded: there may be none.
        let _ = (0..1_000_000).find(|_| status.read() & ALL_SENT != 0);
        BOCHS.1.iter().for_each(|byte| Port::<u8>::new(BOCHS.0).write(*byte));
        Port::<u16>::new(QEMU.0).write(QEMU.1);
    }
    halt()
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}
