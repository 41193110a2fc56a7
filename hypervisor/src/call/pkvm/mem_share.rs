//! `MEM_SHARE`: opens one granule to the host. It arrives wiped.

use super::{granule, refuse};
use crate::Postern;
use crate::call::guest::{Answer, remedy};
use crate::vm::Vm;
use guestmem::{Refusal, Visibility};

#[inline]
pub fn run(postern: &Postern, vm: &Vm, arguments: [u64; 3]) -> Answer {
    let Some(gfn) = granule(vm, arguments) else {
        return refuse(postern, vm, "MEM_SHARE", Refusal::OutOfRange);
    };
    match postern.core.share(&vm.memory, gfn) {
        Ok(()) => Answer::status(0),
        Err(refusal) => remedy(refusal, gfn.addr(), Visibility::Private)
            .unwrap_or_else(|| refuse(postern, vm, "MEM_SHARE", refusal)),
    }
}
