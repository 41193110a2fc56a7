//! Runs a guest's vCPUs: vCPU n on host CPU n modulo the number of host CPUs, in turn, with a tick of 10 ms.

use crate::exits::{self, Next};
use crate::vm::{End, Vm};
use crate::{console, remote};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use payloads::{cpu, percpu, timer};

/// The tick that ends a vCPU's turn and looks for console input.
const TICK_MS: u64 = 10;

/// Runs `vm` on all host CPUs to its end, or until it is paused.
pub fn run(vm: &Arc<Vm>) -> End {
    let helpers = remote::cpus().min(vm.vcpus.len());
    for index in 1..helpers {
        let vm = Arc::clone(vm);
        remote::run_on(index, move || cpu_loop(&vm));
    }
    cpu_loop(vm);
    (1..helpers).for_each(remote::wait);
    vm.end()
}

/// One host CPU's part: its vCPUs round robin until the guest has ended.
fn cpu_loop(vm: &Vm) {
    let cpu = percpu::index();
    let tick = timer::ticks(TICK_MS);
    let mut next_tick = timer::now() + tick;
    timer::fire_at(next_tick);
    while vm.active() {
        let mut idle = true;
        for vcpu in vm.vcpus.iter().filter(|vcpu| vcpu.cpu == cpu) {
            if vcpu.runnable(timer::now()) {
                idle = false;
                // Before the run: what arrives from here on is seen by Postern or sets the flag again.
                vcpu.wake.store(false, Ordering::Release);
                vcpu.deadline.store(0, Ordering::Relaxed);
                // Each gets a turn of its own: a tick left over from the one before would end it before it began.
                remote::service_interrupts();
                match vm.ticks.load(Ordering::Relaxed) {
                    true => timer::fire_at(timer::now() + tick),
                    false => timer::stop(),
                }
                while exits::run_once(vm, vcpu) == Next::Again && vm.active() {}
            }
        }
        if idle {
            sleep(vm, cpu, next_tick);
        }
        remote::service_interrupts();
        if timer::now() >= next_tick {
            console::poll(vm);
            if timer::now() >= vm.time_limit.load(Ordering::Relaxed) {
                vm.finish(End::Late);
            }
            next_tick = timer::now() + tick;
        }
        timer::fire_at(next_tick);
    }
    timer::stop();
}

/// Sleeps until an interrupt, the next tick or the earliest deadline of this CPU's vCPUs.
fn sleep(vm: &Vm, cpu: usize, next_tick: u64) {
    let mine = vm.vcpus.iter().filter(|vcpu| vcpu.cpu == cpu && vcpu.is_on());
    let earliest = mine.map(|vcpu| vcpu.deadline.load(Ordering::Relaxed)).fold(next_tick, u64::min);
    timer::fire_at(earliest);
    cpu::wait_for_interrupt();
}
