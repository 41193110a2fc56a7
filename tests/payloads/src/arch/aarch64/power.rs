//! Power, under the names that both architectures have.

use super::psci;
use crate::percpu;

pub use psci::{system_off as off, system_reset as reset};

/// Switches the calling CPU off; returns only when refused.
pub fn cpu_off() {
    psci::cpu_off();
}

/// Whether starting CPU `index`, which runs, is refused.
pub fn refuses_second_start(index: usize) -> bool {
    let again = psci::cpu_on(percpu::affinity(index), super::secondary_entry(), 0);
    again.is_err_and(|code| code == abi::psci::ALREADY_ON || code == abi::psci::ON_PENDING)
}

/// Whether CPU `index` is off.
pub fn is_off(index: usize) -> bool {
    psci::psci(abi::psci::AFFINITY_INFO, percpu::affinity(index), 0, 0) == abi::psci::AFFINITY_OFF
}
