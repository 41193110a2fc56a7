//! The local APIC in x2APIC mode (SDM volume 3, "Extended XAPIC (x2APIC)"), which every CPU is in from its start on.

use super::timer;
use core::arch::asm;
use x86_64::registers::model_specific::Msr;

const APIC_BASE: u32 = 0x1b;
const GLOBAL_ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;
const ID: u32 = 0x802;
const COMMAND: u32 = 0x830;
const TASK_PRIORITY: u32 = 0x808;
const PROCESSOR_PRIORITY: u32 = 0x80a;
const END_OF_INTERRUPT: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const IN_SERVICE: u32 = 0x810;
const REQUESTED: u32 = 0x820;
const TIMER_INITIAL_COUNT: u32 = 0x838;

/// Delivery modes of the interrupt command register, level asserted.
const INIT: u64 = 5 << 8 | 1 << 14;
const STARTUP: u64 = 6 << 8 | 1 << 14;
const NMI: u64 = 4 << 8 | 1 << 14;

/// Switches x2APIC mode on. CPUID has said that it exists.
pub fn enable() {
    let mut base = Msr::new(APIC_BASE);
    // SAFETY: the transitions are those that the SDM allows (off to xAPIC to x2APIC); nobody uses the memory-mapped
    // registers: Postern never, and the host is given an APIC in x2APIC mode.
    unsafe {
        let value = base.read();
        if value & X2APIC_ENABLE == 0 {
            base.write(value | GLOBAL_ENABLE);
            base.write(value | GLOBAL_ENABLE | X2APIC_ENABLE);
        }
    }
}

/// This CPU's identifier.
pub fn id() -> u64 {
    // SAFETY: x2APIC mode is on; reading has no effect.
    unsafe { Msr::new(ID).read() }
}

fn command(target: u64, mode: u64) {
    // A write to an x2APIC register does not wait for earlier stores, which the target is to see (SDM volume 3, "MSR
    // Access in x2APIC Mode").
    // SAFETY: fences, then a command that is sent at once: in x2APIC mode there is no delivery status to wait for.
    unsafe {
        asm!("mfence", "lfence", options(nostack, preserves_flags));
        Msr::new(COMMAND).write(target << 32 | mode);
    }
}

/// Sends an NMI to the CPU with x2APIC identifier `target`.
pub fn send_nmi(target: u64) {
    command(target, NMI);
}

/// Starts the CPU `target`, which waits or runs firmware's code, at `page`, below 1 MiB (SDM volume 3, "MP Initialization
/// Protocol Algorithm"); `running` tells when it has started. Returns whether it has.
pub fn start(target: u64, page: u64, running: impl Fn() -> bool) -> bool {
    command(target, INIT);
    timer::delay(10_000);
    // The second one is for CPUs that lost the first. A CPU that runs ignores it.
    for wait in [1_000, 1_000_000] {
        command(target, STARTUP | page >> 12);
        for _ in 0..wait / 10 {
            if running() {
                return true;
            }
            timer::delay(10);
        }
    }
    false
}

/// Whether an interrupt waits for the host that its priority lets through (SDM volume 3, "Acceptance of Interrupts"): the
/// highest bit of the request registers against the processor priority.
pub fn interrupt_pending() -> bool {
    // SAFETY: x2APIC mode is on; reading has no effect.
    let read = |register| unsafe { Msr::new(register).read() as u32 };
    let highest = (0..8).rev().find_map(|word| read(REQUESTED + word).checked_ilog2().map(|bit| word * 32 + bit));
    highest.is_some_and(|vector| vector >> 4 > read(PROCESSOR_PRIORITY) >> 4)
}

/// Does to this CPU's APIC what INIT does (SDM volume 3, "Local APIC State After Power-Up or Reset", "Local APIC State After
/// It Receives an INIT Reset"), as far as it is the host's to see: nothing in service, nothing enabled, the timer off.
pub fn reset() {
    // SAFETY: x2APIC mode is on; these registers are the host's, which does not run here until it starts the CPU again.
    unsafe {
        // The end of an interrupt is that of the highest one in service.
        for word in (0..8).rev() {
            for _ in 0..Msr::new(IN_SERVICE + word).read().count_ones() {
                Msr::new(END_OF_INTERRUPT).write(0);
            }
        }
        Msr::new(TASK_PRIORITY).write(0);
        Msr::new(TIMER_INITIAL_COUNT).write(0);
        // Software-disabled: all local vectors are masked. NMIs still arrive.
        Msr::new(SPURIOUS).write(0xff);
    }
}
