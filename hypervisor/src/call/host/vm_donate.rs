//! `VM_DONATE`.

use super::{Call, MORE, Reply, done, frame};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use core::sync::atomic::Ordering;
use guestmem::{Budget, Progress, Size};

/// See [`host::VM_DONATE`].
pub const CALL: Call = Call {
    number: host::VM_DONATE,
    name: "VM_DONATE",
    arguments: &["handle", "physical address", "guest physical address", "frames: 1 to 8, or 512"],
    results: &["frames given"],
    summary: "Gives memory to a VM; it arrives zeroed, private or shared as the guest wants that address. Of up to 8 \
              frames, those up to the first that is refused, or to the end of their 2 MiB block.",
    run,
};

/// Frames wiped in one call: keeps it within the published bound.
const FRAMES: u64 = 32;

fn run(postern: &Postern, [handle, address, ipa, count, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let frame = frame(address)?;
    let size = match count {
        1..=host::PAGES_PER_DONATION => Size::Page,
        512 => Size::Block,
        _ => return Err(Refused::Invalid("the number of frames: 1 to 8, or 512")),
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
        match size {
            Size::Page => Ok(done([postern.core.donate_pages(&vm.memory, frame, gfn, count)?, 0, 0])),
            Size::Block => match postern.core.donate(&vm.memory, frame, gfn, size, &mut Budget::new(FRAMES))? {
                Progress::Done => Ok(done([count, 0, 0])),
                Progress::More => Ok(MORE),
            },
        }
    })
}
