//! What firmware tells of the machine.
#![allow(unsafe_code)] // Tables are found by address.

use abi::handoff::{HandOff, Region, flag, pixel};
#[cfg(target_arch = "aarch64")]
use alloc::{format, string::String};
use loader::memory_map::{self, MemoryMap};
use uefi::proto::console::gop::{GraphicsOutput, PixelFormat};
use uefi::proto::rng::Rng;
use uefi::runtime::{self, VariableVendor};
use uefi::table::cfg::ConfigTableEntry;
use uefi::{Guid, boot, guid, system};

/// EFI_DTB_TABLE_GUID (Devicetree and EBBR specifications).
#[cfg_attr(not(target_arch = "aarch64"), expect(dead_code))]
const DEVICE_TREE: Guid = guid!("b1b621d5-f19c-41a5-830b-d9152c69aae0");

fn table(wanted: Guid) -> Option<u64> {
    system::with_config_table(|entries| {
        entries.iter().find(|entry| entry.guid == wanted).map(|entry| entry.address as u64)
    })
    .filter(|address| *address != 0)
}

/// Address of ACPI's root pointer, the newer kind first.
pub fn rsdp() -> Option<u64> {
    table(ConfigTableEntry::ACPI2_GUID).or_else(|| table(ConfigTableEntry::ACPI_GUID))
}

/// The firmware's device tree.
#[cfg(target_arch = "aarch64")]
pub fn device_tree() -> Option<&'static [u8]> {
    let at = table(DEVICE_TREE)? as *const u8;
    // SAFETY: firmware says that a blob is there, which starts with its magic number and its size.
    let header = unsafe { core::slice::from_raw_parts(at, 8) };
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    // Linux takes none larger (booting.rst, section 2).
    if number(0) != 0xd00d_feed || !(40..=2 << 20).contains(&number(4)) {
        return None;
    }
    // SAFETY: as above, with the size that the blob has.
    Some(unsafe { core::slice::from_raw_parts(at, number(4) as usize) })
}

/// Screen, ACPI, random bytes and Secure Boot go into the record.
pub fn describe(record: &mut HandOff) {
    record.rsdp = rsdp().unwrap_or(0);
    screen(record);
    if random(&mut record.seed) {
        record.flags |= flag::SEEDED;
    }
    let mut value = [0];
    let secure = runtime::get_variable(uefi::cstr16!("SecureBoot"), &VariableVendor::GLOBAL_VARIABLE, &mut value);
    if secure.is_ok_and(|(value, _)| value == [1]) {
        record.flags |= flag::SECURE_BOOT;
    }
}

fn screen(record: &mut HandOff) {
    let Ok(handle) = boot::get_handle_for_protocol::<GraphicsOutput>() else { return };
    // SAFETY: only read; opened like this the screen console keeps it too.
    let output = unsafe {
        boot::open_protocol::<GraphicsOutput>(
            boot::OpenProtocolParams { handle, agent: boot::image_handle(), controller: None },
            boot::OpenProtocolAttributes::GetProtocol,
        )
    };
    let Ok(mut output) = output else { return };
    let mode = output.current_mode_info();
    record.pixel_format = match mode.pixel_format() {
        PixelFormat::Rgb => pixel::RGB,
        PixelFormat::Bgr => pixel::BGR,
        _ => return,
    };
    let mut memory = output.frame_buffer();
    record.framebuffer = Region { start: memory.as_mut_ptr() as u64, size: memory.size() as u64 };
    record.resolution = [mode.resolution().0 as u32, mode.resolution().1 as u32];
    record.stride = mode.stride() as u32;
}

/// Fills `bytes` from the firmware's random number generator; false when it has none.
pub fn random(bytes: &mut [u8]) -> bool {
    let Ok(handle) = boot::get_handle_for_protocol::<Rng>() else { return false };
    boot::open_protocol_exclusive::<Rng>(handle).is_ok_and(|mut rng| rng.get_rng(None, bytes).is_ok())
}

/// Calls `work` with what reads the bytes of an address that is memory by the firmware's own map.
#[cfg(target_arch = "aarch64")]
pub fn with_memory<R>(work: impl FnOnce(loader::acpi::Read<'_>) -> R) -> Result<R, String> {
    let map = boot::memory_map(boot::MemoryType::LOADER_DATA).map_err(|e| format!("firmware's memory map: {e}"))?;
    let extents = memory_map::extents(&memory(&map));
    Ok(work(&|at, size| {
        let end = at.checked_add(size as u64)?;
        let known = at != 0 && extents.iter().any(|extent| extent.start <= at && end <= extent.end);
        // SAFETY: memory, which firmware maps to itself; nothing writes tables meanwhile.
        known.then(|| unsafe { core::slice::from_raw_parts(at as *const u8, size) })
    }))
}

/// Boils the firmware's memory map down.
pub fn memory(map: &impl uefi::mem::memory_map::MemoryMap) -> MemoryMap {
    let mut out = MemoryMap::new();
    // Twice: when the map is too full for all, what is not free must not be what is missing.
    for free in [false, true] {
        for entry in map.entries() {
            let end = entry.phys_start.saturating_add(entry.page_count.saturating_mul(abi::FRAME_SIZE));
            if let Some(kind) = memory_map::kind(entry.ty.0, entry.att.bits())
                && (kind == abi::handoff::memory::FREE) == free
            {
                // A piece of free memory that does not fit is memory that nobody uses.
                let _ = memory_map::add(&mut out, &(entry.phys_start..end), kind);
            }
        }
    }
    out
}
