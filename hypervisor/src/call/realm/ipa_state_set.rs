//! `RSI_IPA_STATE_SET`: makes a range private (RAM) or shared (EMPTY), as far as one call may go; the guest comes again
//! from the address in x1.

use super::input_error;
use crate::call::guest::{Answer, Call, remedy};
use abi::rsi;
use guestmem::{Budget, Gfn, Refusal, Visibility};

/// Frames converted in one call: keeps it within the published bound.
const FRAMES: u64 = 12;
/// `RSI_REJECT` in x2.
const REJECT: u64 = 1;

pub fn run(call: &Call<'_>) -> Answer {
    let [base, top, ripas, ..] = call.arguments;
    let to = match ripas {
        rsi::RIPAS_EMPTY => Visibility::Shared,
        rsi::RIPAS_RAM => Visibility::Private,
        _ => return input_error(call, "IPA_STATE_SET", Refusal::WrongVisibility),
    };
    let aligned = (base | top).is_multiple_of(abi::FRAME_SIZE);
    let inside = top > base && call.vm.ram(base).is_some() && call.vm.ram(top - 1).is_some();
    if !aligned || !inside {
        return input_error(call, "IPA_STATE_SET", Refusal::OutOfRange);
    }
    let range = Gfn::from_addr(base)..Gfn::from_addr(top);
    match call.postern.core.convert(&call.vm.memory, range, to, &mut Budget::new(FRAMES)) {
        Ok(next) => Answer::Values([rsi::SUCCESS, next.addr(), rsi::ACCEPT, 0]),
        // The host holds the first frame: the guest is told, and decides what that means to it.
        Err(Refusal::Pinned) => {
            crate::call::guest::refused(call.postern, call.vm, "IPA_STATE_SET", Refusal::Pinned);
            Answer::Values([rsi::SUCCESS, base, REJECT, 0])
        }
        Err(refusal) => remedy(refusal, base, to).unwrap_or_else(|| input_error(call, "IPA_STATE_SET", refusal)),
    }
}
