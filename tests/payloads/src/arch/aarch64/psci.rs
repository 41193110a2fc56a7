//! PSCI (Arm DEN0022) through the conduit that the device tree names.

use super::smccc::{self, call};
use core::sync::atomic::{AtomicBool, Ordering};

static BY_SMC: AtomicBool = AtomicBool::new(true);

pub(super) fn set_conduit(smc: bool) {
    BY_SMC.store(smc, Ordering::Relaxed);
}

/// Whether the conduit is SMC; HVC otherwise.
pub fn by_smc() -> bool {
    BY_SMC.load(Ordering::Relaxed)
}

/// A PSCI or SMCCC call: x0 of the answer.
pub fn psci(function: u64, a: u64, b: u64, c: u64) -> i64 {
    let arguments = call(function, a, b, c);
    let answer = if by_smc() { smccc::smc(arguments) } else { smccc::hvc(arguments) };
    answer[0] as i64
}

/// `CPU_ON`: `context` arrives in x0.
///
/// # Errors
/// The PSCI code.
pub fn cpu_on(affinity: u64, entry: u64, context: u64) -> Result<(), i64> {
    match psci(abi::psci::CPU_ON, affinity, entry, context) {
        abi::psci::SUCCESS => Ok(()),
        code => Err(code),
    }
}

/// `CPU_OFF`; returns only when refused.
pub fn cpu_off() -> i64 {
    psci(abi::psci::CPU_OFF, 0, 0, 0)
}

/// `SYSTEM_OFF`.
pub fn system_off() -> ! {
    psci(abi::psci::SYSTEM_OFF, 0, 0, 0);
    super::cpu::park()
}

/// `SYSTEM_RESET`.
pub fn system_reset() -> ! {
    psci(abi::psci::SYSTEM_RESET, 0, 0, 0);
    super::cpu::park()
}
