//! `VM_RECLAIM`.

use super::{Call, DONE, MORE, Reply};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use guestmem::{Budget, Progress};
use spin::Once;

/// See [`host::VM_RECLAIM`].
pub const CALL: Call = Call {
    number: host::VM_RECLAIM,
    name: "VM_RECLAIM",
    arguments: &["handle"],
    results: &[],
    summary: "Wipes and gives back what a destroyed VM owned, a part at a time; in the end the handle is gone.",
    run,
};

/// Frames given back in one call: keeps it within the published bound.
const FRAMES: u64 = 16;

fn run(postern: &Postern, [handle, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let mut slot = postern.vms.exclusive(handle)?;
    let vm = slot.as_mut().ok_or(Refused::NoSuch("VM"))?;
    vm.expect(vm_state::DYING, "the VM is not destroyed")?;
    for vcpu in &mut vm.vcpus {
        let Some((frame, run_page)) = vcpu.get().map(|page| (page.frame, page.run_page)) else { continue };
        // The lock on the slot says that nobody uses the reference; from here on nobody can get it.
        *vcpu = Once::new();
        for result in [postern.core.unpin(run_page), postern.core.free_meta(&vm.memory, frame)] {
            if let Err(refusal) = result {
                log::error!("a vCPU's frame does not go back: {refusal:?}");
            }
        }
        return Ok(MORE);
    }
    match postern.core.reclaim(&vm.memory, &mut Budget::new(FRAMES)) {
        Progress::More => Ok(MORE),
        Progress::Done => {
            postern.vms.retire(handle);
            *slot = None;
            Ok(DONE)
        }
    }
}
