//! `VM_RECLAIM`.

use super::{Call, DONE, MORE, Reply};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use guestmem::{Budget, Progress};

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
const FRAMES: u64 = 6;

fn run(postern: &Postern, [handle, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let mut slot = postern.vms.exclusive(handle)?;
    let vm = slot.as_mut().ok_or(Refused::NoSuch("VM"))?;
    vm.expect(vm_state::DYING, "the VM is not destroyed")?;
    for vcpu in &mut vm.vcpus {
        // The lock on the slot says that nobody uses the reference; from here on nobody can get it, and the frame it
        // points to is wiped with the rest of the metadata.
        let Some(run_page) = core::mem::take(vcpu).get().map(|page| page.run_page) else { continue };
        if let Err(refusal) = postern.core.end_lend(run_page) {
            log::error!("a run page does not go back: {refusal:?}");
        }
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
