//! The time-stamp counter and the local APIC's TSC-deadline timer.

use super::cpu::{self, inb, outb};
use super::tdcall;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// The timer's vector.
pub const INTID: u32 = 0xf0;
/// IA32_TSC_DEADLINE.
pub const DEADLINE: u32 = 0x6e0;

static FREQUENCY: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter, in ticks.
pub fn now() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter; the fence keeps it in program order.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Ticks in a second.
pub fn frequency() -> u64 {
    match FREQUENCY.load(Ordering::Relaxed) {
        0 => {
            let hertz = find_frequency();
            FREQUENCY.store(hertz, Ordering::Relaxed);
            hertz
        }
        hertz => hertz,
    }
}

/// A guest is told by CPUID; the host measures, as emulators' leaves need not fit their clocks.
fn find_frequency() -> u64 {
    let told = cpu::cpuid(0x15, 0);
    match u64::from(told.ecx) * u64::from(told.ebx) / u64::from(told.eax.max(1)) {
        hertz if hertz != 0 && tdcall::present() => hertz,
        _ => measure(),
    }
}

/// Ticks while channel 2 of the PC's 8254 counts a hundredth of a second down.
fn measure() -> u64 {
    const HERTZ: u64 = 1_193_182;
    let count = HERTZ / 100;
    let gate = inb(0x61) & !2 | 1;
    outb(0x61, gate & !1);
    outb(0x43, 0xb0);
    outb(0x42, count as u8);
    outb(0x42, (count >> 8) as u8);
    outb(0x61, gate);
    let start = now();
    // On a machine without the channel the bit may never come up.
    let mut patience = 10_000_000u32;
    while inb(0x61) & 1 << 5 == 0 && patience > 0 {
        patience -= 1;
    }
    (now() - start) * 100
}

/// Ticks in `milliseconds`.
pub fn ticks(milliseconds: u64) -> u64 {
    frequency() / 1000 * milliseconds
}

/// Makes the timer fire at `deadline`, in ticks of [`now`].
pub fn fire_at(deadline: u64) {
    // Zero would switch it off.
    cpu::wrmsr(DEADLINE, deadline.max(1));
}

/// Switches the timer off.
pub fn stop() {
    cpu::wrmsr(DEADLINE, 0);
}

/// Busy-waits.
pub fn delay(milliseconds: u64) {
    let end = now() + ticks(milliseconds);
    while now() < end {
        core::hint::spin_loop();
    }
}
