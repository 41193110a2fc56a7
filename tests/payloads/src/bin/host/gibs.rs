//! `mode=gibs`: a GiB of RAM is one leaf in the host's tables while all of it is the host's. It comes apart and goes together
//! again without another CPU noticing, and so it does around the life of a guest.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::vm::Shape;
use crate::{frames, remote, run, schedule, teardown};
use abi::host::{META_FRAMES_MIN, counter};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use payloads::exception::try_read;
use payloads::{Boot, hostcall, say};

/// How often the GiB comes apart while another CPU reads it.
const TIMES: u64 = 200;

/// Leaves before, while and after there is a guest.
///
/// # Errors
/// A sentence for the session's last line.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    let gib = frames::prefer_gib().ok_or("the machine has no free GiB of RAM")?;
    let before = expect_leaves("at first", None)?;
    if before == 0 {
        return Err(format!("no leaf of 1 GiB, although all at {gib:#x} is the host's"));
    }
    let shape = Shape { vcpus: 1, memory: 64 << 20, ..run::shape(bundle)? };
    exchange(&shape, gib, before)?;
    let software =
        Software { kernel: bundle.tiny_guest()?, initrd: None, arguments: "test=soak conversions=1000", seed: 1 };
    let vm = launch::launch(&shape, &software, run::console_line(boot))?;
    let end = schedule::run(&vm);
    expect_leaves("while there is a guest", Some(before - 1))?;
    teardown::teardown(&vm)?;
    expect_leaves("after the guest", Some(before))?;
    match (end.reason(), vm.console.lock().failures()) {
        (Some(reason), _) => Err(reason),
        (None, 0) => Ok(()),
        (None, _) => Err(String::from("the guest reports a failure")),
    }
}

/// VMs that come and go, with their metadata in the GiB, while another CPU reads all of it.
fn exchange(shape: &Shape, gib: u64, before: u64) -> Result<(), String> {
    let (stop, aborts, reads) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    // The metadata comes from the first blocks.
    let read = gib + (1 << 30) / 2..gib + (1 << 30);
    if remote::cpus() > 1 {
        let (stop, aborts, reads) = (Arc::clone(&stop), Arc::clone(&aborts), Arc::clone(&reads));
        remote::run_on(1, move || {
            for address in read.step_by((BLOCK_SIZE + FRAME_SIZE) as usize).cycle() {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                aborts.fetch_add(u64::from(try_read(address).is_err()), Ordering::Relaxed);
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let outcome = (0..TIMES).try_for_each(|_| {
        let mut memory =
            launch::create(shape, META_FRAMES_MIN).map_err(|status| format!("VM_CREATE answers {status}"))?;
        let apart = leaves()?;
        teardown::destroy(memory.handle())?;
        memory.release();
        if apart == before - 1 { Ok(()) } else { Err(format!("{apart} leaves of 1 GiB while there is a VM")) }
    });
    stop.store(true, Ordering::Release);
    (1..remote::cpus()).for_each(remote::wait);
    outcome?;
    let (aborts, reads) = (aborts.load(Ordering::Relaxed), reads.load(Ordering::Relaxed));
    say!("host: {TIMES} times apart and together, {} retries of {reads} reads", counter(counter::HOST_RETRIES)?);
    expect_leaves("after that", Some(before))?;
    if aborts == 0 { Ok(()) } else { Err(format!("{aborts} reads of the host's own memory were aborted")) }
}

/// Says how many leaves there are, which have to be as many as `expected`.
fn expect_leaves(when: &str, expected: Option<u64>) -> Result<u64, String> {
    let found = leaves()?;
    say!("host: {found} leaves of 1 GiB {when}");
    match expected {
        Some(expected) if expected != found => Err(format!("{found} leaves of 1 GiB {when}, not {expected}")),
        _ => Ok(found),
    }
}

fn leaves() -> Result<u64, String> {
    counter(counter::GIB_LEAVES)
}

fn counter(index: usize) -> Result<u64, String> {
    let out = frames::zeroed_frame().ok_or("the host is out of memory")?;
    hostcall::counters(out);
    let value = frames::read(out + index as u64 * 8);
    frames::free_frame(out);
    Ok(value)
}
