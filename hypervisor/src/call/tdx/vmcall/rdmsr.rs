//! `Instruction.RDMSR`: none. The instruction itself is answered by the machine below, as far as there is an answer.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use abi::tdx::vmcall;

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    shown.refuse(call, vmcall::INVALID_OPERAND)
}
