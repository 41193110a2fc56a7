//! The time stamp counter (SDM volume 3, "Time-Stamp Counter"): Postern's only clock.

use super::frequency::{self, PIT_HZ, PM_TIMER_HZ};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use loader::BootError;
use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;

static FREQUENCY: AtomicU64 = AtomicU64::new(0);

/// Time stamp counter, in ticks of [`frequency`].
#[inline(always)]
pub fn now() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: RDTSC reads a counter, and clears the upper halves; CR4.TSD does not matter at CPL 0.
    unsafe { asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack, preserves_flags)) };
    high << 32 | low
}

/// Ticks a second.
pub fn frequency() -> u64 {
    FREQUENCY.load(Ordering::Relaxed)
}

/// Waits; 32 bits of microseconds are more than an hour.
pub fn delay(microseconds: u32) {
    let start = now();
    let ticks = frequency() / 1_000_000 * u64::from(microseconds);
    while now().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// Finds the frequency out; `pm_timer` is the port of ACPI's timer.
///
/// # Errors
/// The CPU does not say and there is no clock to measure with.
pub fn init(pm_timer: Option<u16>) -> Result<(), BootError> {
    let cpu = CpuId::new();
    let crystal = cpu.get_tsc_info().map(|it| (it.denominator(), it.numerator(), it.nominal_frequency()));
    let base = cpu.get_processor_frequency_info().map_or(0, |it| it.processor_base_frequency());
    let measured = pm_timer.and_then(measure_with_pm_timer).or_else(measure_with_pit);
    let chosen = frequency::choose(crystal.and_then(frequency::from_crystal), measured, base);
    let chosen = chosen.ok_or(BootError::Cpu("no clock tells how fast the time stamp counter runs"))?;
    FREQUENCY.store(chosen, Ordering::Relaxed);
    Ok(())
}

fn measure_with_pm_timer(port: u16) -> Option<u64> {
    let mut port = Port::<u32>::new(port);
    // The upper byte may or may not count, so it is left out.
    // SAFETY: the description tables say that the timer is there; reading it has no effect.
    let mut clock = || u64::from(unsafe { port.read() } & 0xff_ffff);
    frequency::median(|| frequency::measure(&mut clock, now, 0xff_ffff, PM_TIMER_HZ))
}

/// Channel 2 of the 8254, whose gate is bit 0 of port 0x61 and whose output nobody listens to while bit 1 is clear.
fn measure_with_pit() -> Option<u64> {
    let (mut gate, mut command, mut channel) = (Port::<u8>::new(0x61), Port::<u8>::new(0x43), Port::<u8>::new(0x42));
    // SAFETY: these ports have had this meaning since the PC/AT; a machine without the device ignores them. The host runs
    // later and sets them itself.
    let before = unsafe {
        let before = gate.read();
        gate.write(before & !3 | 1);
        // Both bytes, mode 2: counts down from 65536 again and again.
        command.write(0xb4);
        channel.write(0);
        channel.write(0);
        before
    };
    let mut count = || {
        // SAFETY: as above: the count is latched, then read in two halves.
        let (low, high) = unsafe {
            command.write(0x80);
            (channel.read(), channel.read())
        };
        u64::from(!u16::from_le_bytes([low, high]))
    };
    let measured = frequency::median(|| frequency::measure(&mut count, now, 0xffff, PIT_HZ));
    // SAFETY: as above.
    unsafe { gate.write(before) };
    measured
}
