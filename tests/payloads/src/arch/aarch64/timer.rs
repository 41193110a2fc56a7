//! The generic timer (Arm ARM D12): the virtual counter and the EL1 virtual timer.

use core::arch::asm;

/// The virtual timer's interrupt (PPI 11).
pub const INTID: u32 = 27;

/// CNTVCT_EL0, in ticks.
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter; the barrier keeps it in program order.
    unsafe { asm!("isb", "mrs {0}, cntvct_el0", out(reg) ticks, options(nostack, preserves_flags)) };
    ticks
}

/// Ticks in a second.
pub fn frequency() -> u64 {
    let hertz: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {0}, cntfrq_el0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
    hertz
}

/// Ticks in `milliseconds`.
pub fn ticks(milliseconds: u64) -> u64 {
    frequency() / 1000 * milliseconds
}

/// Makes the timer fire at `deadline`, in ticks of [`now`].
pub fn fire_at(deadline: u64) {
    // SAFETY: the timer raises an interrupt only, which the program handles or polls for.
    unsafe {
        asm!("msr cntv_cval_el0, {0}", "msr cntv_ctl_el0, {1}", "isb", in(reg) deadline, in(reg) 1u64, options(nostack))
    };
}

/// Switches the timer off.
pub fn stop() {
    // SAFETY: as above.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb", options(nostack)) };
}

/// Busy-waits.
pub fn delay(milliseconds: u64) {
    let end = now() + ticks(milliseconds);
    while now() < end {
        core::hint::spin_loop();
    }
}
