//! `VM_DONATE`.

use super::{Call, DONE, MORE, Reply, frame};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use core::sync::atomic::Ordering;
use guestmem::{Budget, Progress, Size};

/// See [`host::VM_DONATE`].
pub const CALL: Call = Call {
    number: host::VM_DONATE,
    name: "VM_DONATE",
    arguments: &["handle", "physical address", "guest physical address", "frames: 1 or 512"],
    results: &[],
    summary: "Gives memory to a VM; it arrives zeroed, private or shared as the guest wants that address.",
    run,
};

/// Frames wiped in one call: keeps it within the published bound.
const FRAMES: u64 = 32;

fn run(postern: &Postern, [handle, address, ipa, count, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let frame = frame(address)?;
    let size = match count {
        1 => Size::Page,
        512 => Size::Block,
        _ => return Err(Refused::Invalid("the number of frames: 1 or 512")),
    };
    let unit = size.frames() * abi::FRAME_SIZE;
    if !address.is_multiple_of(unit) || !ipa.is_multiple_of(unit) {
        return Err(Refused::Invalid("addresses of a block are multiples of 2 MiB"));
    }
    postern.vms.with(handle, |vm| {
        if vm.state.load(Ordering::Acquire) == vm_state::DYING {
            return Err(Refused::State("the VM is destroyed"));
        }
        let gfn = vm.ram(ipa).ok_or(Refused::Core(guestmem::Refusal::OutOfRange))?;
        match postern.core.donate(&vm.memory, frame, gfn, size, &mut Budget::new(FRAMES))? {
            Progress::Done => Ok(DONE),
            Progress::More => Ok(MORE),
        }
    })
}
