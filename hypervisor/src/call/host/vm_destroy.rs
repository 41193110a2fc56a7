//! `VM_DESTROY`.

use super::{Call, DONE, Reply};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use core::sync::atomic::Ordering;
use spin::Once;

/// See [`host::VM_DESTROY`].
pub const CALL: Call = Call {
    number: host::VM_DESTROY,
    name: "VM_DESTROY",
    arguments: &["handle"],
    results: &[],
    summary: "Makes sure that the VM never runs again. Running vCPUs leave at their next exit.",
    run,
};

fn run(postern: &Postern, [handle, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.vms.with(handle, |vm| {
        if vm.state.swap(vm_state::DYING, Ordering::AcqRel) == vm_state::DYING {
            return Err(Refused::State("the VM is destroyed already"));
        }
        postern.core.kill(&vm.memory);
        for page in vm.vcpus.iter().filter_map(Once::get) {
            page.kicked.store(true, Ordering::Release);
        }
        Ok(DONE)
    })
}
