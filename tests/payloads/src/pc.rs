//! The virtual PC that the test host makes for a guest: what is at which address. ACPI tables tell the guest.

/// First serial port, COM1.
pub const COM1: u16 = 0x3f8;
/// Its interrupt: pin of the I/O APIC.
pub const COM1_PIN: u32 = 4;
/// ACPI sleep control register; the status register is the next port.
pub const SLEEP_CONTROL: u16 = 0x600;
/// Written there to power off: sleep type 5 and the enable bit (ACPI specification, "Sleep Control and Status Registers").
pub const SLEEP_OFF: u8 = 5 << 2 | 1 << 5;
/// Reset register.
pub const RESET: u16 = 0x602;
/// Written there to reset.
pub const RESET_VALUE: u8 = 1;
/// A vCPU that has nothing to do reads this port and is not run for a while.
pub const IDLE: u16 = 0x604;

/// I/O APIC.
pub const IO_APIC: u64 = 0xfec0_0000;
/// End of the memory below 4 GiB: devices follow.
pub const MEMORY_END: u64 = 0xc000_0000;
/// Memory below this belongs to the guest; what follows up to 1 MiB is read by kernels that look for firmware.
pub const LOW_MEMORY_END: u64 = 0x9_f000;
/// Boot parameters, the "zero page".
pub const BOOT_PARAMS: u64 = 0x7000;
/// Kernel command line.
pub const COMMAND_LINE: u64 = 0x8000;
/// ACPI tables, [`TABLES_SIZE`] bytes.
pub const TABLES: u64 = 0xe_0000;
/// Bytes of the ACPI tables.
pub const TABLES_SIZE: u64 = 0x1000;
/// The mailbox through which other vCPUs are woken; this and what follows stays in use for ever.
pub const MAILBOX: u64 = TABLES + TABLES_SIZE;
/// Where all vCPUs start.
pub const STUB: u64 = MAILBOX + 0x1000;
/// Page tables for the stub: one, one, four.
pub const PAGE_TABLES: u64 = STUB + 0x1000;
/// End of all that.
pub const RESIDENT_END: u64 = PAGE_TABLES + 6 * 0x1000;
