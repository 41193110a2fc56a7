//! The local APIC (SDM volume 3, "Advanced Programmable Interrupt Controller"), in x2APIC mode unless the CPU has none or
//! [`map`] is called.

use super::cpu::{self, rdmsr, wrmsr};
use super::timer;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// IA32_APIC_BASE.
pub const BASE: u32 = 0x1b;
/// Its bits: APIC enabled; and in x2APIC mode.
pub const ENABLED: u64 = 1 << 11;
/// See [`ENABLED`].
pub const X2APIC: u64 = 3 << 10;
/// The registers in xAPIC mode.
pub const PAGE: u64 = 0xfee0_0000;

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
    /// First of eight: vectors requested.
    pub const REQUESTED: u32 = 0x820;
    /// Error status.
    pub const ERRORS: u32 = 0x828;
    /// Interrupt command.
    pub const COMMAND: u32 = 0x830;
    /// Its destination, in xAPIC mode only.
    pub const DESTINATION: u32 = 0x831;
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

/// All CPUs that have been enabled are in xAPIC mode.
static MAPPED: AtomicBool = AtomicBool::new(false);

/// Whether programs use xAPIC mode.
pub fn is_mapped() -> bool {
    MAPPED.load(Ordering::Relaxed)
}

/// Whether the CPU has x2APIC mode.
pub fn has_x2apic() -> bool {
    cpu::cpuid(1, 0).ecx & 1 << 21 != 0
}

fn address(register: u32) -> u64 {
    PAGE + u64::from(register - 0x800) * 16
}

// The plain moves by which operating systems reach the page: what a compiler makes of an access could be another instruction.
fn read(register: u32) -> u64 {
    if !is_mapped() {
        return rdmsr(register);
    }
    let value: u32;
    // SAFETY: a register that has no effect when it is read.
    unsafe { asm!("mov {0:e}, [{1}]", out(reg) value, in(reg) address(register), options(nostack, preserves_flags)) };
    value.into()
}

fn write(register: u32, value: u64) {
    if !is_mapped() {
        return wrmsr(register, value);
    }
    // SAFETY: what the register does is the caller's wish.
    unsafe { asm!("mov [{1}], {0:e}", in(reg) value, in(reg) address(register), options(nostack, preserves_flags)) };
}

/// The calling CPU's identifier.
pub fn id() -> u64 {
    let value = read(register::ID) & 0xffff_ffff;
    if is_mapped() { value >> 24 } else { value }
}

/// Has programs use xAPIC mode. Before any CPU is enabled.
pub fn map() {
    MAPPED.store(true, Ordering::Relaxed);
}

/// Switches the calling CPU's local APIC on; its timer goes by the time-stamp counter.
pub fn enable() {
    let base = rdmsr(BASE);
    if !has_x2apic() {
        MAPPED.store(true, Ordering::Relaxed);
    }
    if base & ENABLED == 0 {
        wrmsr(BASE, base | ENABLED);
    }
    if !is_mapped() && base & X2APIC != X2APIC {
        wrmsr(BASE, base | X2APIC);
    }
    write(register::SPURIOUS, 1 << 8 | SPURIOUS_VECTOR);
    write(register::TASK_PRIORITY, 0);
    write(register::TIMER, DEADLINE_MODE | u64::from(timer::INTID));
    // A store to the page may pass a later write of the deadline (SDM volume 3, "TSC-Deadline Mode").
    cpu::barrier();
}

/// The highest vector in service.
pub fn in_service() -> Option<u32> {
    let bits = |word: u32| read(register::IN_SERVICE + word) as u32;
    (0..8).rev().find(|word| bits(*word) != 0).map(|word| word * 32 + 31 - bits(word).leading_zeros())
}

/// Ends the interrupt in service.
pub fn end() {
    write(register::END, 0);
}

/// Sends what `command` says (a vector, or one of [`command`]) to the CPU with this identifier.
pub fn send(command: u64, target: u64) {
    // Stores before have to be seen by whoever the interrupt wakes: the register's write is not ordered after them.
    cpu::barrier();
    if is_mapped() {
        write(register::DESTINATION, target << 24);
        write(register::COMMAND, command);
    } else {
        wrmsr(register::COMMAND, target << 32 | command);
    }
}
