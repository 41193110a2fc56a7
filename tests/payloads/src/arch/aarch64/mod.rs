//! EL1 on arm64.

pub mod cpu;
pub mod device;
pub mod devicetree;
pub mod doom;
pub mod exception;
pub mod gic;
pub mod hypercall;
pub mod interrupt;
pub mod mmu;
pub mod pkvm;
pub mod power;
pub mod psci;
pub mod registers;
pub mod rsi;
pub mod smccc;
mod start;
pub mod sve;
pub mod timer;
pub mod uart;

pub use devicetree::Machine;
pub use start::{Boot, secondary_entry, start_cpu};

/// Where a guest has the test device, [`crate::mailbox`].
pub const MAILBOX: u64 = 0x0a00_0000;
