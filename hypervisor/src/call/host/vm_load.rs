//! `VM_LOAD`.

use super::{Call, DONE, MORE, Reply, frame};
use crate::measure::CHUNKS;
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use guestmem::Progress;

/// See [`host::VM_LOAD`].
pub const CALL: Call = Call {
    number: host::VM_LOAD,
    name: "VM_LOAD",
    arguments: &["handle", "physical address", "guest physical address"],
    results: &[],
    summary: "Gives one frame with its content, measured after the host has lost it; only before VM_SEAL.",
    run,
};

fn run(postern: &Postern, [handle, address, ipa, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let frame = frame(address)?;
    if !ipa.is_multiple_of(abi::FRAME_SIZE) {
        return Err(Refused::Invalid("the guest address is no multiple of 4 KiB"));
    }
    postern.vms.with(handle, |vm| {
        let gfn = vm.ram(ipa).ok_or(Refused::Core(guestmem::Refusal::OutOfRange))?;
        // The lock orders loads among themselves and against sealing, so the state cannot change under it.
        let mut launch = vm.launch.try_lock().ok_or(Refused::Busy("measurement"))?;
        vm.expect(vm_state::NEW, "the VM is sealed: content can no longer be added")?;
        let mut measure = |words: &_, chunk| launch.frame(ipa, words, chunk);
        match postern.core.load(&vm.memory, frame, gfn, CHUNKS, &mut measure)? {
            Progress::Done => Ok(DONE),
            Progress::More => Ok(MORE),
        }
    })
}
