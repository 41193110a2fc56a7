//! Calls to the firmware (SMC #0; DEN0028 section 2, DEN0022).

use core::arch::asm;

/// Makes the call and returns x0.
///
/// # Safety
/// A call that starts a CPU must start it at code that can run with the MMU off.
pub unsafe fn smc(function: u64, a: u64, b: u64, c: u64) -> u64 {
    let result;
    // SAFETY: firmware keeps x18 to x30 and all memory of ours (DEN0028 section 2.6); the rest is clobbered.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") function => result, inout("x1") a => _, inout("x2") b => _, inout("x3") c => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
            out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack)
        );
    }
    result
}

/// Calls that start no CPU.
pub fn call(function: u64, a: u64, b: u64, c: u64) -> u64 {
    // SAFETY: the callers in this crate pass only functions that start nothing; `host.rs` lists them.
    unsafe { smc(function, a, b, c) }
}

/// Switches this CPU off; it never runs the host.
pub fn cpu_off() -> ! {
    call(abi::psci::CPU_OFF, 0, 0, 0);
    loop {
        super::sysreg::instruction!("wfi");
    }
}

/// Switches the machine off from EL1, where PSCI is the hypervisor's.
pub fn system_off_from_el1() -> ! {
    // SAFETY: SYSTEM_OFF starts nothing and does not return where it is implemented.
    unsafe { asm!("hvc #0", inout("x0") abi::psci::SYSTEM_OFF => _, options(nostack)) };
    loop {
        super::sysreg::instruction!("wfi");
    }
}

/// Switches the machine off.
pub fn system_off() -> ! {
    call(abi::psci::SYSTEM_OFF, 0, 0, 0);
    loop {
        super::sysreg::instruction!("wfi");
    }
}
