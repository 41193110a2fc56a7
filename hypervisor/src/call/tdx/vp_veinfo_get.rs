//! `TDG.VP.VEINFO.GET`: what the last virtualization exception was about; makes room for the next.

use super::Answer;
use abi::tdx::{register::*, status};
use arch::VeInfo;
use arch::machine::Vcpu;

#[inline(never)]
pub fn run(registers: &mut Vcpu) -> Answer {
    let taken = registers.take_ve();
    let VeInfo { reason, qualification, gla, gpa, length, info } = taken.unwrap_or_default();
    registers.set_x(RCX, reason.into());
    registers.set_x(RDX, qualification);
    registers.set_x(R8, gla);
    registers.set_x(R9, gpa);
    registers.set_x(R10, u64::from(info) << 32 | u64::from(length));
    Answer::Status(if taken.is_some() { status::SUCCESS } else { status::NO_VALID_VE_INFO })
}
