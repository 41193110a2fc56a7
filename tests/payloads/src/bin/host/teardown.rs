//! The end of a guest: destroy, reclaim, and proof that everything came back clean.

use crate::frames;
use crate::vm::Vm;
use abi::host;
use alloc::format;
use alloc::string::String;
use payloads::{hostcall, say};

/// Destroys `vm`, takes its memory back and checks each frame.
///
/// # Errors
/// A sentence on the first thing that is not as it must be.
pub fn teardown(vm: &Vm) -> Result<(), String> {
    destroy(vm.handle)?;
    let violations = hostcall::audit().map_err(|status| format!("AUDIT answers {status}"))?;
    if violations != 0 {
        return Err(format!("AUDIT finds {violations} violations after reclaim"));
    }
    let mut memory = vm.memory.lock();
    let mut checked = 0u64;
    for (page, frame) in memory.given() {
        check_returned(frame).map_err(|reason| format!("{reason}; it was the page at {page:#x}"))?;
        checked += 1;
    }
    for frame in memory.meta() {
        check_returned(frame).map_err(|reason| format!("{reason}; it was metadata"))?;
        checked += 1;
    }
    memory.release();
    for vcpu in &vm.vcpus {
        frames::free_frame(vcpu.page);
    }
    say!("host: {checked} frames came back, all wiped");
    Ok(())
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

/// Whether a frame is the host's again and holds nothing.
pub fn check_returned(frame: u64) -> Result<(), String> {
    let state = hostcall::frame_state(frame);
    if state != host::frame::HOST {
        return Err(format!("frame {frame:#x} has state {state} after reclaim"));
    }
    match frames::first_nonzero(frame) {
        None => Ok(()),
        Some(offset) => {
            let value = frames::read(frame + offset);
            Err(format!("frame {frame:#x} came back with {value:#x} at offset {offset:#x}"))
        }
    }
}
