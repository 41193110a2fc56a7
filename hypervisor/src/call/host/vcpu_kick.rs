//! `VCPU_KICK`.

use super::{Call, Reply, done};
use crate::{Postern, Refused};
use abi::host;
use core::sync::atomic::Ordering;

/// See [`host::VCPU_KICK`].
pub const CALL: Call = Call {
    number: host::VCPU_KICK,
    name: "VCPU_KICK",
    arguments: &["handle", "index"],
    results: &["1 when the vCPU is running: the caller interrupts the CPU that runs it"],
    summary: "Ends a vCPU's present run, or its next one, at once.",
    run,
};

fn run(postern: &Postern, [handle, index, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.vms.with(handle, |vm| {
        let page = vm.vcpu(index)?;
        page.kicked.store(true, Ordering::Release);
        Ok(done([page.own.is_locked().into(), 0, 0]))
    })
}
