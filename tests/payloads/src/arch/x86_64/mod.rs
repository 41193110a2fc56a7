//! Privilege level 0 in 64-bit mode on x86-64: as the host under Postern, as a TDX guest, or on the bare machine.

pub mod acpi;
pub mod apic;
pub mod cpu;
mod descriptors;
pub mod device;
pub mod doom;
pub mod exception;
pub mod hypercall;
pub mod interrupt;
mod machine;
pub mod mmu;
pub mod power;
pub mod registers;
pub mod ring3;
mod start;
pub mod startup;
pub mod tdcall;
pub mod timer;
pub mod uart;

pub use machine::Machine;
pub use start::{Boot, forget as forget_cpu, secondary_entry, start_cpu};

/// Where a guest has the test device, [`crate::mailbox`].
pub const MAILBOX: u64 = 0xfe00_0000;
