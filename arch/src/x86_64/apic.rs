//! The local APIC (SDM volume 3, "Advanced Programmable Interrupt Controller"). Postern and the host share it, in xAPIC mode,
//! whose registers are a page of memory, until the host switches to x2APIC mode, or from the start in that mode if firmware
//! has switched. The modes of CPUs may differ: they reach each other all the same as long as identifiers have 8 bits.

use super::xapic::{ENABLED, PAGE, X2APIC};
use super::timer;
use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};
use loader::BootError;
use x86_64::registers::model_specific::Msr;

const APIC_BASE: u32 = 0x1b;
/// Where the page is, in IA32_APIC_BASE.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Registers are numbered: n is model-specific register 0x800 + n, or at byte 16 n of the page.
const FIRST: u32 = 0x800;
const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const PROCESSOR_PRIORITY: u32 = 0x0a;
const END_OF_INTERRUPT: u32 = 0x0b;
const SPURIOUS: u32 = 0x0f;
const IN_SERVICE: u32 = 0x10;
const REQUESTED: u32 = 0x20;
const COMMAND: u32 = 0x30;
const DESTINATION: u32 = 0x31;
const TIMER_INITIAL_COUNT: u32 = 0x38;
/// Of the command register in xAPIC mode: the last one has not left yet.
const PENDING: u32 = 1 << 12;
/// How often that is looked at. A command leaves within microseconds.
const LOOKS: u32 = 4096;
/// The highest identifier that xAPIC mode can name.
const MAPPED_ID_MAX: u64 = 254;

/// Delivery modes of the interrupt command register, level asserted.
const INIT: u32 = 5 << 8 | 1 << 14;
const STARTUP: u32 = 6 << 8 | 1 << 14;
const NMI: u32 = 4 << 8 | 1 << 14;

/// How many CPUs are in xAPIC mode. While none is, nobody asks in which mode this one is.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

fn base() -> Msr {
    Msr::new(APIC_BASE)
}

/// Switches the APIC on, in the mode that firmware has left it in.
///
/// # Errors
/// Firmware has moved the page, which Postern keeps from the host where it is after a reset.
pub fn enable() -> Result<(), BootError> {
    let value = read_base();
    if value & ADDRESS != PAGE {
        return Err(BootError::Cpu("firmware has moved the local APIC away from 0xfee00000: update the firmware"));
    }
    if value & X2APIC == 0 {
        MAPPED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: it is on already, or nobody uses its registers yet.
        unsafe { base().write(value | ENABLED) };
    }
    Ok(())
}

/// The same on another CPU than the first, which goes on in the first one's mode if that is x2APIC mode.
///
/// # Errors
/// As for [`enable`].
pub fn enable_other() -> Result<(), BootError> {
    let value = read_base();
    if MAPPED.load(Ordering::Relaxed) == 0 && value & X2APIC == 0 {
        // SAFETY: nobody uses its registers yet.
        unsafe {
            base().write(value | ENABLED);
            base().write(value | ENABLED | X2APIC);
        }
    }
    enable()
}

/// Whether xAPIC mode can name these identifiers. If not, all CPUs have to be in x2APIC mode.
pub fn can_name(ids: &[u64]) -> bool {
    ids.iter().all(|id| *id <= MAPPED_ID_MAX)
}

/// IA32_APIC_BASE.
pub fn read_base() -> u64 {
    // SAFETY: reading has no effect.
    unsafe { base().read() }
}

/// Whether this CPU is in xAPIC mode.
#[inline]
pub fn is_mapped() -> bool {
    MAPPED.load(Ordering::Relaxed) != 0 && read_base() & X2APIC == 0
}

/// Puts this CPU, which is in xAPIC mode, into x2APIC mode, which it has, and where it stays.
pub fn leave_page() {
    // SAFETY: from xAPIC mode.
    unsafe { base().write(read_base() | ENABLED | X2APIC) };
    MAPPED.fetch_sub(1, Ordering::Relaxed);
}

#[inline]
fn at(register: u32) -> *mut u32 {
    (PAGE + u64::from(register) * 16) as *mut u32
}

/// Reads a register of the page. Only in xAPIC mode.
pub fn read_mapped(register: u32) -> u32 {
    // SAFETY: `enable` has found the page here, and it is mapped uncacheable; no register changes by being read.
    unsafe { at(register).read_volatile() }
}

/// Writes a register of the page. Only in xAPIC mode.
///
/// # Safety
/// The register is the host's, and the value does not send anything, or something that it may send.
pub unsafe fn write_mapped(register: u32, value: u32) {
    // SAFETY: as above, and the caller's promise.
    unsafe { at(register).write_volatile(value) };
}

/// Reads a register in x2APIC mode.
fn read_msr(register: u32) -> u32 {
    // SAFETY: x2APIC mode is on; reading has no effect.
    unsafe { Msr::new(FIRST + register).read() as u32 }
}

fn read(register: u32) -> u32 {
    if is_mapped() { read_mapped(register) } else { read_msr(register) }
}

/// # Safety
/// As for [`write_mapped`].
unsafe fn write(register: u32, value: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        match is_mapped() {
            true => write_mapped(register, value),
            false => Msr::new(FIRST + register).write(value.into()),
        }
    }
}

/// This CPU's identifier.
pub fn id() -> u64 {
    let value = read(ID);
    u64::from(if is_mapped() { value >> 24 } else { value })
}

/// Sends a command by the page's registers, whose upper half is `high`. Only in xAPIC mode.
///
/// # Safety
/// It is one of Postern's, or one that the host may send.
pub unsafe fn send_mapped(high: u32, low: u32) {
    // Bounded: should it stick, the next one takes its place.
    let _ = (0..LOOKS).find(|_| read_mapped(COMMAND) & PENDING == 0);
    // Writes to uncacheable memory come after all earlier stores, which the target is to see (SDM volume 3, "Memory
    // Ordering").
    // SAFETY: the caller's promise.
    unsafe {
        write_mapped(DESTINATION, high);
        write_mapped(COMMAND, low);
    }
}

/// Whether the last command has left. Only in xAPIC mode.
pub fn pending_mapped() -> u32 {
    read_mapped(COMMAND) & PENDING
}

fn command(target: u64, mode: u32) {
    if is_mapped() {
        // SAFETY: one of the commands above. `can_name` has said that the identifier fits.
        return unsafe { send_mapped((target as u32) << 24, mode) };
    }
    // A write to an x2APIC register does not wait for earlier stores, which the target is to see (SDM volume 3, "MSR
    // Access in x2APIC Mode").
    // SAFETY: fences, then a command that is sent at once: in x2APIC mode there is no delivery status to wait for.
    unsafe {
        asm!("mfence", "lfence", options(nostack, preserves_flags));
        Msr::new(FIRST + COMMAND).write(target << 32 | u64::from(mode));
    }
}

/// Sends an NMI to the CPU with identifier `target`.
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
        command(target, STARTUP | (page >> 12) as u32);
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
    if is_mapped() { is_one_pending(read_mapped) } else { is_one_pending(read_msr) }
}

#[inline]
fn is_one_pending(read: impl Fn(u32) -> u32) -> bool {
    let highest = (0..8).rev().find_map(|word| read(REQUESTED + word).checked_ilog2().map(|bit| word * 32 + bit));
    highest.is_some_and(|vector| vector >> 4 > read(PROCESSOR_PRIORITY) >> 4)
}

/// Does to this CPU's APIC what INIT does (SDM volume 3, "Local APIC State After Power-Up or Reset", "Local APIC State After
/// It Receives an INIT Reset"), as far as it is the host's to see: nothing in service, nothing enabled, the timer off.
pub fn reset() {
    // SAFETY: these registers are the host's, which does not run here until it starts the CPU again or goes on with an APIC
    // that it has switched off.
    unsafe {
        // The end of an interrupt is that of the highest one in service.
        for word in (0..8).rev() {
            for _ in 0..read(IN_SERVICE + word).count_ones() {
                write(END_OF_INTERRUPT, 0);
            }
        }
        write(TASK_PRIORITY, 0);
        write(TIMER_INITIAL_COUNT, 0);
        // Software-disabled: all local vectors are masked. NMIs still arrive.
        write(SPURIOUS, 0xff);
    }
}
