//! The hand-off from whatever booted Postern: what it says of the machine, the bundle of files that came as initrd or
//! module, and what the host gets to see of it: a device tree, or the zero page of the x86 boot protocol.
//!
//! All of it is untrusted until checked: every function here answers malformed input with a [`BootError`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod acpi_tree;
pub mod archive;
pub mod boot_tree;
pub mod bundle;
pub mod bzimage;
pub mod config;
pub mod cpio;
pub mod elf;
pub mod eventlog;
pub mod fdt;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod handoff;
pub mod host_tree;
pub mod image;
pub mod layout;
pub mod machine;
pub mod memory_map;
pub mod multiboot;
pub mod multiboot_info;
pub mod received;
pub mod screen;
pub mod tpm;
pub mod zero_page;

use core::fmt;
use core::ops::Range;

pub use machine::Machine;

/// A range of physical addresses in bytes.
pub type Bytes = Range<u64>;

/// Why Postern cannot boot; each says what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The device tree blob is damaged.
    DeviceTree,
    /// The device tree lacks a node or property that Postern needs, or it cannot be understood.
    Node(&'static str),
    /// More of something than Postern has room for.
    TooMany(&'static str),
    /// Two ranges that must be apart overlap.
    Overlap(&'static str),
    /// No initrd, so no bundle with a host to run.
    NoBundle,
    /// The bundle is not an uncompressed `newc` cpio archive, or it is cut short.
    Bundle,
    /// A file is missing from the bundle.
    File(&'static str),
    /// A kernel is not an arm64 Linux `Image`.
    Image(&'static str),
    /// A kernel is not an x86-64 Linux `bzImage` that can be started in 64-bit mode.
    BzImage(&'static str),
    /// The hand-off of the boot loader is damaged or lacks something.
    HandOff(&'static str),
    /// Not enough memory.
    Memory(&'static str),
    /// The CPU lacks something, or was started in the wrong mode.
    Cpu(&'static str),
    /// The CPU lacks these.
    Lacks(Lacking),
    /// What firmware tells by ACPI's tables is damaged: this part of it.
    Acpi(&'static str),
}

/// Some of a list of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// All that could be lacking, at most 32.
    pub names: &'static [&'static str],
    /// Bit n: the n-th of them is.
    pub missing: u32,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.names.iter().enumerate().filter(|(n, _)| self.missing >> n & 1 != 0);
        for (count, (_, name)) in missing.enumerate() {
            write!(f, "{}{name}", if count == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceTree => write!(f, "the device tree is damaged: boot with the one that firmware made"),
            Self::Node(what) => write!(f, "the device tree has no usable {what}"),
            Self::TooMany(what) => write!(f, "the machine has more {what} than this build of Postern can manage"),
            Self::Overlap(what) => write!(f, "{what} overlap in memory: check the addresses the boot loader uses"),
            Self::NoBundle => write!(f, "no initrd: pass a bundle (docs/boot.md) as initrd"),
            Self::Bundle => write!(f, "the initrd is not a complete newc cpio archive: rebuild the bundle"),
            Self::File(name) => write!(f, "the bundle has no {name}"),
            Self::Image(name) => write!(f, "{name} is not an arm64 Linux Image, or it is cut short"),
            Self::BzImage(name) => {
                write!(f, "{name} is not an x86-64 Linux bzImage with a 64-bit entry, or it is cut short")
            }
            Self::HandOff(what) => write!(f, "the boot loader passed no usable {what}"),
            Self::Memory(what) => write!(f, "too little memory for {what}"),
            Self::Cpu(what) => write!(f, "{what}"),
            Self::Lacks(what) => write!(f, "the CPU lacks what Postern needs: {what}"),
            Self::Acpi(what) => write!(f, "firmware's ACPI tables are damaged ({what}): update the firmware"),
        }
    }
}

/// Whether two ranges have an address in common.
pub fn overlap(a: &Bytes, b: &Bytes) -> bool {
    a.start < b.end && b.start < a.end
}

/// `range` widened to whole frames; `None` when that leaves the address space.
pub fn whole_frames(range: &Bytes) -> Option<Bytes> {
    let end = range.end.checked_add(abi::FRAME_SIZE - 1)?;
    Some(range.start & !(abi::FRAME_SIZE - 1)..end & !(abi::FRAME_SIZE - 1))
}
