//! `#VE.RequestMMIO`: a device access in the shared half outside RAM, which the host answers.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use crate::vcpu::Reason;
use abi::tdx::{register::*, vmcall};

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let size @ (1 | 2 | 4 | 8) = shown.get(R12) else { return shown.refuse(call, vmcall::INVALID_OPERAND) };
    let alias = call.vm.alias;
    let (address, shared) = (shown.get(R14) & !alias, shown.get(R14) & alias != 0);
    let crosses = address % abi::FRAME_SIZE + size > abi::FRAME_SIZE;
    if !shared || address >= alias || crosses || call.vm.ram(address).is_some() {
        return shown.refuse(call, vmcall::INVALID_OPERAND);
    }
    let bytes = size as u32;
    match shown.get(R13) {
        0 => shown.device(call, bytes, None, Reason::MmioRead(address, bytes)),
        1 => {
            let value = shown.get(R15) & (u64::MAX >> (64 - 8 * size));
            shown.device(call, bytes, Some(value), Reason::MmioWrite(address, bytes, value))
        }
        _ => shown.refuse(call, vmcall::INVALID_OPERAND),
    }
}
