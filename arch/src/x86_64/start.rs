//! Starting the other CPUs: one after another, through a page below 1 MiB that is the host's afterwards.

use super::entry::{self, LAUNCH_AT, Launch};
use super::{apic, boot, mmu, power};
use core::sync::atomic::{AtomicBool, Ordering};
use loader::{BootError, Bytes, Machine, layout};
use spin::Mutex;

/// Where real mode ends.
const REAL_MODE_END: u64 = 1 << 20;

/// A CPU has come up as far as to say so.
static STARTED: AtomicBool = AtomicBool::new(false);
/// And what it had to say.
static RESULT: Mutex<Result<(), BootError>> = Mutex::new(Ok(()));

/// Starts all CPUs but this one and waits for them.
///
/// # Errors
/// One does not start, or is not fit.
pub fn others(machine: &Machine, taken: &[Bytes]) -> Result<(), BootError> {
    if machine.cpus.len() == 1 {
        return Ok(());
    }
    let page = layout::place(machine, taken, abi::FRAME_SIZE, abi::FRAME_SIZE, "starting CPUs below 1 MiB")?;
    if page.end > REAL_MODE_END {
        return Err(BootError::Memory("starting CPUs below 1 MiB"));
    }
    for (index, id) in machine.cpus.iter().enumerate().filter(|(_, id)| **id != apic::id()) {
        prepare(&page, index)?;
        STARTED.store(false, Ordering::Release);
        if !apic::start(*id, page.start, || STARTED.load(Ordering::Acquire)) {
            return Err(BootError::Cpu("a CPU that ACPI lists does not start"));
        }
        (*RESULT.lock())?;
    }
    // SAFETY: the page was free and every CPU has left it.
    unsafe { core::ptr::write_bytes(page.start as *mut u8, 0, abi::FRAME_SIZE as usize) };
    Ok(())
}

fn prepare(page: &Bytes, index: usize) -> Result<(), BootError> {
    let code = entry::trampoline();
    assert!(code.len() <= LAUNCH_AT, "the trampoline fits below its record");
    let root = u32::try_from(mmu::root()).map_err(|_| BootError::Memory("Postern itself below 4 GiB"))?;
    let launch = Launch::new(index, boot::CpuMemory::of(index).stack, root);
    // SAFETY: a free page of RAM, mapped writable; no CPU runs there now.
    unsafe {
        core::ptr::copy_nonoverlapping(code.as_ptr(), page.start as *mut u8, code.len());
        ((page.start + LAUNCH_AT as u64) as *mut Launch).write_unaligned(launch);
    }
    Ok(())
}

/// Called on a CPU that has started; comes back when it may go on.
pub fn started(result: Result<(), BootError>) {
    let failed = result.is_err();
    *RESULT.lock() = result;
    STARTED.store(true, Ordering::Release);
    if failed {
        power::halt();
    }
}
