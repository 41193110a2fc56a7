//! The end of a guest: destroy, reclaim, and proof that everything came back clean.

use crate::frames;
use crate::vm::Vm;
use abi::host;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use payloads::{hostcall, say};

/// Destroys `vm`, takes its memory back and checks each frame.
///
/// # Errors
/// A sentence on the first thing that is not as it must be.
pub fn teardown(vm: &Vm) -> Result<(), String> {
    match hostcall::vm_destroy(vm.handle) {
        host::OK => finish(vm),
        status => Err(format!("VM_DESTROY answers {status}")),
    }
}

/// What [`teardown`] does once `vm` is destroyed.
///
/// # Errors
/// As [`teardown`].
pub fn finish(vm: &Vm) -> Result<(), String> {
    let shared = shared_frames(vm);
    match hostcall::vm_reclaim(vm.handle) {
        host::OK => {}
        status => return Err(format!("VM_RECLAIM answers {status}")),
    }
    let violations = hostcall::audit().map_err(|status| format!("AUDIT answers {status}"))?;
    if violations != 0 {
        return Err(format!("AUDIT finds {violations} violations after reclaim"));
    }
    let wiped = check_memory(vm, &shared)?;
    vm.memory.lock().release();
    for vcpu in &vm.vcpus {
        frames::free_frame(vcpu.page);
    }
    say!("host: {wiped} frames came back wiped, and {} that the guest shared to the end", shared.len());
    Ok(())
}

/// The frames that `vm` shares now.
pub fn shared_frames(vm: &Vm) -> BTreeSet<u64> {
    let memory = vm.memory.lock();
    memory
        .given()
        .map(|(_, frame)| frame)
        .filter(|frame| hostcall::frame_state(*frame) == host::frame::SHARED)
        .collect()
}

/// Checks that all frames of a reclaimed VM are the host's, and zero but for those that it shared to the end: what is in
/// them the host could see all along. Answers how many were zero.
///
/// # Errors
/// A sentence on the first frame that is not as it must be.
pub fn check_memory(vm: &Vm, shared: &BTreeSet<u64>) -> Result<u64, String> {
    let memory = vm.memory.lock();
    let mut wiped = 0;
    for (page, frame) in memory.given() {
        let checked = if shared.contains(&frame) { check_owner(frame) } else { check_returned(frame) };
        checked.map_err(|reason| format!("{reason}; it was the page at {page:#x}"))?;
        wiped += u64::from(!shared.contains(&frame));
    }
    for frame in memory.meta() {
        check_returned(frame).map_err(|reason| format!("{reason}; it was metadata"))?;
        wiped += 1;
    }
    Ok(wiped)
}

/// Destroys and reclaims the VM `handle`.
///
/// # Errors
/// A sentence with the status.
pub fn destroy(handle: u64) -> Result<(), String> {
    for (name, call) in [("VM_DESTROY", hostcall::vm_destroy as fn(u64) -> i64), ("VM_RECLAIM", hostcall::vm_reclaim)] {
        match call(handle) {
            host::OK => {}
            status => return Err(format!("{name} answers {status}")),
        }
    }
    Ok(())
}

/// Whether a frame is the host's again.
fn check_owner(frame: u64) -> Result<(), String> {
    match hostcall::frame_state(frame) {
        host::frame::HOST => Ok(()),
        state => Err(format!("frame {frame:#x} has state {state} after reclaim")),
    }
}

/// Whether a frame is the host's again and holds nothing.
///
/// # Errors
/// A sentence with what it holds, or whose it is.
pub fn check_returned(frame: u64) -> Result<(), String> {
    check_owner(frame)?;
    match frames::first_nonzero(frame) {
        None => Ok(()),
        Some(offset) => {
            let value = frames::read(frame + offset);
            Err(format!("frame {frame:#x} came back with {value:#x} at offset {offset:#x}"))
        }
    }
}
