//! `VM_INFO`.

use super::{Call, DONE, Reply, write_words};
use crate::{Postern, Refused};
use abi::host;
use core::sync::atomic::Ordering;

/// See [`host::VM_INFO`].
pub const CALL: Call = Call {
    number: host::VM_INFO,
    name: "VM_INFO",
    arguments: &["handle", "physical address of the answer"],
    results: &[],
    summary: "Writes what a VM has and has done, and its launch measurement.",
    run,
};

fn run(postern: &Postern, [handle, out, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.vms.with(handle, |vm| {
        let launch = vm.launch.try_lock().ok_or(Refused::Busy("measurement"))?;
        let mut words = [0; 13];
        words[..5].copy_from_slice(&[
            vm.state.load(Ordering::Acquire),
            vm.memory.meta_frames(),
            vm.memory.meta_free(),
            vm.memory.private_frames(),
            vm.memory.shared_frames(),
        ]);
        for (word, bytes) in words[5..11].iter_mut().zip(launch.digest().chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        words[11..].copy_from_slice(&[vm.memory.shares(), vm.memory.unshares()]);
        write_words(postern, out, &words)?;
        Ok(DONE)
    })
}
