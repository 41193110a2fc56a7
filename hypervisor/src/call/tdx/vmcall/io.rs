//! `Instruction.IO`: a port access, which the host answers.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use crate::vcpu::Reason;
use abi::tdx::{register::*, vmcall};

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let size @ (1 | 2 | 4) = shown.get(R12) else { return shown.refuse(call, vmcall::INVALID_OPERAND) };
    let Ok(port) = u16::try_from(shown.get(R14)) else { return shown.refuse(call, vmcall::INVALID_OPERAND) };
    let bytes = size as u32;
    match shown.get(R13) {
        0 => shown.device(call, bytes, None, Reason::PortRead(port, bytes)),
        1 => {
            let value = shown.get(R15) & (u64::MAX >> (64 - 8 * size));
            shown.device(call, bytes, Some(value), Reason::PortWrite(port, bytes, value as u32))
        }
        _ => shown.refuse(call, vmcall::INVALID_OPERAND),
    }
}
