//! arm64: Postern is an `Image` that is started as Linux would be (Linux `Documentation/arch/arm64/booting.rst`).
#![allow(unsafe_code)] // System registers, caches, and the jump.

use crate::boot::{self, Loaded, no_room, say};
use crate::files::Volume;
use crate::firmware;
use crate::measure::Measurements;
use crate::memory::Pages;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::arch::asm;
use loader::acpi_tree::acpi_tree;
use loader::boot_tree::{Facts, boot_tree};
use loader::config::Config;
use loader::eventlog::PCR_FILES;
use loader::memory_map::MemoryMap;
use loader::{BootError, Bytes, acpi, fdt, handoff, image};
use uefi::println;

/// This machine.
pub const NAME: &str = "arm64";
/// Memory may be anywhere.
pub const LIMIT: u64 = u64::MAX;
/// Reads the header of the host's kernel.
pub use loader::image::parse as host_image;

/// Largest device tree (booting.rst, section 2).
const TREE_MAX: usize = 2 << 20;
/// Room in the tree for what the last memory map may have more than the one before.
const TREE_SLACK: usize = 16 << 10;

/// The system counter.
pub fn counter() -> u64 {
    let ticks;
    // SAFETY: reads a counter, in order.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) ticks, options(nostack)) };
    ticks
}

/// Ticks as milliseconds.
pub fn milliseconds(ticks: u64) -> u64 {
    let frequency: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    ticks.saturating_mul(1000) / frequency.max(1)
}

/// Whether Postern can run here at all.
pub fn check() -> Result<(), String> {
    let level: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, CurrentEL", out(reg) level, options(nomem, nostack)) };
    if level >> 2 != 2 {
        return Err("firmware runs at EL1: turn virtualisation on in firmware or emulator".to_string());
    }
    Ok(())
}

/// Postern in memory.
pub struct Image {
    pages: Pages,
}

impl Image {
    /// Loads the file straight to where it runs.
    pub fn load(volume: &mut Volume, path: &str, measurements: &mut Measurements) -> Result<Self, String> {
        let mut file = volume.file(path)?;
        let mut header = [0; 64];
        let known = file.size.min(header.len());
        file.read(0, &mut header[..known])?;
        let image = image::parse(&header[..known], "").ok().zip(image::own_size(&header[..known]));
        let Some((image, own_size)) = image.filter(|(image, _)| image.text_offset == 0) else {
            let what = if header.starts_with(b"\x7fELF") { "an ELF program" } else { "no arm64 Image of Postern" };
            return Err(format!("{path} is {what}: take the file `postern.bin` of an arm64 build"));
        };
        if (file.size as u64).next_multiple_of(64) < own_size || image.size < file.size as u64 {
            return Err(format!("{path} has {} of {own_size} bytes: copy it again", file.size));
        }
        let mut pages = Pages::new(image.size as usize, abi::BLOCK_SIZE).ok_or_else(|| no_room("Postern"))?;
        let room = &mut pages.bytes()[..file.size];
        file.read(0, room)?;
        measurements.add(PCR_FILES, room, "postern")?;
        Ok(Self { pages })
    }
}

/// What only this machine needs: the device tree to start from.
pub struct Extra<'a> {
    tree: Vec<u8>,
    console: Option<&'a str>,
}

impl<'a> Extra<'a> {
    /// The settings' tree, else the firmware's.
    pub fn load(volume: &mut Volume, config: &Config<'a>, measurements: &mut Measurements) -> Result<Self, String> {
        let tree = match config.device_tree {
            Some(path) => volume.small(path, TREE_MAX)?,
            None => firmware::device_tree().map_or_else(tree_by_acpi, |tree| Ok(tree.to_vec()))?,
        };
        measurements.add(PCR_FILES, &tree, "device-tree")?;
        Ok(Self { tree, console: config.console })
    }
}

/// A tree of what ACPI says, where firmware has no other.
fn tree_by_acpi() -> Result<Vec<u8>, String> {
    let none = "firmware describes the machine neither by a device tree nor by ACPI: put the board's device tree on this \
                volume and set `device-tree`";
    let rsdp = firmware::rsdp().ok_or(none)?;
    println!("postern: firmware has no device tree: making one of ACPI's tables");
    let tables = firmware::with_memory(|read| acpi::read(rsdp, read))?;
    tables.and_then(|tables| acpi_tree(&tables)).map_err(say)
}

/// The tree that Postern gets.
pub struct Description {
    tree: Pages,
    used: usize,
}

impl Description {
    /// Writes it once, reads it as Postern will, and keeps room to write it again.
    pub fn new(all: &mut Loaded, map: &MemoryMap, extra: &Extra<'_>) -> Result<Self, String> {
        let bytes = write(all, map, extra).map_err(say)?;
        fdt::parse(&bytes).map_err(say)?;
        let tree = Pages::new(bytes.len() + TREE_SLACK, abi::FRAME_SIZE).ok_or_else(|| no_room("the device tree"))?;
        Ok(Self { tree, used: 0 })
    }

    /// Writes it for good.
    pub fn finish(&mut self, all: &mut Loaded, map: &MemoryMap, extra: &Extra<'_>) -> Result<(), BootError> {
        let bytes = write(all, map, extra)?;
        let room = self.tree.bytes().get_mut(..bytes.len()).ok_or(BootError::Memory("the device tree"))?;
        room.copy_from_slice(&bytes);
        self.used = bytes.len();
        all.facts.tree = abi::handoff::Region { start: self.tree.address(), size: self.used as u64 };
        boot::write_record(all, map).ok_or(BootError::Memory("the record of the boot"))
    }
}

fn write(all: &mut Loaded, map: &MemoryMap, extra: &Extra<'_>) -> Result<Vec<u8>, BootError> {
    let seed = (all.facts.flags & abi::handoff::flag::SEEDED != 0).then(|| host_seed(&all.facts.seed));
    let facts = Facts {
        memory: map,
        bundle: handoff::bytes(&all.facts.bundle).ok_or(BootError::NoBundle)?,
        record: all.record.range(),
        console: extra.console,
        seed,
    };
    boot_tree(&extra.tree, &facts)
}

/// The host's seed says nothing of Postern's.
fn host_seed(seed: &[u8; 64]) -> [u8; 64] {
    use sha2::{Digest, Sha512};
    Sha512::new().chain_update(b"postern: seed of the host").chain_update(seed).finalize().into()
}

/// Puts everything where a CPU without caches sees it, and starts Postern.
pub fn start(all: &mut Loaded, description: Description) -> ! {
    for range in [&all.postern.pages, &all.record, &description.tree].map(Pages::range) {
        clean(&range);
    }
    clean(&handoff::bytes(&all.facts.bundle).unwrap_or_default());
    // The last instructions here run without caches too.
    let last = leave as *const () as u64;
    clean(&(last..last + 4096));
    // SAFETY: boot services are gone; Postern's image and the tree are complete and clean.
    unsafe { leave(description.tree.address(), all.postern.pages.address()) }
}

/// Cleans and invalidates the data cache to the point of coherency.
fn clean(range: &Bytes) {
    let kind: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) kind, options(nomem, nostack)) };
    let line = 4 << (kind >> 16 & 0xf);
    for at in (range.start & !(line - 1)..range.end).step_by(line as usize) {
        // SAFETY: changes no content.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Leaves the machine as booting.rst wants it: interrupts masked, timers and CPU interface off, MMU and caches off, EL2
/// controls without what firmware had trapped; then jumps with x0 = `tree`.
#[unsafe(naked)]
unsafe extern "C" fn leave(tree: u64, entry: u64) -> ! {
    core::arch::naked_asm!(
        "msr daifset, #0xf",
        "mov x19, x0",
        "mov x20, x1",
        // Timers: CNTP, CNTV, CNTHP (Arm ARM D12).
        "msr cntp_ctl_el0, xzr",
        "msr cntv_ctl_el0, xzr",
        "msr cnthp_ctl_el2, xzr",
        // The CPU interface, where it is system registers (ID_AA64PFR0_EL1.GIC) that are switched on (ICC_SRE_EL2.SRE).
        "mrs x2, id_aa64pfr0_el1",
        "ubfx x2, x2, #24, #4",
        "cbz x2, 2f",
        "mrs x2, S3_4_C12_C9_5",
        "tbz x2, #0, 2f",
        "msr S3_0_C12_C12_7, xzr", // ICC_IGRPEN1_EL1
        "isb",
        // MMU and both caches off.
        "2: mrs x2, sctlr_el2",
        "bic x2, x2, #(1 << 0)",
        "bic x2, x2, #(1 << 2)",
        "bic x2, x2, #(1 << 12)",
        "msr sctlr_el2, x2",
        "isb",
        "ic iallu",
        "tlbi alle2",
        "dsb sy",
        "isb",
        // HCR_EL2: a 64-bit EL1, nothing trapped; CNTHCTL_EL2: EL1 may use counter and timer; no counter offset.
        "mov x2, #(1 << 31)",
        "msr hcr_el2, x2",
        "isb",
        "mov x2, #3",
        "msr cnthctl_el2, x2",
        "msr cntvoff_el2, xzr",
        "isb",
        "mov x0, x19",
        "mov x1, xzr",
        "mov x2, xzr",
        "mov x3, xzr",
        "br x20",
    )
}
