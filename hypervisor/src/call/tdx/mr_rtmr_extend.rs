//! `TDG.MR.RTMR.EXTEND`: adds 48 bytes to one of the guest's own measurement registers.

use super::{Answer, Call, with_page, word_of};
use abi::tdx::{EXTEND_ALIGN, MEASUREMENT_SIZE, RTMRS, register::*};
use arch::machine::Vcpu;
use core::sync::atomic::Ordering::Relaxed;

#[inline(never)]
pub fn run(call: &Call<'_>, registers: &Vcpu) -> Answer {
    let (address, index) = (registers.x(RCX), registers.x(RDX));
    // Private memory only: what is measured must not change on the way.
    if !address.is_multiple_of(EXTEND_ALIGN) || address & call.vm.alias != 0 {
        return Answer::invalid(RCX);
    }
    let read = with_page(call, address, RCX, |words| {
        let mut data = [0; MEASUREMENT_SIZE];
        for (to, from) in data.chunks_exact_mut(8).zip(&words[word_of(address)..]) {
            to.copy_from_slice(&from.load(Relaxed).to_le_bytes());
        }
        data
    });
    let data = match read {
        Ok(data) => data,
        Err(answer) => return answer,
    };
    let Some(index) = usize::try_from(index).ok().filter(|index| *index < RTMRS) else {
        return Answer::invalid(RDX);
    };
    // Another vCPU has the lock for a moment.
    let Some(mut registers) = call.vm.extensible.try_lock() else { return Answer::Again };
    registers.extend(index, &data);
    Answer::SUCCESS
}
