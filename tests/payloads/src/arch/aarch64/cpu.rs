//! Single instructions.

use core::arch::asm;

/// Where the image was loaded.
pub fn image_base() -> u64 {
    let base: u64;
    // SAFETY: only computes the address of a symbol.
    unsafe { asm!("adrp {0}, __image_start", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// Sets the address of the calling CPU's area, for [`crate::percpu`].
pub(crate) fn set_area(area: u64) {
    // SAFETY: TPIDR_EL1 is for software's use; nothing else uses it.
    unsafe { asm!("msr tpidr_el1, {0}", "isb", in(reg) area) };
}

/// What [`set_area`] has set.
pub(crate) fn area() -> u64 {
    let area: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {0}, tpidr_el1", out(reg) area, options(nomem, nostack, preserves_flags)) };
    area
}

/// Waits for an interrupt; returns at once when one is pending, masked or not.
pub fn wait_for_interrupt() {
    // SAFETY: WFI has no effect on the state of the program.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
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
    // SAFETY: the vectors are installed before any program code runs.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}

/// Keeps interrupts out.
pub fn mask_interrupts() {
    // SAFETY: masking cannot break anything.
    unsafe { asm!("msr daifset, #2", "isb", options(nostack)) };
}

/// Makes code that was written as data visible to instruction fetch, on all CPUs.
pub fn synchronise_code() {
    // SAFETY: barriers and an instruction cache invalidation change no state that a program can see.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack)) };
}

/// Full barrier.
pub fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) };
}

/// FAR_EL1: where the last abort was.
pub fn fault_address() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {0}, far_el1", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets what [`fault_address`] reads, until the next abort.
pub fn set_fault_address(value: u64) {
    // SAFETY: the register has no effect.
    unsafe { asm!("msr far_el1, {0}", "isb", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Affinity fields of the calling CPU's MPIDR.
pub fn affinity() -> u64 {
    let value: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {0}, mpidr_el1", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value & 0xff_00ff_ffff
}

/// Stops this CPU for good.
pub fn park() -> ! {
    mask_interrupts();
    loop {
        wait_for_interrupt();
    }
}
