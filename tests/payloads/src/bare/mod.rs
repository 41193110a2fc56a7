//! What needs the bare machine.

pub mod console;
pub mod cpu;
pub mod devicetree;
pub mod exception;
pub mod gic;
pub mod heap;
pub mod hostcall;
pub mod mmu;
pub mod percpu;
pub mod pkvm;
pub mod psci;
pub mod registers;
pub mod rsi;
pub mod smccc;
mod start;
pub mod timer;

pub use start::{Boot, secondary_entry, start_cpu};
