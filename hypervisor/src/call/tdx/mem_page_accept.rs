//! `TDG.MEM.PAGE.ACCEPT`: the guest's word that it knows of a private page, once for each time that it was taken back.
//! What was there before stays untouched, and nothing is converted here.

use super::{Answer, Call, remedy};
use abi::tdx::{level, register::*, status};
use arch::machine::Vcpu;
use guestmem::{Acceptance, Gfn, Refusal, Size, Visibility};

/// One page, when it waits for this and nothing is in the way.
#[inline(always)]
pub fn quick(call: &Call<'_>, registers: &Vcpu) -> bool {
    // The page's level is 0.
    const { assert!(level::PAGE == 0) }
    let address = registers.x(RCX);
    address.is_multiple_of(abi::FRAME_SIZE) && call.postern.core.accept_ready(&call.vm.memory, Gfn::from_addr(address))
}

pub fn run(call: &Call<'_>, registers: &Vcpu) -> Answer {
    let (address, level) = (registers.x(RCX) & !level::MASK, registers.x(RCX) & level::MASK);
    let (size, bytes) = match level {
        level::PAGE => (Size::Page, abi::FRAME_SIZE),
        level::BLOCK => (Size::Block, abi::BLOCK_SIZE),
        _ => return Answer::invalid(RCX),
    };
    let Some(gfn) = call.vm.ram(address).filter(|_| address.is_multiple_of(bytes)) else {
        return Answer::invalid(RCX);
    };
    match call.postern.core.accept(&call.vm.memory, gfn, size) {
        Ok(Acceptance::Accepted) => Answer::SUCCESS,
        Ok(Acceptance::Already(size)) => Answer::Status(status::PAGE_ALREADY_ACCEPTED | level_of(size)),
        Ok(Acceptance::Smaller) => Answer::Status(status::PAGE_SIZE_MISMATCH | level::PAGE),
        Err(Refusal::OutOfRange) => Answer::invalid(RCX),
        Err(refusal) => remedy(call, refusal, address, Visibility::Private)
            .unwrap_or(Answer::Status(status::EPT_ENTRY_STATE_INCORRECT | RCX as u64)),
    }
}

const fn level_of(size: Size) -> u64 {
    match size {
        Size::Page => level::PAGE,
        Size::Block => level::BLOCK,
    }
}
