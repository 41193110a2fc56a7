//! The test host on arm64.

pub mod machine;
pub mod platform;

use crate::bundle::Bundle;
use crate::endings::Ending;
use crate::siblings::Own;
use crate::vm::End;
use abi::run::exit;

/// What the settings want of the machine: nothing here.
pub fn prepare(_bundle: &Bundle) {}

/// Ends that only this architecture has, see [`crate::endings`].
pub const ENDINGS: &[Ending] =
    &[("aarch32", &[|end| matches!(end, End::Failed(_)), |end| matches!(end, End::Late | End::Off)])];

/// A guest switches itself off by a call to Postern.
pub const OWN_END: Own = Own { test: "off-while-others-run", exit: exit::SYSTEM_OFF, why: None };
