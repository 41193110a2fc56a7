//! `VM_IRQ`.

use super::{Call, Reply, done};
use crate::{Postern, Refused};
use abi::host::{self, vm_state};

/// See [`host::VM_IRQ`].
pub const CALL: Call = Call {
    number: host::VM_IRQ,
    name: "VM_IRQ",
    arguments: &["handle", "interrupt number: an SPI, or a TD's vCPU << 8 | vector", "level: 0 or 1"],
    results: &["vCPU it goes to"],
    summary: "Sets the level of a device's interrupt line.",
    run,
};

fn run(postern: &Postern, [handle, intid, level, ..]: [u64; 6]) -> Result<Reply, Refused> {
    if level > 1 {
        return Err(Refused::Invalid("the level: 0 or 1"));
    }
    postern.vms.with(handle, |vm| {
        vm.expect(vm_state::SEALED, "the VM is not sealed, or destroyed")?;
        let target = vm.arch.0.set_spi(intid, level == 1).ok_or(Refused::Invalid("not a device interrupt"))?;
        Ok(done([target as u64, 0, 0]))
    })
}
