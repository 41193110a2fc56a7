//! `VM_SEAL`.

use super::{Call, DONE, Reply};
use crate::vcpu::power;
use crate::{Postern, Refused};
use abi::host::{self, vm_state};
use core::sync::atomic::Ordering;

/// See [`host::VM_SEAL`].
pub const CALL: Call = Call {
    number: host::VM_SEAL,
    name: "VM_SEAL",
    arguments: &["handle", "entry, a guest physical address", "argument, x0 of vCPU 0"],
    results: &[],
    summary: "Closes the measurement; from now on the VM can run, and only zeroed memory can be added.",
    run,
};

fn run(postern: &Postern, [handle, entry, argument, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.vms.with(handle, |vm| {
        if !entry.is_multiple_of(4) {
            return Err(Refused::Invalid("the entry is no instruction address"));
        }
        vm.ram(entry).ok_or(Refused::Core(guestmem::Refusal::OutOfRange))?;
        let mut launch = vm.launch.try_lock().ok_or(Refused::Busy("measurement"))?;
        vm.expect(vm_state::NEW, "the VM is sealed already, or destroyed")?;
        if vm.memory.loading() != 0 {
            return Err(Refused::State("a frame is half loaded"));
        }
        let first = vm.vcpu(0)?;
        let mut registers = first.own.try_lock().ok_or(Refused::Busy("vCPU"))?;
        // The host may have executed other code from the same frames a moment ago.
        arch::machine::forget_instructions();
        launch.seal(entry, argument);
        vm.entry.call_once(|| (entry, argument));
        registers.0.start(&vm.arch.0, entry, argument);
        first.power.store(power::ON, Ordering::Release);
        // A destruction that came in between wins.
        let sealed = vm.state.compare_exchange(vm_state::NEW, vm_state::SEALED, Ordering::AcqRel, Ordering::Acquire);
        sealed.map(|_| DONE).map_err(|_| Refused::State("the VM is destroyed"))
    })
}
