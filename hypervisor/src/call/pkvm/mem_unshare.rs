//! `MEM_UNSHARE`: takes one granule back. It comes back wiped, after the host's translation is gone everywhere.

use super::{granule, refuse};
use crate::Postern;
use crate::call::guest::{Answer, remedy};
use crate::vm::Vm;
use guestmem::{Refusal, Visibility};

#[inline]
pub fn run(postern: &Postern, vm: &Vm, arguments: [u64; 3]) -> Answer {
    let Some(gfn) = granule(vm, arguments) else {
        return refuse(postern, vm, "MEM_UNSHARE", Refusal::OutOfRange);
    };
    match postern.core.unshare(&vm.memory, gfn) {
        Ok(()) => Answer::status(0),
        // Nothing there is nothing shared: no exit to the host (Linux hypercalls.rst).
        Err(Refusal::Absent) => refuse(postern, vm, "MEM_UNSHARE", Refusal::Absent),
        Err(refusal) => remedy(refusal, gfn.addr(), Visibility::Private)
            .unwrap_or_else(|| refuse(postern, vm, "MEM_UNSHARE", refusal)),
    }
}
