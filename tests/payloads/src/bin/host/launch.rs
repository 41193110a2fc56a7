//! Creates a guest: metadata, launch image, seal, vCPUs.

use crate::console::GuestConsole;
use crate::frames;
use crate::memory::GuestMemory;
use crate::platform::{self, GICD_BASE, GICR_BASE, RAM_BASE};
use crate::vm::{Shape, Vcpu, Vm};
use abi::host::VmConfig;
use abi::{BLOCK_SIZE, FRAME_SIZE, host};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use payloads::hostcall;

/// What goes into a guest.
pub struct Software<'a> {
    /// An arm64 `Image`, or a bzImage.
    pub kernel: &'a [u8],
    /// The initrd.
    pub initrd: Option<&'a [u8]>,
    /// The kernel command line.
    pub arguments: &'a str,
    /// Seed of the guest's random numbers; zero takes one from the clock.
    #[allow(dead_code, reason = "kernels of x86-64 take theirs from RDRAND")]
    pub seed: u64,
}

/// Frames of metadata that a guest of `memory` bytes needs at most: a table for each 2 MiB, a page of the shared map
/// for each 128 MiB, and vCPU state.
fn metadata_frames(shape: &Shape) -> u64 {
    host::META_FRAMES_MIN + shape.memory / BLOCK_SIZE + shape.memory / (128 << 20) + 8 * shape.vcpus + 24
}

/// Creates the VM object with `meta_frames` of metadata; the guest has no memory yet.
///
/// # Errors
/// The status of `VM_CREATE`.
pub fn create(shape: &Shape, meta_frames: u64) -> Result<GuestMemory, i64> {
    let first = meta_frames.min(host::FRAMES_PER_CALL);
    let meta = frames::contiguous(first).ok_or(crate::memory::OUT_OF_MEMORY)?;
    let page = frames::zeroed_frame().ok_or(crate::memory::OUT_OF_MEMORY)?;
    let config = VmConfig {
        dialect: shape.dialect,
        vcpu_count: shape.vcpus,
        ram_base: RAM_BASE,
        ram_size: shape.memory,
        gicd_base: GICD_BASE,
        gicr_base: GICR_BASE,
    };
    // SAFETY: the frame is ours and large enough.
    unsafe { (page as *mut VmConfig).write_volatile(config) };
    let created = hostcall::vm_create(page, meta, first);
    frames::free_frame(page);
    match created {
        Ok(handle) => {
            let mut memory = GuestMemory::new(handle, RAM_BASE, shape.memory, shape.give, (meta, first));
            match memory.add_meta(meta_frames - first) {
                host::OK => Ok(memory),
                status => Err(status),
            }
        }
        Err(status) => {
            frames::free_contiguous(meta, first);
            Err(status)
        }
    }
}

/// Creates a guest ready to run.
///
/// # Errors
/// A sentence for the user.
pub fn launch(shape: &Shape, software: &Software<'_>, console_line: u64) -> Result<Arc<Vm>, String> {
    let mut memory = create(shape, metadata_frames(shape)).map_err(|status| format!("VM_CREATE answers {status}"))?;
    let entry = platform::load(shape, software, &mut memory)?;
    let handle = memory.handle();
    let mut vm = Vm::new(handle, memory, GuestConsole::new(console_line));
    for index in 0..shape.vcpus {
        let vcpu = create_vcpu(&vm, index)?;
        vm.vcpus.push(vcpu);
    }
    let status = hostcall::vm_seal(handle, entry.start, entry.argument);
    if status != host::OK {
        return Err(format!("VM_SEAL answers {status}"));
    }
    Ok(Arc::new(vm))
}

fn create_vcpu(vm: &Vm, index: u64) -> Result<Vcpu, String> {
    let page = frames::zeroed_frame().ok_or("the host is out of memory")?;
    let status = vm.memory.lock().insist(|handle| hostcall::vcpu_create(handle, index, page));
    if status != host::OK {
        return Err(format!("VCPU_CREATE of vCPU {index} answers {status}"));
    }
    Ok(Vcpu::new(index, page))
}

/// Puts bytes into guest memory, before it is sealed.
///
/// # Errors
/// A sentence for the user.
pub fn put(memory: &mut GuestMemory, address: u64, bytes: &[u8]) -> Result<(), String> {
    for (ipa, page) in (address..).step_by(FRAME_SIZE as usize).zip(bytes.chunks(FRAME_SIZE as usize)) {
        memory.load(ipa, page).map_err(|status| format!("VM_LOAD at {ipa:#x} answers {status}"))?;
    }
    Ok(())
}
