//! The local APIC in x2APIC mode (SDM volume 3, "Extended xAPIC (x2APIC)"). Under Postern it is in that mode from the
//! start, for the host and for guests.

use super::cpu::{rdmsr, wrmsr};
use super::timer;

/// IA32_APIC_BASE.
pub const BASE: u32 = 0x1b;
/// Its bits: APIC enabled, x2APIC mode.
pub const X2APIC: u64 = 3 << 10;

/// x2APIC registers (SDM volume 3, table "Local APIC Register Address Map Supported by x2APIC").
pub mod register {
    /// Identification.
    pub const ID: u32 = 0x802;
    /// Task priority.
    pub const TASK_PRIORITY: u32 = 0x808;
    /// End of interrupt.
    pub const END: u32 = 0x80b;
    /// Spurious-interrupt vector and the software enable bit.
    pub const SPURIOUS: u32 = 0x80f;
    /// First of eight: vectors in service.
    pub const IN_SERVICE: u32 = 0x810;
    /// Error status.
    pub const ERRORS: u32 = 0x828;
    /// Interrupt command.
    pub const COMMAND: u32 = 0x830;
    /// Timer entry of the local vector table.
    pub const TIMER: u32 = 0x832;
    /// Interrupt to oneself.
    pub const SELF: u32 = 0x83f;
}

/// Delivery modes of the interrupt command register.
pub mod command {
    /// Assert, with a level: what INIT wants.
    const ASSERT: u64 = 1 << 14;
    /// Non-maskable interrupt.
    pub const NMI: u64 = 4 << 8 | ASSERT;
    /// INIT.
    pub const INIT: u64 = 5 << 8 | ASSERT;
    /// Start-up; the vector is the page to start in.
    pub const STARTUP: u64 = 6 << 8 | ASSERT;
}

/// TSC-deadline mode of the timer.
const DEADLINE_MODE: u64 = 2 << 17;
const SPURIOUS_VECTOR: u64 = 0xff;

/// The calling CPU's identifier.
pub fn id() -> u64 {
    rdmsr(register::ID) & 0xffff_ffff
}

/// Switches the calling CPU's local APIC on; its timer goes by the time-stamp counter.
pub fn enable() {
    let base = rdmsr(BASE);
    if base & X2APIC != X2APIC {
        wrmsr(BASE, base | 1 << 11);
        wrmsr(BASE, base | X2APIC);
    }
    wrmsr(register::SPURIOUS, 1 << 8 | SPURIOUS_VECTOR);
    wrmsr(register::TASK_PRIORITY, 0);
    wrmsr(register::TIMER, DEADLINE_MODE | u64::from(timer::INTID));
}

/// The highest vector in service.
pub fn in_service() -> Option<u32> {
    let bits = |word: u32| rdmsr(register::IN_SERVICE + word) as u32;
    (0..8).rev().find(|word| bits(*word) != 0).map(|word| word * 32 + 31 - bits(word).leading_zeros())
}

/// Ends the interrupt in service.
pub fn end() {
    wrmsr(register::END, 0);
}

/// Sends what `command` says (a vector, or one of [`command`]) to the CPU with this identifier.
pub fn send(command: u64, target: u64) {
    // Stores before have to be seen by whoever the interrupt wakes: the register's write is not ordered after them.
    super::cpu::barrier();
    wrmsr(register::COMMAND, target << 32 | command);
}
