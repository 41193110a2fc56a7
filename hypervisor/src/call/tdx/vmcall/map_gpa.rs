//! `MapGPA`: makes a range of RAM shared, when the address has the shared bit, or private, as far as one call may go. What
//! becomes private is lost to the host at once, and waits for the guest to accept it.

use super::Shown;
use crate::call::tdx::{Answer, Call, remedy};
use abi::tdx::{register::*, vmcall};
use arch::machine::Vcpu;
use guestmem::{Budget, Gfn, Refusal, Visibility};

/// Frames converted in one call: keeps it within the published bound.
const FRAMES: u64 = 12;

/// One page, by registers that are all shown, when there is nothing in the way.
#[inline(always)]
pub fn quick(call: &Call<'_>, registers: &Vcpu) -> bool {
    const NEEDED: u64 = 1 << R10 | 1 << R11 | 1 << R12 | 1 << R13;
    let asked = registers.x(RCX) & (vmcall::FORBIDDEN | NEEDED) == NEEDED
        && registers.x(R11) == vmcall::MAP_GPA
        && registers.x(R13) == abi::FRAME_SIZE
        && registers.x(R10) == 0;
    let start = registers.x(R12);
    if !(asked && start.is_multiple_of(abi::FRAME_SIZE)) {
        return false;
    }
    let half = start & call.vm.alias;
    let to = if half == 0 { Visibility::Private } else { Visibility::Shared };
    // R10 is 0 already.
    const { assert!(vmcall::SUCCESS == 0) }
    call.postern.core.convert_ready(&call.vm.memory, Gfn::from_addr(start ^ half), to)
}

pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let (start, size) = (shown.get(R12), shown.get(R13));
    let half = start & call.vm.alias;
    // All of it in one half: RAM is below the bit that selects that.
    if !call.vm.is_ram(start ^ half, size) {
        return shown.refuse_at(call, vmcall::INVALID_OPERAND, start);
    }
    if !(start | size).is_multiple_of(abi::FRAME_SIZE) {
        return shown.refuse_at(call, vmcall::ALIGN_ERROR, start);
    }
    let to = if half == 0 { Visibility::Private } else { Visibility::Shared };
    let (first, end) = (Gfn::from_addr(start ^ half), Gfn::from_addr((start ^ half) + size));
    match call.postern.core.convert(&call.vm.memory, first..end, to, &mut Budget::new(FRAMES)) {
        Ok(next) if next == end => shown.success(),
        Ok(next) => {
            shown.set(R10, vmcall::RETRY);
            shown.set(R11, next.addr() | half);
            Answer::SUCCESS
        }
        // The host holds the first frame: the guest is told, and decides what that means to it.
        Err(Refusal::Pinned) => shown.refuse_at(call, vmcall::GPA_INUSE, start),
        // Absent: what is not there cannot be taken back, so the host gives it first, shared as it was.
        Err(refusal) => remedy(call, refusal, first.addr(), Visibility::Shared)
            .unwrap_or_else(|| shown.refuse_at(call, vmcall::INVALID_OPERAND, start)),
    }
}
