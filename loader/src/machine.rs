//! The machine as its boot loader and firmware describe it, whichever way they do that.

use crate::Bytes;
use crate::screen::Layout;
use arrayvec::ArrayVec;

/// Most memory ranges, reserved ranges and redistributor regions.
pub const RANGES_MAX: usize = 32;
/// Most CPUs.
pub const CPUS_MAX: usize = 32;

/// What the machine has. What its architecture does not know stays empty.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// RAM, sorted, without overlaps.
    pub memory: ArrayVec<Bytes, RANGES_MAX>,
    /// Memory that firmware keeps: reserved memory of a device tree, ACPI's tables.
    pub reserved: ArrayVec<Bytes, RANGES_MAX>,
    /// The initrd or module that the boot loader passed: the bundle.
    pub initrd: Option<Bytes>,
    /// MPIDR affinity values or x2APIC identifiers of the CPUs.
    pub cpus: ArrayVec<u64, CPUS_MAX>,
    /// Registers of the PL011 that `stdout-path` names, else of the first one.
    pub uart: Option<Bytes>,
    /// GICv3 distributor registers.
    pub distributor: Bytes,
    /// GICv3 redistributor regions.
    pub redistributors: ArrayVec<Bytes, RANGES_MAX>,
    /// Interrupt translation services: a way to write memory that stage 2 does not cover.
    pub its: ArrayVec<Bytes, RANGES_MAX>,
    /// The picture memory, when there is a screen that can be written to.
    pub screen: Option<Layout>,
    /// Address of ACPI's root pointer.
    pub rsdp: Option<u64>,
    /// Multiboot2: firmware is UEFI, whose table of tables alone says where ACPI's root pointer is.
    pub uefi: bool,
    /// Address of the record that the UEFI application leaves ([`crate::handoff`]); the host is told of it too.
    pub hand_off: Option<u64>,
}
