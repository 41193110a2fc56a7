//! x86-64: Postern is a Multiboot2 program and is started as GRUB would (Multiboot2 Specification, sections 3.3 and 3.6).
#![allow(unsafe_code)] // The counter, machine registers, and the jump.

use crate::boot::{self, Loaded, no_room};
use crate::files::Volume;
use crate::measure::Measurements;
use crate::memory::Pages;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::arch::x86_64::{__cpuid, _rdtsc};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use loader::config::Config;
use loader::eventlog::PCR_FILES;
use loader::memory_map::MemoryMap;
use loader::{BootError, elf, multiboot, multiboot_info};

/// This machine.
pub const NAME: &str = "x86-64";
/// Postern is entered in 32-bit mode, so all it is given is below 4 GiB.
pub const LIMIT: u64 = u32::MAX as u64;
/// Reads the header of the host's kernel.
pub use loader::bzimage::parse as host_image;

/// Room for what the last memory map may have more than the one before.
const SLACK: usize = 4 << 10;
/// How long the counter is watched to know its frequency.
const SAMPLE: Duration = Duration::from_millis(10);
/// IA32_FEATURE_CONTROL (SDM volume 3, "Enabling and Entering VMX Operation"): locked, VMX outside SMX.
const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1 << 0;
const VMX: u64 = 1 << 2;

static TICKS_IN_SAMPLE: AtomicU64 = AtomicU64::new(0);

/// The time stamp counter.
pub fn counter() -> u64 {
    // SAFETY: reads a counter.
    unsafe { _rdtsc() }
}

/// Ticks as milliseconds.
pub fn milliseconds(ticks: u64) -> u64 {
    ticks.saturating_mul(SAMPLE.as_millis() as u64) / TICKS_IN_SAMPLE.load(Ordering::Relaxed).max(1)
}

/// Whether Postern can run here at all.
pub fn check() -> Result<(), String> {
    let start = counter();
    uefi::boot::stall(SAMPLE);
    TICKS_IN_SAMPLE.store(counter() - start, Ordering::Relaxed);
    if __cpuid(1).ecx & 1 << 5 == 0 {
        return Err("the CPU has no VMX: Postern needs an Intel CPU with VMX and EPT".to_string());
    }
    let (low, high): (u32, u32);
    // SAFETY: CPUs with VMX have this register.
    unsafe { asm!("rdmsr", in("ecx") FEATURE_CONTROL, out("eax") low, out("edx") high, options(nomem, nostack)) };
    let control = u64::from(low) | u64::from(high) << 32;
    if control & LOCKED != 0 && control & VMX == 0 {
        return Err("firmware has switched VMX off: turn virtualisation (VT-x) on in its set-up".to_string());
    }
    Ok(())
}

/// Postern in memory.
pub struct Image {
    entry: u64,
    /// Kept: dropped pages go back to the firmware.
    _pages: Pages,
}

impl Image {
    /// Copies each segment from the file to where it runs. The file as it is gets measured: its headers, too, say what runs.
    pub fn load(volume: &mut Volume, path: &str, measurements: &mut Measurements) -> Result<Self, String> {
        let mut file = volume.file(path)?;
        let mut whole = Pages::new(file.size, abi::FRAME_SIZE).ok_or_else(|| no_room("Postern"))?;
        let bytes = whole.bytes();
        file.read(0, bytes)?;
        let program = elf::parse(bytes, bytes.len() as u64, elf::X86_64).map_err(|error| format!("{path}: {error}"))?;
        measurements.add(PCR_FILES, bytes, "postern")?;
        let (start, end) = (program.memory.start, program.memory.end);
        let mut pages = Pages::new((end - start) as usize, abi::BLOCK_SIZE).ok_or_else(|| no_room("Postern"))?;
        let room = pages.bytes();
        for segment in &program.segments {
            let at = (segment.memory.start - start) as usize;
            room[at..][..segment.size as usize]
                .copy_from_slice(&bytes[segment.offset as usize..][..segment.size as usize]);
        }
        let entry = pages.address() + (program.entry - start);
        Ok(Self { entry, _pages: pages })
    }
}

/// What only this machine needs: nothing.
pub struct Extra;

impl Extra {
    /// Settings that mean nothing here are refused, not ignored.
    pub fn load(_: &mut Volume, config: &Config<'_>, _: &mut Measurements) -> Result<Self, String> {
        if config.device_tree.is_some() || config.console.is_some() {
            return Err("the settings `device-tree` and `console` are for arm64: remove them".to_string());
        }
        Ok(Self)
    }
}

/// The boot information that Postern gets.
pub struct Description {
    info: Pages,
    jump: Pages,
}

impl Description {
    /// Writes it once, reads it as Postern will, and keeps room to write it again.
    pub fn new(all: &mut Loaded, map: &MemoryMap, _: &Extra) -> Result<Self, String> {
        let bytes = write(all, map).map_err(boot::say)?;
        multiboot::parse(&bytes, 0).map_err(boot::say)?;
        let info = Pages::new(bytes.len() + SLACK, abi::FRAME_SIZE).ok_or_else(|| no_room("the boot information"))?;
        let jump = Pages::code(4096).ok_or_else(|| no_room("the last instructions"))?;
        Ok(Self { info, jump })
    }

    /// Writes it for good.
    pub fn finish(&mut self, all: &mut Loaded, map: &MemoryMap, _: &Extra) -> Result<(), BootError> {
        let bytes = write(all, map)?;
        let room = self.info.bytes().get_mut(..bytes.len()).ok_or(BootError::Memory("the boot information"))?;
        room.copy_from_slice(&bytes);
        boot::write_record(all, map).ok_or(BootError::Memory("the record of the boot"))
    }

    /// Copies the way out of 64-bit mode below 4 GiB, with its descriptors.
    fn place_jump(&mut self) -> u64 {
        let (start, end) = (&raw const postern_leave, &raw const postern_leave_end);
        // SAFETY: both labels are in this program's text, the second after the first.
        let code = unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) };
        let at = self.jump.address();
        let page = self.jump.bytes();
        page[..code.len()].copy_from_slice(code);
        // Nothing, 32-bit code, data: flat (SDM volume 3, "Segment Descriptors").
        for (index, descriptor) in [0, 0x00cf_9a00_0000_ffff, 0x00cf_9200_0000_ffff_u64].into_iter().enumerate() {
            page[TABLE + index * 8..][..8].copy_from_slice(&descriptor.to_le_bytes());
        }
        page[POINTER..POINTER + 2].copy_from_slice(&23u16.to_le_bytes());
        page[POINTER + 2..POINTER + 10].copy_from_slice(&(at + TABLE as u64).to_le_bytes());
        at
    }
}

fn write(all: &Loaded, map: &MemoryMap) -> Result<Vec<u8>, BootError> {
    let rsdp = (all.facts.rsdp != 0).then(|| {
        // SAFETY: firmware says that ACPI's root pointer is there; the older kind has 20 bytes, the revision at 15.
        let old = unsafe { core::slice::from_raw_parts(all.facts.rsdp as *const u8, 20) };
        let size = if old[15] == 0 { 20 } else { 36 };
        // SAFETY: as above; the newer kind has 36 bytes (ACPI Specification 6.5, section 5.2.5.3).
        unsafe { core::slice::from_raw_parts(all.facts.rsdp as *const u8, size) }
    });
    let record = all.record.range();
    multiboot_info::write(&all.facts, map, rsdp, &record).ok_or(BootError::HandOff("place for the bundle below 4 GiB"))
}

/// Starts Postern.
pub fn start(all: &mut Loaded, mut description: Description) -> ! {
    let at = description.place_jump();
    // SAFETY: boot services are gone; the code at `at` is below 4 GiB, where firmware maps all memory to itself, and
    // Postern's image and the boot information are complete.
    unsafe {
        asm!(
            "jmp {at}",
            at = in(reg) at,
            in("rdi") at,
            in("rsi") description.info.address(),
            in("rdx") all.postern.entry,
            options(noreturn)
        );
    }
}

/// Offsets of descriptor table and pointer in the page of the jump.
const TABLE: usize = 0x800;
const POINTER: usize = 0x840;

unsafe extern "C" {
    static postern_leave: u8;
    static postern_leave_end: u8;
}

// Runs from the page whose address is in RDI. RSI: boot information, RDX: Postern's first instruction. Leaving 64-bit
// mode: SDM volume 3, "Switching Out of IA-32e Mode Operation". The stack is the page's own end.
global_asm!(
    ".global postern_leave, postern_leave_end",
    "postern_leave:",
    "cli",
    "cld",
    "lea rsp, [rdi + 4096]",
    "mov ebp, edx",
    "lgdt [rdi + {pointer}]",
    "push 8",
    "lea rax, [rip + 2f]",
    "push rax",
    "retfq",
    ".code32",
    "2: mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ss, eax",
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "and eax, 0xfffffeff",
    "wrmsr",
    "xor eax, eax",
    "mov cr4, eax",
    "mov ebx, esi",
    "mov eax, {magic}",
    "jmp ebp",
    ".code64",
    "postern_leave_end:",
    pointer = const POINTER,
    magic = const multiboot::MAGIC,
);
