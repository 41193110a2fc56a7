//! `VM_DESTROY`.

use super::{Call, DONE, Reply};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use core::sync::atomic::Ordering;

/// See [`host::VM_DESTROY`].
pub const CALL: Call = Call {
    number: host::VM_DESTROY,
    name: "VM_DESTROY",
    arguments: &["handle"],
    results: &[],
    summary: "Makes sure that the VM never runs again. Running vCPUs leave at once.",
    run,
};

fn run(postern: &Postern, [handle, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.vms.with(handle, |vm| {
        if vm.state.swap(vm_state::DYING, Ordering::AcqRel) == vm_state::DYING {
            return Err(Refused::State("the VM is destroyed already"));
        }
        postern.core.kill(&vm.memory);
        vm.interrupt();
        Ok(DONE)
    })
}
