//! `VCPU_RUN`.

use super::{Call, Reply, done};
use crate::vcpu::power;
use crate::vm::ending;
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use core::sync::atomic::Ordering;

/// See [`host::VCPU_RUN`].
pub const CALL: Call = Call {
    number: host::VCPU_RUN,
    name: "VCPU_RUN",
    arguments: &["handle", "index"],
    results: &["exit reason"],
    summary: "Runs a vCPU on this CPU until something needs the host.",
    run,
};

fn run(postern: &Postern, [handle, index, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.vms.with(handle, |vm| {
        vm.expect(vm_state::SEALED, "the VM is not sealed, or destroyed")?;
        let page = vm.vcpu(index)?;
        let mut registers = page.own.try_lock().ok_or(Refused::Busy("vCPU"))?;
        // Looked at under the lock: whoever starts a vCPU holds it.
        if page.power.load(Ordering::Acquire) != power::ON && vm.ending.load(Ordering::Acquire) == ending::NONE {
            return Err(Refused::State("the vCPU is off"));
        }
        Ok(done([postern.run(vm, page, &mut registers.0), 0, 0]))
    })
}
