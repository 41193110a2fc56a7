//! `VCPU_CREATE`.

use super::{Call, DONE, Reply, frame};
use crate::vcpu::{Registers, VcpuPage, power};
use crate::vm::Vm;
use crate::{Postern, Refused, place};
use abi::host::{self, vm_state};
use arch::machine::{VCPU_FRAMES, Vcpu};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use guestmem::{Pfn, Refusal};
use spin::Mutex;

/// See [`host::VCPU_CREATE`].
pub const CALL: Call = Call {
    number: host::VCPU_CREATE,
    name: "VCPU_CREATE",
    arguments: &["handle", "index", "physical address of the run page"],
    results: &[],
    summary: "Creates a vCPU in the VM's metadata; only before VM_SEAL.",
    run,
};

fn run(postern: &Postern, [handle, index, run_page, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let run_page = frame(run_page)?;
    postern.vms.with(handle, |vm| {
        if index >= vm.config.vcpu_count {
            return Err(Refused::NoSuch("vCPU"));
        }
        // Creation is rare: the measurement's lock keeps two of them, and sealing, apart.
        let _launch = vm.launch.try_lock().ok_or(Refused::Busy("VM"))?;
        vm.expect(vm_state::NEW, "the VM is sealed or destroyed")?;
        if vm.vcpu(index).is_ok() {
            return Err(Refused::Exists("vCPU"));
        }
        postern.core.lend(run_page)?;
        let [meta, frames @ ..] = match take(postern, vm) {
            Ok(taken) => taken,
            Err(refusal) => {
                // Lent above, so there is a loan to end.
                let _ = postern.core.end_lend(run_page);
                return Err(refusal.into());
            }
        };
        let page = page(index as usize, meta, run_page, frames);
        // SAFETY: `alloc_meta` has just given the frame; `VM_RECLAIM`, alone on the VM, forgets the reference first.
        #[allow(unsafe_code)]
        let placed = unsafe { place::vcpu(&postern.core.machine, meta, page) };
        vm.vcpus[index as usize].call_once(|| placed);
        Ok(DONE)
    })
}

/// A frame for the vCPU's page, and those that its architecture needs: all of them or none.
fn take(postern: &Postern, vm: &Vm) -> Result<[Pfn; 1 + VCPU_FRAMES], Refusal> {
    let mut taken = ArrayVec::<Pfn, { 1 + VCPU_FRAMES }>::new();
    while !taken.is_full() {
        match postern.core.alloc_meta(&vm.memory) {
            Ok(frame) => taken.push(frame),
            Err(refusal) => {
                for frame in taken {
                    // It was allocated just now.
                    let _ = postern.core.free_meta(&vm.memory, frame);
                }
                return Err(refusal);
            }
        }
    }
    Ok(taken.into_inner().unwrap_or_else(|_| unreachable!("the loop fills it")))
}

fn page(index: usize, frame: Pfn, run_page: Pfn, frames: [Pfn; VCPU_FRAMES]) -> VcpuPage {
    VcpuPage {
        index,
        frame,
        run_page,
        power: AtomicU64::new(power::OFF),
        kicked: AtomicBool::new(false),
        runs_on: AtomicUsize::new(0),
        host_call: AtomicU64::new(0),
        own: Mutex::new(Registers(Vcpu::new(index, frames))),
    }
}
