//! The machine as the rest of Postern sees it; `fake/mod.rs` has the same items.

use super::{boot, cache, fwcfg, gic, percpu, psci, tlb};
use crate::{BootInfo, HostFiles, Place};
use abi::host::dialect;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use guestmem::{Pfn, Size, Space};
use loader::Bytes;

pub use super::section::longest;
pub use super::serial::Serial;
pub use super::stage2::Stage2 as Format;
pub use super::timer::{frequency, now};
pub use super::vcpu::{Vcpu, Vm};

/// Frames of a VM's metadata that a vCPU takes besides the one it is in.
pub const VCPU_FRAMES: usize = 0;
/// Memory at the bottom that is the firmware's and the CPUs' when they start: nothing is put there.
pub const LOW_MEMORY: Bytes = 0..0;
/// Guest ABIs that this machine can run, as [`abi::host::dialect`] numbers them.
pub const DIALECTS: &[u64] = &[dialect::PKVM, dialect::REALM];

/// This machine.
#[derive(Debug)]
pub struct Machine(());

impl Machine {
    /// The one value; boot makes it.
    ///
    /// # Safety
    /// All RAM of the machine is mapped at EL2, write-back, at its physical address, and stays so.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl guestmem::Machine for Machine {
    type Format = Format;

    fn words(&self, frame: Pfn) -> &[AtomicU64; 512] {
        // SAFETY: a frame of RAM, mapped for good; atomics make racing accesses, also of hosts and guests, defined.
        unsafe { &*(frame.addr() as *const [AtomicU64; 512]) }
    }

    fn wipe(&self, frame: Pfn) {
        // SAFETY: as above; nothing in Postern keeps references other than to atomics into frames that are wiped.
        unsafe { cache::wipe(frame.addr()) }
    }

    fn settle(&self, frame: Pfn) {
        cache::clean_invalidate(frame.addr(), frame.addr() + abi::FRAME_SIZE);
    }

    fn flush(&self, space: Space, address: u64, _size: Size) {
        tlb::flush(space, address);
    }

    fn flush_all(&self, space: Space) {
        tlb::flush_all(space);
    }

    fn publish(&self) {
        super::sysreg::instruction!("dsb ishst");
        super::sysreg::isb();
    }

    fn should_yield(&self) -> bool {
        gic::interrupt_pending()
    }
}

/// Tells the machine where the tables of a space are.
pub fn set_root(space: Space, root: Pfn) {
    tlb::set_root(space, root);
}

/// Index of this CPU; 0 before it has one.
pub fn cpu() -> usize {
    if percpu::installed() { percpu::this().index.get() } else { 0 }
}

/// Makes CPU `index` leave the guest that it runs, if it runs one, and look at everything again.
pub fn interrupt_cpu(index: usize) {
    if let Some(doorbell) = percpu::doorbell(index) {
        gic::ring(doorbell);
    }
}

/// No CPU may execute what was fetched before this: new code is about to run where other code was.
pub fn forget_instructions() {
    cache::forget_instructions();
}

/// Bits of the host's and guests' intermediate physical addresses.
pub fn ipa_bits() -> u64 {
    super::features::ipa_bits()
}

/// Register frames that the host may not reach itself: through them the interrupt controller, or the emulator, could be
/// made to write memory that stage 2 protects.
pub fn hidden_devices(machine: &loader::Machine) -> impl Iterator<Item = Bytes> {
    gic::hidden_frames().chain(fwcfg::hidden_frame()).chain(machine.its.clone())
}

/// Physical memory as bytes.
///
/// # Safety
/// `range` is RAM, and nobody writes it while the slice lives.
pub unsafe fn bytes(range: &Bytes) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize) }
}

/// Copies `from` to physical address `to` and makes it visible to a CPU with its MMU off.
///
/// # Safety
/// The memory at `to` is RAM that nothing else uses.
pub unsafe fn copy(from: &[u8], to: u64) {
    // SAFETY: the caller's promise; the source is a slice, so it does not overlap memory that nothing uses.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
    cache::sync_instructions(to, to + from.len() as u64);
}

/// Fills physical memory with zeroes; see [`cache::wipe`] for where they are visible.
///
/// # Safety
/// As for [`copy`].
pub unsafe fn zero(range: &Bytes) {
    let frames = range.start.next_multiple_of(abi::FRAME_SIZE)..range.end & !(abi::FRAME_SIZE - 1);
    let pieces = if frames.is_empty() { [range.clone(), 0..0] } else { [range.start..frames.start, frames.end..range.end] };
    for piece in pieces {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_bytes(piece.start as *mut u8, 0, (piece.end - piece.start) as usize) };
    }
    for frame in frames.step_by(abi::FRAME_SIZE as usize) {
        // SAFETY: as above; whole frames are many times faster.
        unsafe { cache::wipe(frame) };
    }
}

/// Reads the header of a host's kernel.
///
/// # Errors
/// It is no arm64 Linux `Image`.
pub fn host_image(file: &[u8], name: &'static str) -> Result<loader::image::Image, loader::BootError> {
    loader::image::parse(file, name)
}

/// Writes the host's device tree and says where it is to go; needs the heap.
///
/// # Errors
/// See [`loader::host_tree::host_tree`]; there is no place for it.
pub fn describe_host(info: &BootInfo, host: &HostFiles<'_>, place: Place<'_>) -> Result<(u64, Vec<u8>), loader::BootError> {
    let postern = [info.image.clone(), info.memory.clone()];
    let tree = loader::host_tree::host_tree(info.tree, &info.machine, &postern, Some(&host.initrd), host.cmdline)?;
    Ok((place(tree.len() as u64)?, tree))
}

/// Enters the host on this CPU.
pub fn run_host(entry: u64, argument: u64) -> ! {
    boot::run_host(entry, argument)
}

/// Switches the machine off.
pub fn power_off() -> ! {
    psci::system_off()
}
