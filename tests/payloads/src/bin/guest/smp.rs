//! The guest's other vCPUs.

use core::sync::atomic::{AtomicUsize, Ordering};
use payloads::{cpu, interrupt, power};

static JOB: AtomicUsize = AtomicUsize::new(0);

/// Starts vCPU `index`, which runs `job` with its index and then switches itself off.
///
/// # Errors
/// The code.
pub fn start(index: usize, job: fn(usize)) -> Result<(), i64> {
    JOB.store(job as usize, Ordering::Release);
    payloads::start_cpu(index, main)
}

fn main(index: usize) -> ! {
    // Taken first: the next `start` waits for nothing but this vCPU being on.
    // SAFETY: `start` stored a function of this type.
    let job: fn(usize) = unsafe { core::mem::transmute(JOB.load(Ordering::Acquire)) };
    interrupt::init_cpu();
    cpu::unmask_interrupts();
    job(index);
    cpu::mask_interrupts();
    power::cpu_off();
    cpu::park()
}
