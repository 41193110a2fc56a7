//! `VM_SEAL`.

use super::{Call, DONE, Reply};
use crate::vcpu::power;
use crate::{Postern, Refused};
use abi::host::{self, VCPUS_MAX, vm_state};
use arrayvec::ArrayVec;
use core::sync::atomic::Ordering;

/// See [`host::VM_SEAL`].
pub const CALL: Call = Call {
    number: host::VM_SEAL,
    name: "VM_SEAL",
    arguments: &["handle", "entry, a guest physical address", "argument, for x0 or RCX and R8"],
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
        // vCPU 0 has to exist, and the others where all start at once.
        let starting = if vm.dialect.switches_vcpus() { 1 } else { vm.config.vcpu_count };
        let mut locked = ArrayVec::<_, VCPUS_MAX>::new();
        for index in 0..starting {
            let page = vm.vcpu(index)?;
            locked.push((page, page.own.try_lock().ok_or(Refused::Busy("vCPU"))?));
        }
        // The host may have executed other code from the same frames a moment ago.
        arch::machine::forget_instructions();
        launch.seal(entry, argument);
        vm.entry.call_once(|| (entry, argument));
        for (page, registers) in &mut locked {
            registers.0.start(&vm.arch.0, entry, argument);
            page.power.store(power::ON, Ordering::Release);
        }
        // A destruction that came in between wins.
        let sealed = vm.state.compare_exchange(vm_state::NEW, vm_state::SEALED, Ordering::AcqRel, Ordering::Acquire);
        sealed.map(|_| DONE).map_err(|_| Refused::State("the VM is destroyed"))
    })
}
