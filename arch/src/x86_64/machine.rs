//! The machine as the rest of Postern sees it; `fake/mod.rs` has the same items.

use super::features::{self, Feature};
use super::xapic::WINDOW;
use super::{apic, cache, host, percpu, power, tlb, world};
use crate::{BootInfo, HostFiles, Place};
use abi::host::dialect;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use guestmem::{Pfn, Size, Space};
use loader::{BootError, Bytes, bzimage, zero_page};

pub use super::section::longest;
pub use super::serial::Serial;
pub use super::stage2::Stage2 as Format;
pub use super::timer::{frequency, now};
pub use super::vcpu::{Vcpu, Vm};

/// Frames of a VM's metadata that a vCPU takes besides the one it is in: its VMCS, its extended state and its APIC's
/// registers.
pub const VCPU_FRAMES: usize = 3;
/// Memory at the bottom that is the firmware's and the CPUs' when they start: nothing is put there.
pub const LOW_MEMORY: Bytes = 0..0x10_0000;
/// Guest ABIs that this machine can run, as [`abi::host::dialect`] numbers them.
pub const DIALECTS: &[u64] = &[dialect::TDX];

/// This machine.
#[derive(Debug)]
pub struct Machine(());

impl Machine {
    /// The one value; boot makes it.
    ///
    /// # Safety
    /// All RAM of the machine is mapped in Postern's tables, write-back, at its physical address, and stays so.
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

    #[inline(always)]
    fn flush(&self, space: Space, address: u64, _size: Size) {
        tlb::flush(space, address);
    }

    fn flush_all(&self, space: Space) {
        tlb::flush_all(space);
    }

    fn publish(&self) {
        // Stores are seen in their order, by table walks too (SDM volume 3, "Memory Ordering"): only the compiler could change it.
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }

    fn should_yield(&self) -> bool {
        apic::interrupt_pending() || host::is_wanted()
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
    if tlb::cpus().contains(&index) {
        tlb::kick(index);
    }
}

/// No CPU may execute what was fetched before this: new code is about to run where other code was. It has to enter before it
/// runs the new code, and an entry serialises (SDM volume 3, "Serializing Instructions", "Self-Modifying Code").
pub fn forget_instructions() {}

/// Bits of the host's and guests' physical addresses.
pub fn ipa_bits() -> u64 {
    features::ipa_bits()
}

/// Registers that the host may not reach itself: the local APIC's. Devices that write to memory are not held back.
pub fn hidden_devices(_machine: &loader::Machine) -> impl Iterator<Item = Bytes> {
    core::iter::once(WINDOW)
}

/// Physical memory as bytes.
///
/// # Safety
/// `range` is RAM, and nobody writes it while the slice lives.
pub unsafe fn bytes(range: &Bytes) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize) }
}

/// Copies `from` to physical address `to`.
///
/// # Safety
/// The memory at `to` is RAM that nothing else uses.
pub unsafe fn copy(from: &[u8], to: u64) {
    // SAFETY: the caller's promise; the source is a slice, so it does not overlap memory that nothing uses.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
}

/// Fills physical memory with zeroes.
///
/// # Safety
/// As for [`copy`].
pub unsafe fn zero(range: &Bytes) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(range.start as *mut u8, 0, (range.end - range.start) as usize) };
}

/// Reads the header of a host's kernel.
///
/// # Errors
/// It is no bzImage that can be started in 64-bit mode.
pub fn host_image(file: &[u8], name: &'static str) -> Result<loader::image::Image, BootError> {
    bzimage::parse(file, name)
}

/// Writes the host's zero page and what belongs to it, and says where it is to go; needs the heap.
///
/// # Errors
/// See [`zero_page::zero_page`]; there is no place for it.
pub fn describe_host(info: &BootInfo, host: &HostFiles<'_>, place: Place<'_>) -> Result<(u64, Vec<u8>), BootError> {
    let at = place(zero_page::SIZE)?;
    if at + zero_page::SIZE > 1 << 32 {
        return Err(BootError::Memory("the description of the machine below 4 GiB"));
    }
    let postern = [info.image.clone(), info.memory.clone()];
    let files = zero_page::Host { kernel: host.kernel, initrd: &host.initrd, cmdline: host.cmdline };
    Ok((at, zero_page::zero_page(&info.machine, &postern, &files, at)?))
}

/// Enters the host on this CPU.
pub fn run_host(entry: u64, argument: u64) -> ! {
    let apics = if features::has(Feature::Apicv) { "by the CPU (APICv)" } else { "in software" };
    log::info!("guests' interrupts are delivered {apics}");
    log::info!("against speculation: {}", world::cpu().barriers);
    host::run(entry, argument)
}

/// Switches the machine off.
pub fn power_off() -> ! {
    power::off()
}
