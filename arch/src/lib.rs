//! The machine below Postern.
//!
//! One folder for each architecture, with mirrored file names; `machine` is the one that is being built for, or the
//! fake one, a machine in host memory for tests, where that is none. What every machine offers is what
//! `machine::{Machine, Vm, Vcpu}` and the functions beside them have in common; the types that cross the boundary are here.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod aarch64;
pub mod console;
#[cfg(not(target_os = "none"))]
pub mod fake;
pub mod screen;
pub mod x86_64;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use aarch64::machine;
#[cfg(not(target_os = "none"))]
pub use fake as machine;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
pub use x86_64::machine;

use guestmem::{OwnerId, Pfn};
use loader::received::Received;
use loader::{BootError, Bytes};
use spin::Once;

/// A set of a VM's vCPUs: bit n is vCPU n.
pub type VcpuMask = u32;

/// How a guest makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
    /// TDCALL.
    Tdcall,
}

/// Calls of a guest that can be answered while its world stays loaded.
pub trait QuickCalls {
    /// x0 to x3 for the call with these x0 to x3; `None`, with nothing changed, when it has to go the long way.
    fn call(&self, conduit: Conduit, x: [u64; 4]) -> Option<[u64; 4]>;
    /// Answers TDCALL, the quick way first if it may be `quick`, and says whether the guest goes on. Otherwise [`Exit::Call`]
    /// leaves with what has come of it.
    fn tdcall(&self, vcpu: &mut machine::Vcpu, quick: bool) -> bool;
    /// The 64-bit word at a multiple of eight in the guest's private memory, for a walk of its own page tables; `None`
    /// when there is nothing.
    fn read_private(&self, address: u64) -> Option<u64>;
    /// The frame that holds the page around an address of the guest's private memory, at this moment: it may be taken out
    /// as soon as this returns. `None` when there is nothing.
    fn private_frame(&self, address: u64) -> Option<Pfn>;
}

/// A port access of a guest: all of its registers that a host ever sees of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// Port number.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u32,
    /// The value of a write; none for a read.
    pub value: Option<u32>,
}

/// What a guest asks for after a virtualization exception (SDM volume 3, "Virtualization exceptions").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeInfo {
    /// Basic exit reason.
    pub reason: u32,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest linear address.
    pub gla: u64,
    /// Guest physical address, with the bit that selects the shared half.
    pub gpa: u64,
    /// Bytes of the instruction; undefined for an EPT violation.
    pub length: u32,
    /// VM-exit instruction information.
    pub info: u32,
}

/// The operand of a device access: all of a guest's registers that a host ever sees of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Bytes: 1, 2, 4 or 8.
    pub size: u32,
    /// The value of a write; none for a read.
    pub value: Option<u64>,
    /// Register that a read goes to; 31 discards it.
    pub rt: usize,
    /// A read is sign-extended.
    pub sign_extend: bool,
    /// The register is 64 bits wide.
    pub wide: bool,
}

/// A stage-2 fault of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Intermediate physical address in bytes, with the bit that selects the shared half.
    pub address: u64,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// A fault on the guest's own table walk.
    pub walk: bool,
    /// The operand, when the hardware reports it.
    pub access: Option<MmioAccess>,
}

/// Why a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Nothing for anybody: run on.
    Handled,
    /// The guest did what it may not and was given an exception: run on.
    Refused,
    /// A physical interrupt waits for the host.
    Interrupt,
    /// The guest waits for an interrupt and has none.
    Wait,
    /// HVC #0, SMC #0 or TDCALL.
    Call(Conduit),
    /// An access to an I/O port. It is done: a read waits for its value.
    Port(PortAccess),
    /// The vCPU cannot go on: a fault in the delivery of a double fault.
    Shutdown,
    /// A stage-2 fault that is not in the interrupt controller.
    Abort(Abort),
    /// An SError of the machine.
    SError {
        /// ESR_EL2.
        syndrome: u64,
    },
}

/// What the architecture needs to know of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// Owner number, also its VMID.
    pub owner: OwnerId,
    /// vCPUs, at most `abi::host::VCPUS_MAX`.
    pub vcpu_count: usize,
    /// Guest physical address of the interrupt distributor.
    pub gicd_base: u64,
    /// Guest physical address of the redistributors.
    pub gicr_base: u64,
    /// The address bit that selects the shared half, as a value; 0 when there is none.
    pub alias: u64,
}

/// What becomes of a host access that has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFault {
    /// Look again: the translation was being changed.
    Retry,
    /// It is not the host's: an exception.
    Deny,
}

/// The hypervisor as the architecture calls it.
pub trait Kernel: Sync {
    /// A call of the host: status, then three results.
    fn host_call(&self, number: u64, arguments: [u64; 6]) -> [u64; 4];
    /// Runs `f` if no guest has memory, and none gets any meanwhile; whether it did.
    fn while_idle(&self, f: &mut dyn FnMut()) -> bool;
    /// The word at a multiple of eight in memory that the host may read; `None` when it is not that.
    fn read_host(&self, address: u64) -> Option<u64>;
    /// The host touched `address` and found nothing there.
    fn host_fault(&self, address: u64, write: bool, fetch: bool) -> HostFault;
}

static KERNEL: Once<&'static dyn Kernel> = Once::new();

/// Installs the hypervisor; once, before the host runs.
pub fn set_kernel(kernel: &'static dyn Kernel) {
    KERNEL.call_once(|| kernel);
}

/// The hypervisor. Only on paths that a running host or guest has caused.
pub fn kernel() -> &'static dyn Kernel {
    *KERNEL.get().expect("the hypervisor is installed before the host runs")
}

/// What a host finds when it starts.
#[derive(Clone, Debug)]
pub struct HostFiles<'a> {
    /// Its kernel's file.
    pub kernel: &'a [u8],
    /// Its initrd, a range of physical memory.
    pub initrd: Bytes,
    /// Its command line.
    pub cmdline: &'a str,
}

/// Finds a place for so many bytes: its physical address.
pub type Place<'a> = &'a mut dyn FnMut(u64) -> Result<u64, BootError>;

/// What boot hands to the hypervisor.
#[derive(Debug)]
pub struct BootInfo {
    /// The machine as its firmware describes it.
    pub machine: loader::Machine,
    /// The device tree blob; empty on machines that have none.
    pub tree: &'static [u8],
    /// Postern's image.
    pub image: Bytes,
    /// All other memory that Postern keeps: stacks, tables, records.
    pub memory: Bytes,
    /// The part of `memory` that is not in use yet.
    pub free: Bytes,
    /// What the UEFI application has left, where it has booted Postern; or why that is of no use.
    pub record: Option<Result<Received, BootError>>,
    /// [`machine::now`] at Postern's first instruction in Rust.
    pub entered_at: u64,
}
