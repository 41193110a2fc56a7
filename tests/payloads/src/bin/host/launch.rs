//! Creates a guest: metadata, launch image, seal, vCPUs.

use crate::console::GuestConsole;
use crate::frames;
use crate::guest_tree::{self, Contents, GICD_BASE, GICR_BASE, RAM_BASE};
use crate::memory::GuestMemory;
use crate::vm::{Shape, Vcpu, Vm};
use abi::host::VmConfig;
use abi::{BLOCK_SIZE, FRAME_SIZE, host};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use payloads::{hostcall, timer};

/// What goes into a guest.
pub struct Software<'a> {
    /// An arm64 `Image`.
    pub kernel: &'a [u8],
    /// The initrd.
    pub initrd: Option<&'a [u8]>,
    /// The kernel command line.
    pub arguments: &'a str,
    /// Seed of the guest's random numbers; zero takes one from the clock.
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
            let mut memory = GuestMemory::new(handle, RAM_BASE, shape.memory, shape.blocks, (meta, first));
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
    let entry = load(shape, software, &mut memory)?;
    let handle = memory.handle();
    let mut vm = Vm::new(handle, memory, GuestConsole::new(console_line));
    for index in 0..shape.vcpus {
        let vcpu = create_vcpu(&vm, index)?;
        vm.vcpus.push(vcpu);
    }
    let status = hostcall::vm_seal(handle, entry.kernel, entry.tree);
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

struct Entry {
    kernel: u64,
    tree: u64,
}

/// Puts kernel, initrd and device tree into guest memory, in this order, each on a 2 MiB boundary.
fn load(shape: &Shape, software: &Software<'_>, memory: &mut GuestMemory) -> Result<Entry, String> {
    let image = loader::image::parse(software.kernel, abi::bundle::GUEST_KERNEL).map_err(|error| format!("{error}"))?;
    let kernel = RAM_BASE + image.text_offset;
    let mut next = (kernel + image.size).next_multiple_of(BLOCK_SIZE);
    let initrd = software.initrd.filter(|bytes| !bytes.is_empty()).map(|bytes| {
        let start = next;
        next = (start + bytes.len() as u64).next_multiple_of(BLOCK_SIZE);
        (start, bytes)
    });
    let contents = Contents {
        arguments: software.arguments,
        initrd: initrd.map(|(start, bytes)| start..start + bytes.len() as u64),
        seed: if software.seed == 0 { timer::now() | 1 } else { software.seed },
    };
    let blob = guest_tree::build(shape, &contents);
    let pool = if shape.dialect == host::dialect::PKVM { guest_tree::POOL_SIZE } else { 0 };
    let needed = next + blob.len() as u64 + pool - RAM_BASE;
    if needed > shape.memory {
        let (needed, have) = (needed.div_ceil(1 << 20), shape.memory >> 20);
        return Err(format!("the guest's kernel and initrd need {needed} MiB, it has {have} MiB"));
    }
    put(memory, kernel, software.kernel)?;
    if let Some((start, bytes)) = initrd {
        put(memory, start, bytes)?;
    }
    put(memory, next, &blob)?;
    Ok(Entry { kernel, tree: next })
}

fn put(memory: &mut GuestMemory, address: u64, bytes: &[u8]) -> Result<(), String> {
    for (ipa, page) in (address..).step_by(FRAME_SIZE as usize).zip(bytes.chunks(FRAME_SIZE as usize)) {
        memory.load(ipa, page).map_err(|status| format!("VM_LOAD at {ipa:#x} answers {status}"))?;
    }
    Ok(())
}
