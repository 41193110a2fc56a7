//! `RSI_IPA_STATE_SET`: makes a range private (RAM) or shared (EMPTY), as far as one call may go; the guest comes again
//! from the address in x1.

use super::input_error;
use crate::Postern;
use crate::call::guest::{Answer, Call, remedy};
use crate::vm::Vm;
use abi::rsi;
use core::ops::Range;
use guestmem::{Budget, Gfn, Refusal, Visibility};

/// Frames converted in one call: keeps it within the published bound.
const FRAMES: u64 = 12;
/// `RSI_REJECT` in x2.
const REJECT: u64 = 1;

/// One page, when that succeeds.
#[inline]
pub fn quick(postern: &Postern, vm: &Vm, arguments: [u64; 3]) -> Option<[u64; 4]> {
    let (range, to) = decode(vm, arguments).ok()?;
    let done = range.end.since(range.start) == 1 && postern.core.convert_ready(&vm.memory, range.start, to);
    done.then_some([rsi::SUCCESS, range.end.addr(), rsi::ACCEPT, 0])
}

/// What is to be converted, and what to.
#[inline]
fn decode(vm: &Vm, [base, top, ripas]: [u64; 3]) -> Result<(Range<Gfn>, Visibility), Refusal> {
    let to = match ripas {
        rsi::RIPAS_EMPTY => Visibility::Shared,
        rsi::RIPAS_RAM => Visibility::Private,
        _ => return Err(Refusal::WrongVisibility),
    };
    let aligned = (base | top).is_multiple_of(abi::FRAME_SIZE);
    let inside = top > base && vm.ram(base).is_some() && vm.ram(top - 1).is_some();
    if aligned && inside { Ok((Gfn::from_addr(base)..Gfn::from_addr(top), to)) } else { Err(Refusal::OutOfRange) }
}

pub fn run(call: &Call<'_>) -> Answer {
    let [base, top, ripas, ..] = call.arguments;
    let (range, to) = match decode(call.vm, [base, top, ripas]) {
        Ok(wanted) => wanted,
        Err(refusal) => return input_error(call, "IPA_STATE_SET", refusal),
    };
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
