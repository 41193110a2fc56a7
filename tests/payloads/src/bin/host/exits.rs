//! What the VMM does when a vCPU comes back.

use crate::vm::{End, Vcpu, Vm};
use crate::{mailbox, memory, platform};
use abi::{host, run};
use alloc::format;
use core::sync::atomic::Ordering;
use payloads::hostcall;

/// What to do with the vCPU now.
#[derive(PartialEq, Eq)]
pub enum Next {
    /// Run it again.
    Again,
    /// Let others run.
    Yield,
}

/// Runs `vcpu` once.
pub fn run_once(vm: &Vm, vcpu: &Vcpu) -> Next {
    let reply = hostcall::vcpu_run(vm.handle, vcpu.index);
    handle(vm, vcpu, reply.status, reply.values[0])
}

/// Does what the answer of a run asks for.
pub fn handle(vm: &Vm, vcpu: &Vcpu, status: i64, reason: u64) -> Next {
    match status {
        host::OK => exit(vm, vcpu, reason),
        host::BUSY => Next::Yield,
        status => {
            if !vm.ended() {
                vm.finish(End::Host(format!("VCPU_RUN of vCPU {} answers {status}", vcpu.index)));
            }
            Next::Yield
        }
    }
}

fn exit(vm: &Vm, vcpu: &Vcpu, reason: u64) -> Next {
    match reason {
        run::exit::MEMORY_FAULT => {
            let address = vcpu.word(run::ADDRESS);
            let populated = vm.memory.lock().populate(address);
            if let Err(status) = populated {
                vm.finish(End::Host(format!("no memory for the guest at {address:#x}: status {status}")));
                return Next::Yield;
            }
        }
        run::exit::MMIO_READ => {
            let value = mmio(vm, vcpu, None);
            vcpu.set_word(run::MMIO_VALUE, value);
        }
        run::exit::MMIO_WRITE => {
            mmio(vm, vcpu, Some(vcpu.word(run::VALUE)));
        }
        run::exit::IO_READ => return port(vm, vcpu, None),
        run::exit::IO_WRITE => return port(vm, vcpu, Some(vcpu.word(run::VALUE))),
        run::exit::INTERRUPT => return Next::Yield,
        run::exit::WAIT => {
            vcpu.deadline.store(vcpu.word(run::DEADLINE), Ordering::Release);
            return Next::Yield;
        }
        run::exit::WAKE => wake(vm, vcpu.word(run::VCPU_MASK)),
        run::exit::CPU_ON => cpu_on(vm, vcpu.word(run::VCPU)),
        run::exit::CPU_OFF => {
            vcpu.switch_off();
            return Next::Yield;
        }
        run::exit::HOST_CALL => mailbox::host_call(vm, vcpu),
        run::exit::NEED_META => top_up(vm, |vm| vm.memory.lock().add_meta(host::FRAMES_PER_CALL)),
        run::exit::NEED_POOL => top_up(vm, |_| memory::add_pool()),
        run::exit::SYSTEM_OFF => vm.finish(End::Off),
        run::exit::SYSTEM_RESET => vm.finish(End::Reset),
        run::exit::FAILED => vm.finish(End::Failed(vcpu.word(run::FAILURE))),
        other => vm.finish(End::Host(format!("unknown exit reason {other}"))),
    }
    Next::Again
}

fn top_up(vm: &Vm, give: impl Fn(&Vm) -> i64) {
    match give(vm) {
        host::OK => {}
        status => vm.finish(End::Host(format!("more metadata is refused with status {status}"))),
    }
}

fn mmio(vm: &Vm, vcpu: &Vcpu, write: Option<u64>) -> u64 {
    platform::mmio(vm, vcpu.word(run::ADDRESS), write)
}

fn port(vm: &Vm, vcpu: &Vcpu, write: Option<u64>) -> Next {
    let (value, rest) = platform::port(vm, vcpu, vcpu.word(run::ADDRESS), vcpu.word(run::SIZE), write);
    if write.is_none() {
        vcpu.set_word(run::MMIO_VALUE, value);
    }
    if rest { Next::Yield } else { Next::Again }
}

fn wake(vm: &Vm, mask: u64) {
    (0..vm.vcpus.len()).filter(|index| mask & 1 << index != 0).for_each(|index| vm.notify(index));
}

fn cpu_on(vm: &Vm, index: u64) {
    if let Some(vcpu) = vm.vcpus.get(index as usize) {
        vcpu.switch_on();
        vm.notify(index as usize);
    }
}
