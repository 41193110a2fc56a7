//! What Postern's UEFI application leaves for Postern: the version-checked record of how the machine was booted.
//!
//! Postern does not need it to boot. The application speaks the protocol that any boot loader speaks to Postern (a
//! device tree on arm64, Multiboot2 on x86-64), and this record says in addition what those protocols cannot: the
//! firmware's whole memory map, the measurements, seeds, times, and the settings of the user.

/// `POSTERN` and a zero byte, little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"POSTERN\0");
/// Version of the layout. A record of another version is not read; fields are only ever added at the end, which needs no
/// new version, because [`HandOff::size`] says how many there are.
pub const VERSION: u32 = 1;
/// Bytes of the shortest record of this version: what is behind them is zero where it is absent.
pub const SIZE_MIN: usize = core::mem::offset_of!(HandOff, reading);
/// Most entries of the memory map.
pub const MEMORY_MAX: usize = 128;
/// Name of the property of `/chosen` with the record's address (arm64): two cells.
pub const TREE_PROPERTY: &str = "postern,hand-off";
/// Type of the Multiboot2 tag with the record's address (x86-64): one 64-bit word. Types of this size are nobody's. The
/// host finds the address behind the same number, in the `setup_data` of its boot parameters.
pub const MULTIBOOT_TAG: u32 = 0x5053_544e;

/// The record. It starts at a multiple of eight; all addresses are physical, all sizes are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOff {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of this record, at least those of this structure.
    pub size: u32,
    /// Address of the memory map: [`MemoryRange`]s, sorted and without overlaps.
    pub memory: u64,
    /// Number of its entries, at most [`MEMORY_MAX`].
    pub memory_count: u64,
    /// The bundle.
    pub bundle: Region,
    /// The device tree that Postern was given; empty where firmware has none.
    pub tree: Region,
    /// The measurements: a log in the TCG's format with SHA-384 digests (PC Client Platform Firmware Profile, section 10).
    pub event_log: Region,
    /// Address of ACPI's root pointer; 0 where firmware has none.
    pub rsdp: u64,
    /// The picture memory; empty where there is no screen.
    pub framebuffer: Region,
    /// Picture elements in a line, and lines.
    pub resolution: [u32; 2],
    /// Picture elements from the start of one line to the start of the next.
    pub stride: u32,
    /// [`pixel::RGB`] or [`pixel::BGR`].
    pub pixel_format: u32,
    /// 1 errors, 2 warnings, 3 information, 4 debugging, 5 everything; 0 leaves it to Postern.
    pub log_level: u32,
    /// [`flag`]s.
    pub flags: u32,
    /// The CPU's counter (CNTPCT_EL0, TSC) at the application's first instruction.
    pub entered_at: u64,
    /// The same counter after the last call of a boot service.
    pub left_at: u64,
    /// Random bytes of the firmware, nobody else's; zero when [`flag::SEEDED`] is absent, and once Postern has read the
    /// record.
    pub seed: [u8; 64],
    /// Ticks of the counter that went into reading files and settings.
    pub reading: u64,
    /// Ticks that went into measuring them.
    pub measuring: u64,
    /// The counter before boot services were left.
    pub leaving_at: u64,
}

/// A range of physical addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Bytes; 0 when there is no such thing.
    pub size: u64,
}

/// An entry of the memory map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First address, a multiple of 4096.
    pub start: u64,
    /// First address behind it, a multiple of 4096.
    pub end: u64,
    /// One of [`memory`].
    pub kind: u64,
}

/// Kinds of memory. What is in no entry is not memory.
pub mod memory {
    /// Free for Postern and the host, but for what the record itself points to.
    pub const FREE: u64 = 1;
    /// ACPI's tables; free once nobody reads them any more.
    pub const ACPI: u64 = 2;
    /// Firmware's for as long as the machine runs: runtime services, ACPI's non-volatile store, reserved ranges.
    pub const FIRMWARE: u64 = 3;
}

/// Order of the colours in a picture element of 32 bits.
pub mod pixel {
    /// Red in the lowest byte.
    pub const RGB: u32 = 1;
    /// Blue in the lowest byte.
    pub const BGR: u32 = 2;
}

/// What [`super::handoff::HandOff::flags`] may hold.
pub mod flag {
    /// The seed is random.
    pub const SEEDED: u32 = 1 << 0;
    /// A TPM has been extended with the measurements as well.
    pub const TPM: u32 = 1 << 1;
    /// Firmware verified the application's signature (Secure Boot).
    pub const SECURE_BOOT: u32 = 1 << 2;
}

const _: () = {
    assert!(size_of::<HandOff>() == 232 && SIZE_MIN == 208);
    assert!(size_of::<MemoryRange>() == 24);
    assert!(core::mem::offset_of!(HandOff, memory) == 16);
    assert!(core::mem::offset_of!(HandOff, rsdp) == 80);
    assert!(core::mem::offset_of!(HandOff, resolution) == 104);
    assert!(core::mem::offset_of!(HandOff, entered_at) == 128);
    assert!(core::mem::offset_of!(HandOff, seed) == 144);
};
