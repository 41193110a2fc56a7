//! Switching the machine off, and the ports by which that and resets go.

use super::acpi_power::Power;
use super::{apic, machine, percpu, tlb};
use core::sync::atomic::{AtomicBool, Ordering};
use x86_64::instructions::port::Port;
use spin::Once;
use x86_64::instructions::{hlt, interrupts};

/// COM1's line status register, and its bit that says that everything has left.
const LINE_STATUS: u16 = 0x3fd;
const ALL_SENT: u8 = 1 << 6;
/// Bochs switches off when it reads this word here.
const BOCHS: (u16, &[u8]) = (0x8900, b"Shutdown");
/// ACPI's power management control register in QEMU's chipsets (PIIX4 and ICH9 have it at the same port), and the value
/// that means soft off there.
const QEMU: (u16, u16) = (0x604, 0x2000);

/// The machine is being switched off: nobody is entered any more.
static OFF: AtomicBool = AtomicBool::new(false);
/// What ACPI's tables say.
static ACPI: Once<Power> = Once::new();

/// Remembers what ACPI's tables say.
pub fn set_acpi(power: Power) {
    ACPI.call_once(|| power);
}

/// What ACPI's tables say; nothing on a machine without them.
pub fn acpi() -> &'static Power {
    ACPI.call_once(Power::default)
}

/// Switches the machine off by ACPI's registers, or the ports below, and stops all CPUs in any case: where that does nothing,
/// no host and no guest may go on under a Postern that has given up. ACPI's byte code, which may want to be told before, is
/// not executed.
pub fn off() -> ! {
    if !OFF.swap(true, Ordering::SeqCst) {
        // One in root operation finishes what it does, and stops instead of entering.
        let this = machine::cpu();
        tlb::cpus().filter(|cpu| *cpu != this).for_each(|cpu| apic::send_nmi(percpu::of(cpu).apic_id.get()));
    }
    // SAFETY: reading the status of COM1 has no effect; the registers are where firmware says; the other ports are those of
    // the emulators, and real machines of the last decades have nothing there.
    unsafe {
        let mut status = Port::<u8>::new(LINE_STATUS);
        // What is still in the UART would be lost. Bounded: there may be none.
        let _ = (0..1_000_000).find(|_| status.read() & ALL_SENT != 0);
        for register in ACPI.get().iter().flat_map(|acpi| &acpi.registers) {
            let size = if register.wide { 2 } else { 1 };
            if let Some(value) = register.value(read_port(register.port, size) as u16) {
                write_port(register.port, size, value.into());
            }
        }
        BOCHS.1.iter().for_each(|byte| Port::<u8>::new(BOCHS.0).write(*byte));
        Port::<u16>::new(QEMU.0).write(QEMU.1);
    }
    halt()
}

/// Stops this CPU if the machine is being switched off. Called after every NMI that has come, before the next entry.
pub fn stop_if_off() {
    if OFF.load(Ordering::SeqCst) {
        halt();
    }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

/// Reads one, two or four bytes of a port for the host.
pub fn read_port(port: u16, size: u32) -> u32 {
    // SAFETY: the host may read it, and does so here because its neighbour may not be written.
    unsafe {
        match size {
            1 => Port::<u8>::new(port).read().into(),
            2 => Port::<u16>::new(port).read().into(),
            _ => Port::new(port).read(),
        }
    }
}

/// Writes one, two or four bytes to a port for the host.
pub fn write_port(port: u16, size: u32, value: u32) {
    // SAFETY: `host_ports` has let it pass: the effect is on devices that are the host's, or a reset that it may do.
    unsafe {
        match size {
            1 => Port::new(port).write(value as u8),
            2 => Port::new(port).write(value as u16),
            _ => Port::new(port).write(value),
        }
    }
}
