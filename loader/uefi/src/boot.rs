//! The way from the firmware's boot menu to Postern's first instruction.
#![allow(unsafe_code)] // Boot services are left, and another program is started.

use crate::files::Volume;
use crate::machine::{self, counter};
use crate::measure::Measurements;
use crate::memory::Pages;
use crate::{firmware, heap};
use abi::handoff::{HandOff, Region, flag};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use loader::archive::{Plan, Slot};
use loader::config::{self, Config};
use loader::eventlog::{PCR_FILES, PCR_SETTINGS};
use loader::memory_map::MemoryMap;
use loader::{BootError, bundle, handoff};
use uefi::boot::MemoryType;
use uefi::{Status, boot, println};

/// The settings.
const SETTINGS: &str = "\\EFI\\POSTERN\\postern.conf";
/// How long a message stays on the screen before the boot menu comes back.
const READING_TIME: Duration = Duration::from_secs(5);

/// Whether there are boot services.
static SERVICES: AtomicBool = AtomicBool::new(true);

/// A bug of the application's own: back to the boot menu while there is one.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if has_services() {
        println!("\r\npostern: cannot boot: a bug in the UEFI application: {info}");
        boot::stall(READING_TIME);
        // SAFETY: nothing of this application's runs after it; what it has opened stays open.
        let _ = unsafe { boot::exit(boot::image_handle(), Status::ABORTED, 0, core::ptr::null_mut()) };
    }
    uefi::runtime::reset(uefi::runtime::ResetType::COLD, Status::ABORTED, None)
}

/// Everything that Postern is given, in memory.
pub struct Loaded {
    /// Postern.
    pub postern: machine::Image,
    /// Hand-off record, memory map, measurements.
    pub record: Pages,
    /// What goes into the record.
    pub facts: HandOff,
}

/// Starts Postern, or says why not.
pub fn main() -> Status {
    let entered = counter();
    let Some(heap) = heap::init() else {
        println!("\r\npostern: cannot boot: too little memory for the application itself");
        boot::stall(READING_TIME);
        return Status::OUT_OF_RESOURCES;
    };
    let reason = match boot(entered) {
        Ok(never) => match never {},
        Err(reason) => reason,
    };
    println!("\r\npostern: cannot boot: {reason}");
    // It is on the heap.
    drop(reason);
    boot::stall(READING_TIME);
    drop(heap);
    Status::ABORTED
}

/// Whether boot services can be called.
pub fn has_services() -> bool {
    SERVICES.load(Ordering::Relaxed)
}

/// A type without values.
pub enum Never {}

fn boot(entered: u64) -> Result<Never, String> {
    println!("postern: UEFI application {} for {}", env!("CARGO_PKG_VERSION"), machine::NAME);
    machine::check()?;
    let mut volume = Volume::open()?;
    let file = volume.small(SETTINGS, config::SIZE_MAX)?;
    let config = config::parse(&file).map_err(|error| format!("{SETTINGS}: {error}"))?;
    let mut measurements = Measurements::new(config.tpm)?;
    measurements.add(PCR_SETTINGS, &file, "postern.conf")?;
    let read_settings = counter();

    let hypervisor = config.hypervisor.unwrap_or(config::HYPERVISOR);
    let postern = machine::Image::load(&mut volume, hypervisor, &mut measurements)?;
    let mut bundle = load_bundle(&mut volume, &config, &mut measurements)?;
    bundle::host(bundle.bytes(), machine::host_image).map_err(say)?;
    let extra = machine::Extra::load(&mut volume, &config, &mut measurements)?;
    drop(volume);
    let loaded = counter();

    let mut facts = HandOff { entered_at: entered, log_level: config.log_level, ..handoff::EMPTY };
    firmware::describe(&mut facts);
    if measurements.has_tpm() {
        facts.flags |= flag::TPM;
    }
    let log = measurements.log.bytes();
    let log_at = (handoff::SIZE + abi::handoff::MEMORY_MAX * handoff::RANGE_SIZE).next_multiple_of(8);
    let mut record =
        Pages::new(log_at + log.len(), abi::FRAME_SIZE).ok_or_else(|| no_room("the record of the boot"))?;
    record.bytes()[log_at..].copy_from_slice(log);
    facts.event_log = Region { start: record.address() + log_at as u64, size: log.len() as u64 };
    facts.memory = record.address() + handoff::SIZE as u64;
    facts.bundle = Region { start: bundle.address(), size: bundle.bytes().len() as u64 };
    let mut all = Loaded { postern, record, facts };
    // A rehearsal with the memory map of now, so that what can go wrong does so while it can be said.
    let now = boot::memory_map(MemoryType::LOADER_DATA).map_err(|error| format!("firmware's memory map: {error}"))?;
    let mut description = machine::Description::new(&mut all, &firmware::memory(&now), &extra)?;
    drop(now);
    let described = counter();

    let registers = measurements.check()?;
    println!("postern: {} KiB measured; {registers}", measurements.bytes >> 10);
    println!(
        "postern: settings {} ms, reading {} ms, measuring {} ms, describing {} ms",
        machine::milliseconds(read_settings - entered),
        machine::milliseconds(loaded - read_settings).saturating_sub(machine::milliseconds(measurements.ticks)),
        machine::milliseconds(measurements.ticks),
        machine::milliseconds(described - loaded),
    );
    println!("postern: starting; what follows is on the serial console");
    all.facts.measuring = measurements.ticks;
    all.facts.reading = (loaded - entered).saturating_sub(measurements.ticks);
    drop(measurements);
    SERVICES.store(false, Ordering::Relaxed);
    all.facts.leaving_at = counter();
    // SAFETY: every protocol has been closed, and nothing of boot services is used from here on; the heap is ours.
    let last = unsafe { boot::exit_boot_services(None) };
    let last_map = firmware::memory(&last);
    // The firmware's buffer cannot be freed any more.
    core::mem::forget(last);
    all.facts.left_at = counter();
    if description.finish(&mut all, &last_map, &extra).is_err() {
        // Nobody can be told any more.
        uefi::runtime::reset(uefi::runtime::ResetType::COLD, Status::ABORTED, None);
    }
    machine::start(&mut all, description)
}

/// Writes record and memory map into their pages.
pub fn write_record(all: &mut Loaded, map: &MemoryMap) -> Option<()> {
    all.facts.memory_count = map.len() as u64;
    let bytes = all.record.bytes();
    handoff::write(&all.facts, bytes)?;
    handoff::write_memory_map(map, &mut bytes[handoff::SIZE..])?;
    Some(())
}

/// A [`BootError`] as a person reads it.
pub fn say(error: BootError) -> String {
    error.to_string()
}

/// There is no memory for something.
pub fn no_room(what: &str) -> String {
    say(BootError::Memory("")).trim_end().to_string() + " " + what
}

/// What a piece of the bundle is made of.
enum Piece<'a> {
    File(crate::files::File),
    Text(&'a str),
}

fn load_bundle(volume: &mut Volume, config: &Config<'_>, measurements: &mut Measurements) -> Result<Pages, String> {
    use abi::bundle::{GUEST_CMDLINE, GUEST_INITRD, GUEST_KERNEL, HOST_CMDLINE, HOST_INITRD, HOST_KERNEL};
    let mut plan = Plan::default();
    let mut pieces: Vec<(Slot, Piece<'_>, &str)> = Vec::new();
    let large = |name: &str| format!("{name} is larger than 4 GiB");
    for (name, path) in [
        (HOST_KERNEL, config.host_kernel),
        (HOST_INITRD, config.host_initrd),
        (GUEST_KERNEL, config.guest_kernel),
        (GUEST_INITRD, config.guest_initrd),
    ] {
        if let Some(path) = path {
            let file = volume.file(path)?;
            pieces.push((plan.file(name, file.size).ok_or_else(|| large(path))?, Piece::File(file), name));
        }
    }
    for (name, text) in [(HOST_CMDLINE, config.host_cmdline), (GUEST_CMDLINE, config.guest_cmdline)] {
        if let Some(text) = text {
            pieces.push((plan.file(name, text.len()).ok_or_else(|| large(name))?, Piece::Text(text), name));
        }
    }
    let mut ready = config.bundle.map(|path| volume.file(path)).transpose()?;
    let ready_at = ready.as_ref().map(|file| plan.archive(file.size).ok_or_else(|| large("the bundle"))).transpose()?;
    let trailer = ready.is_none().then(|| plan.trailer());
    let mut pages = Pages::new(plan.size(), abi::FRAME_SIZE).ok_or_else(|| no_room("the bundle"))?;
    let bytes = pages.bytes();
    for (slot, piece, name) in pieces {
        bytes[slot.header_at..slot.data_at].copy_from_slice(&slot.header);
        let data = &mut bytes[slot.data_at..slot.data_at + slot.size];
        let register = match piece {
            Piece::File(mut file) => file.read(0, data).map(|()| PCR_FILES)?,
            Piece::Text(text) => {
                data.copy_from_slice(text.as_bytes());
                PCR_SETTINGS
            }
        };
        measurements.add(register, data, name)?;
    }
    if let (Some(file), Some(at)) = (&mut ready, ready_at) {
        file.read(0, &mut bytes[at..])?;
        measurements.add(PCR_FILES, &bytes[at..], "bundle")?;
    }
    if let Some((at, end)) = trailer {
        bytes[at..].copy_from_slice(&end);
    }
    Ok(pages)
}
