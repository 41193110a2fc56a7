//! `Instruction.CPUID`: the leaves that belong to a VMM, all zero. The instruction itself is answered by the machine
//! below, for every leaf, and never raises an exception.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use abi::tdx::{register::*, vmcall};

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    if !vmcall::CPUID_LEAVES.contains(&shown.get(R12)) {
        return shown.refuse(call, vmcall::INVALID_OPERAND);
    }
    [R12, R13, R14, R15].into_iter().for_each(|register| shown.set(register, 0));
    shown.success()
}
