//! The runtime under the test host and the test guests: boot, exceptions that a program can provoke and survive, paging,
//! interrupts, time, the console, and typed wrappers around Postern's and the guest dialects' calls.
//!
//! Everything runs at EL1, or at privilege level 0, in one address space: an identity map.
#![cfg_attr(target_os = "none", no_std)]
// Reason: this is bare-metal code, it talks to registers, page tables and firmware; every block says why it is sound.
#![allow(unsafe_code)]
// Reason: the operands of `asm!` in the macro `attempt` cannot stand outside of it.
#![allow(clippy::macro_metavars_in_unsafe)]

extern crate alloc;

pub mod config;
pub mod ioapic;
pub mod mailbox;
pub mod pc;
pub mod pl011;
pub mod uart16550;

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod bare;
#[cfg(target_os = "none")]
pub use {arch::*, bare::*};
