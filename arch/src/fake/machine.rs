//! The machine as the rest of Postern sees it; `aarch64/machine.rs` has the same items.

use crate::{BootInfo, HostFiles, Place};
use abi::host::dialect;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::{Pfn, Space};
use loader::Bytes;

pub use crate::aarch64::stage2::Stage2 as Format;

/// Frames of a VM's metadata that a vCPU takes besides the one it is in.
pub const VCPU_FRAMES: usize = 0;
/// Memory at the bottom that is the firmware's and the CPUs' when they start: nothing is put there.
pub const LOW_MEMORY: Bytes = 0..0;
/// Guest ABIs that this machine can run, as [`abi::host::dialect`] numbers them.
pub const DIALECTS: &[u64] = &[dialect::PKVM, dialect::REALM, dialect::TDX];

/// This machine: RAM, and a TLB that keeps what it has until that is flushed.
pub type Machine = guestmem::fake::Fake<Format>;

/// Bits of an intermediate physical address: what the table format's two root frames can translate.
const IPA_BITS: u64 = 40;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Tells the machine where the tables of a space are. The fake one walks tables only when a test asks it to, and the
/// test says where they are.
pub fn set_root(_: Space, _: Pfn) {}

/// Nothing is fetched here.
pub fn forget_instructions() {}

/// Index of the CPU that this thread plays.
pub fn cpu() -> usize {
    CPU.get()
}

/// Makes this thread play CPU `index`, instead of CPU 0.
pub fn set_cpu(index: usize) {
    CPU.set(index);
}

/// Makes a CPU leave the guest that it runs. The guests here come back after every instruction.
pub fn interrupt_cpu(_: usize) {}

/// Bits of the host's and guests' intermediate physical addresses.
pub fn ipa_bits() -> u64 {
    IPA_BITS
}

/// Register frames that the host may not reach itself.
pub fn hidden_devices(machine: &loader::Machine) -> impl Iterator<Item = Bytes> {
    machine.its.clone().into_iter()
}

/// The system counter: moves on by one tick each time somebody looks.
pub fn now() -> u64 {
    static TICKS: AtomicU64 = AtomicU64::new(0);
    TICKS.fetch_add(1, Ordering::Relaxed)
}

/// Ticks of [`now`] in a second.
pub fn frequency() -> u64 {
    1_000_000_000
}

/// Longest time with interrupts off in ticks, and its cause: this machine has no interrupts.
pub fn longest() -> (u64, u64) {
    (0, 0)
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
pub fn describe_host(
    info: &BootInfo,
    host: &HostFiles<'_>,
    place: Place<'_>,
) -> Result<(u64, Vec<u8>), loader::BootError> {
    let postern = [info.image.clone(), info.memory.clone()];
    let tree = loader::host_tree::host_tree(info.tree, &info.machine, &postern, Some(&host.initrd), host.cmdline)?;
    Ok((place(tree.len() as u64)?, tree))
}

/// Enters the host on this CPU: the test is the host, so there is nothing to enter.
pub fn run_host(entry: u64, argument: u64) -> ! {
    panic!("entered the host at {entry:#x} with {argument:#x}")
}

/// Switches the machine off.
pub fn power_off() -> ! {
    panic!("the machine was switched off")
}
