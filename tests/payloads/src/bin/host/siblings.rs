//! A guest ends while another of its vCPUs spins on a CPU that the host leaves alone: no timer, no kick, no interrupt. What
//! ends that run is Postern.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::vm::{End, Vm};
use crate::{arch, exits, remote, run, teardown};
use abi::host::{OK, STATE};
use abi::run::{FAILURE, exit, failure};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::{Boot, hostcall, timer};

/// No end seen yet.
const RUNNING: u64 = u64::MAX;
/// The host's call was refused, as it should be when the VM was destroyed just before: on machines where a run has an end of
/// its own the vCPU may be between two of them.
const REFUSED: u64 = u64::MAX - 1;
/// How soon the other vCPU has to be back, in milliseconds.
const SOON_MS: u64 = 100;
/// How long the guest may take to end.
const PATIENCE_MS: u64 = 5000;

/// How a guest ends itself by a call to Postern while its other vCPUs run.
pub struct Own {
    /// The test of the tiny guest.
    pub test: &'static str,
    /// What a run of any vCPU gives from then on, [`exit`].
    pub exit: u64,
    /// The code of an [`exit::FAILED`].
    pub why: Option<u64>,
}

/// Who ends the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The guest, as [`arch::OWN_END`] says.
    Itself,
    /// The host, which destroys it.
    Host,
}

/// Ends a guest with two vCPUs.
///
/// # Errors
/// A sentence.
pub fn stop(bundle: &Bundle, boot: &Boot, by: By) -> Result<(), String> {
    if remote::cpus() < 2 {
        return Ok(());
    }
    let mut shape = run::shape(bundle)?;
    (shape.vcpus, shape.memory) = (2, 32 << 20);
    let Own { test, exit: own_exit, why: own_why } = arch::OWN_END;
    let arguments = format!("test={test}");
    let software = Software { kernel: bundle.tiny_guest()?, initrd: None, arguments: &arguments, seed: 1 };
    let vm = launch::launch(&shape, &software, run::console_line(boot))?;
    let limit = timer::now() + timer::ticks(PATIENCE_MS);
    while !vm.vcpus[1].is_on() {
        exits::run_once(&vm, &vm.vcpus[0]);
        if vm.ended() || timer::now() > limit {
            return Err(format!("the second vCPU does not start: {:?}", vm.end()));
        }
    }
    let seen = spin(&vm);
    let ended = if by == By::Itself { until_ended(&vm, own_exit, limit) } else { destroy(&vm) };
    let late = timer::now() + timer::ticks(SOON_MS);
    while seen.load(Ordering::Acquire) == RUNNING && timer::now() < late {
        core::hint::spin_loop();
    }
    let found = seen.load(Ordering::Acquire);
    // Whatever has been found: from here on the host does what it has to.
    vm.finish(End::Off);
    remote::wake(1);
    remote::wait(1);
    let why = vm.vcpus[1].word(FAILURE);
    let (end, code) = match by {
        By::Itself => {
            teardown::teardown(&vm)?;
            (own_exit, own_why)
        }
        By::Host => {
            teardown::finish(&vm)?;
            (exit::FAILED, Some(failure::DESTROYED))
        }
    };
    ended?;
    match found {
        RUNNING => Err(String::from("the other vCPU runs on")),
        REFUSED if by == By::Host => Ok(()),
        _ if found != end => Err(format!("the other vCPU sees end {found}")),
        _ if code.is_some_and(|code| code != why) => Err(format!("the other vCPU is told failure {why}")),
        _ => Ok(()),
    }
}

/// Has CPU 1 run vCPU 1, undisturbed, until it comes back with something that ends it.
fn spin(vm: &Arc<Vm>) -> Arc<AtomicU64> {
    let seen = Arc::new(AtomicU64::new(RUNNING));
    let (vm, result) = (Arc::clone(vm), Arc::clone(&seen));
    remote::run_on(1, move || {
        timer::stop();
        while !vm.ended() {
            remote::service_interrupts();
            let reply = hostcall::vcpu_run(vm.handle, 1);
            if reply.status == OK && matches!(reply.values[0], exit::SYSTEM_OFF | exit::FAILED) {
                result.store(reply.values[0], Ordering::Release);
                return;
            }
            if reply.status == STATE {
                result.store(REFUSED, Ordering::Release);
                return;
            }
            exits::handle(&vm, &vm.vcpus[1], reply.status, reply.values[0]);
        }
    });
    seen
}

/// Runs vCPU 0 until it has ended the guest.
fn until_ended(vm: &Vm, end: u64, limit: u64) -> Result<(), String> {
    loop {
        let reply = hostcall::vcpu_run(vm.handle, 0);
        if reply.status == OK && reply.values[0] == end {
            return Ok(());
        }
        exits::handle(vm, &vm.vcpus[0], reply.status, reply.values[0]);
        remote::service_interrupts();
        if vm.ended() || timer::now() > limit {
            return Err(format!("the guest does not end: {:?}", vm.end()));
        }
    }
}

fn destroy(vm: &Vm) -> Result<(), String> {
    // The other vCPU has to be well inside the guest.
    timer::delay(20);
    match hostcall::vm_destroy(vm.handle) {
        OK => Ok(()),
        status => Err(format!("VM_DESTROY answers {status}")),
    }
}
