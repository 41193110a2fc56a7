//! The test host on x86-64.

pub mod machine;
pub mod platform;

use crate::bundle::Bundle;
use crate::endings::Ending;
use crate::siblings::Own;
use crate::vm::End;
use abi::run::{exit, failure};

/// What the settings want of the machine, before interrupts: `apic=mapped`.
pub fn prepare(bundle: &Bundle) {
    if bundle.config.get("apic") == Some("mapped") {
        payloads::apic::map();
    }
}

/// Ends that only this architecture has, see [`crate::endings`].
pub const ENDINGS: &[Ending] = &[
    ("triple-fault", &[|end| *end == End::Failed(failure::SHUTDOWN)]),
    ("fatal-error", &[|end| *end == End::Failed(failure::FATAL)]),
];

/// Powering off is between guest and host here, but Postern hears of fatal errors.
pub const OWN_END: Own = Own { test: "fatal-while-others-run", exit: exit::FAILED, why: Some(failure::FATAL) };
