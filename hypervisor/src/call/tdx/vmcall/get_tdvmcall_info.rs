//! `GetTdVmCallInfo`: which sub-functions there are.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use abi::tdx::{register::*, vmcall, vmcall::optional};

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let bits = match shown.get(R12) {
        // All that every VMM has.
        0 => 0,
        1 => optional::GET_QUOTE | optional::SETUP_EVENT_NOTIFY,
        _ => return shown.refuse(call, vmcall::INVALID_OPERAND),
    };
    shown.set(R11, bits);
    [R12, R13, R14].into_iter().for_each(|register| shown.set(register, 0));
    shown.success()
}
