//! The host's other CPUs: each waits for a job, does it, and waits again.

use alloc::boxed::Box;
use alloc::string::String;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use payloads::percpu::{self, CPUS_MAX};
use payloads::{cpu, interrupt, power, say, timer};
use spin::mutex::SpinMutex;

type Job = Box<dyn FnOnce() + Send>;

static JOBS: [SpinMutex<Option<Job>>; CPUS_MAX] = [const { SpinMutex::new(None) }; CPUS_MAX];
static BUSY: [AtomicBool; CPUS_MAX] = [const { AtomicBool::new(false) }; CPUS_MAX];
static CPUS: AtomicUsize = AtomicUsize::new(1);

/// Starts the machine's CPUs.
pub fn start(count: usize) {
    for (index, busy) in BUSY.iter().enumerate().take(count).skip(1) {
        busy.store(true, Ordering::Release);
        match payloads::start_cpu(index, main) {
            Ok(()) => {
                CPUS.store(index + 1, Ordering::Release);
                wait(index);
            }
            Err(code) => {
                say!("host: CPU {index} does not start: code {code}");
                break;
            }
        }
    }
}

/// CPUs that run.
pub fn cpus() -> usize {
    CPUS.load(Ordering::Acquire)
}

fn main(index: usize) -> ! {
    interrupt::init_cpu();
    BUSY[index].store(false, Ordering::Release);
    loop {
        service_interrupts();
        // Taken in a statement of its own, so that the lock is free while the job runs.
        let job = JOBS[index].lock().take();
        match job {
            Some(job) => {
                job();
                BUSY[index].store(false, Ordering::Release);
            }
            None => cpu::wait_for_interrupt(),
        }
    }
}

/// Switches the last CPU off: its affinity. `None` when there is only one.
pub fn park_one() -> Option<u64> {
    let last = cpus() - 1;
    if last == 0 {
        return None;
    }
    let affinity = percpu::affinity(last);
    run_on(last, power::cpu_off);
    while !power::is_off(last) {
        core::hint::spin_loop();
    }
    Some(affinity)
}

/// Switches the last CPU on again after [`park_one`].
///
/// # Errors
/// A sentence with the code.
pub fn unpark() -> Result<(), String> {
    let last = cpus() - 1;
    if last != 0 {
        payloads::start_cpu(last, main).map_err(|code| alloc::format!("CPU {last} does not come back: {code}"))?;
        wait(last);
    }
    Ok(())
}

/// Has `cpu` do `job`; it must be idle.
pub fn run_on(cpu: usize, job: impl FnOnce() + Send + 'static) {
    BUSY[cpu].store(true, Ordering::Release);
    *JOBS[cpu].lock() = Some(Box::new(job));
    wake(cpu);
}

/// Waits until `cpu` is idle.
pub fn wait(cpu: usize) {
    while BUSY[cpu].load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
}

/// Waits until `cpu` is idle, so many milliseconds at most.
///
/// # Errors
/// It is still busy.
#[allow(dead_code, reason = "for attacks that not every architecture has")]
pub fn wait_for(cpu: usize, milliseconds: u64) -> Result<(), ()> {
    let end = timer::now() + timer::ticks(milliseconds);
    while BUSY[cpu].load(Ordering::Acquire) {
        if timer::now() > end {
            return Err(());
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Makes `cpu` take an interrupt.
pub fn wake(cpu: usize) {
    interrupt::send(interrupt::WAKE, cpu);
}

/// Takes all pending interrupts of the calling CPU. The host never unmasks interrupts: it polls between guest runs and
/// sleeps in WFI or HLT, which a pending interrupt ends all the same.
pub fn service_interrupts() {
    interrupt::service();
}
