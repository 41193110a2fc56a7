//! Single instructions.

use crate::percpu;
use core::arch::x86_64::{__cpuid_count, CpuidResult};
use core::arch::{asm, naked_asm};

/// IA32_GS_BASE (SDM volume 4, table 2-2).
const GS_BASE: u32 = 0xc000_0101;

/// Where the image was loaded.
pub fn image_base() -> u64 {
    let base: u64;
    // SAFETY: only computes the address of a symbol.
    unsafe { asm!("lea {0}, [rip + __image_start]", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Reads a model-specific register that exists.
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading a register changes nothing; one that does not exist raises #GP, which is reported.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register. The caller has to know what that does.
pub fn wrmsr(index: u32, value: u64) {
    // SAFETY: the program owns its CPU; callers write registers whose effect it expects.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
}

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: port access does not touch memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte to a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a 16-bit port.
pub fn inw(port: u16) -> u16 {
    let value: u16;
    // SAFETY: as for `inb`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
    value
}

/// Reads four bytes from a port.
pub fn inl(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes four bytes to a port.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes two bytes to a port.
pub fn outw(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Sets the address of the calling CPU's area, for [`crate::percpu`].
pub(crate) fn set_area(area: u64) {
    wrmsr(GS_BASE, area);
}

/// What [`set_area`] has set.
pub(crate) fn area() -> u64 {
    let area: u64;
    // SAFETY: GS points to the area, which holds its own address.
    unsafe { asm!("mov {0}, gs:[{1}]", out(reg) area, const percpu::OWN, options(readonly, nostack, preserves_flags)) };
    area
}

/// Waits for an interrupt, which is taken; returns at once when one is pending, masked or not. Called with interrupts masked, so
/// that STI lets them in only after HLT has begun; where one comes just before it all the same, `exception` ends the wait.
#[unsafe(naked)]
pub extern "C" fn wait_for_interrupt() {
    naked_asm!("pushfq", "sti", ".global payload_sleep", "payload_sleep: hlt", "popfq", "ret")
}

/// Sleeps, interrupts being let in, until `condition` holds: no interrupt gets lost between the check and the sleep.
pub fn sleep_until(condition: impl Fn() -> bool) {
    loop {
        mask_interrupts();
        let done = condition();
        if !done {
            wait_for_interrupt();
        }
        unmask_interrupts();
        if done {
            return;
        }
    }
}

/// Lets interrupts in.
pub fn unmask_interrupts() {
    // SAFETY: the handlers are installed before any program code runs.
    unsafe { asm!("sti", "nop", options(nostack)) };
}

/// Keeps interrupts out.
pub fn mask_interrupts() {
    // SAFETY: masking cannot break anything.
    unsafe { asm!("cli", options(nostack)) };
}

/// Makes code that was written as data visible to instruction fetch: it is, but for what this CPU has fetched already.
pub fn synchronise_code() {
    cpuid(0, 0);
}

/// Full barrier.
pub fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// CR2: where the last page fault was.
pub fn fault_address() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {0}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets what [`fault_address`] reads, until the next page fault.
pub fn set_fault_address(value: u64) {
    // SAFETY: the register has no effect.
    unsafe { asm!("mov cr2, {0}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// The calling CPU's x2APIC ID.
pub fn affinity() -> u64 {
    super::apic::id()
}

/// Stops this CPU for good.
pub fn park() -> ! {
    loop {
        // SAFETY: nothing is to happen any more; a non-maskable interrupt comes back here.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}
