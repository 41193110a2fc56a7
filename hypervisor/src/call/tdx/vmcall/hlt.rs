//! `Instruction.HLT`: waits for an interrupt. Linux calls with interrupts off and switches them on afterwards, so what
//! counts is that one waits, not that it can be taken.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use crate::vcpu::Reason;

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    if shown.registers.is_idle(&call.vm.arch.0) { shown.success_then(call, Reason::Wait) } else { shown.success() }
}
