//! `VM_DONATE_META`.

use super::{Call, Reply, frames, take_all};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use core::sync::atomic::Ordering;

/// See [`host::VM_DONATE_META`].
pub const CALL: Call = Call {
    number: host::VM_DONATE_META,
    name: "VM_DONATE_META",
    arguments: &["handle", "physical address", "frames, at most 4"],
    results: &["frames taken"],
    summary: "Gives frames for a VM's tables and vCPUs; they come back when it is reclaimed.",
    run,
};

fn run(postern: &Postern, [handle, address, count, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let frames = frames(address, count)?;
    postern.vms.with(handle, |vm| {
        if vm.state.load(Ordering::Acquire) == vm_state::DYING {
            return Err(Refused::State("the VM is destroyed"));
        }
        take_all(frames, |frame| postern.core.donate_meta(&vm.memory, frame))
    })
}
