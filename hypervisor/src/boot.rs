//! From the hand-off to a running host: the frame database, the host's table, the host's kernel, the self-check.

use crate::vm::Vms;
use crate::{Postern, settings};
use abi::handoff::Region;
use arch::{BootInfo, HostFiles, machine};
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use guestmem::{Budget, Core, Pfn, Refusal, Space};
use loader::received::Received;
use loader::{BootError, Bytes, Machine, bundle, config, layout, whole_frames};

/// Bytes of heap that writing the host's device tree may take; they join the pool afterwards.
pub const HEAP_SIZE: u64 = 768 << 10;

/// Where the host starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// First instruction, a physical address.
    pub entry: u64,
    /// What describes the machine, a physical address: device tree or zero page.
    pub description: u64,
}

/// What boot makes of `info.free`: records at the start, heap at the end, the pool in between.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Summary records.
    pub summaries: Bytes,
    /// Heap.
    pub heap: Bytes,
    /// Root of the host's table.
    pub host_root: Bytes,
    /// Frames for the pool from the beginning.
    pub pool: Bytes,
}

/// Splits up Postern's free memory.
///
/// # Errors
/// It is too small.
pub fn plan(info: &BootInfo) -> Result<Plan, BootError> {
    let regions = regions(&info.machine);
    let size = (Core::<machine::Machine>::summaries_needed(&regions) * 8) as u64;
    let free = info.free.clone();
    let summaries = free.start..free.start + size.next_multiple_of(abi::FRAME_SIZE);
    let root = summaries.end.next_multiple_of(2 * abi::FRAME_SIZE);
    let host_root = root..root + 2 * abi::FRAME_SIZE;
    let heap_start = free.end.checked_sub(HEAP_SIZE).filter(|start| *start > host_root.end);
    let heap = heap_start.ok_or(BootError::Memory("Postern's records"))?..free.end;
    Ok(Plan { summaries, pool: host_root.end..heap.start, heap, host_root })
}

/// RAM in whole frames, as the frame database wants it.
pub fn regions(machine: &Machine) -> impl AsRef<[Range<Pfn>]> + core::ops::Deref<Target = [Range<Pfn>]> {
    let pieces = layout::without(&machine.memory, &[]);
    pieces.iter().map(frames).collect::<arrayvec::ArrayVec<_, { 2 * loader::machine::RANGES_MAX }>>()
}

fn frames(range: &Bytes) -> Range<Pfn> {
    Pfn::from_addr(range.start)..Pfn::from_addr(range.end)
}

/// Builds the frame database and the host's table.
///
/// # Errors
/// The memory map is not what a database can describe, or there is too little memory.
pub fn build(
    machine_handle: machine::Machine,
    info: &BootInfo,
    plan: &Plan,
    summaries: &'static [AtomicU64],
    vms: &'static Vms,
) -> Result<Postern, BootError> {
    let core = Core::new(machine_handle, &regions(&info.machine), summaries).map_err(|error| {
        log::error!("frame database: {error:?}");
        BootError::HandOff("memory map")
    })?;
    let too_little = |refusal: Refusal| {
        log::error!("setting Postern's memory aside: {refusal:?}");
        BootError::Memory("Postern itself")
    };
    core.add_pool(frames(&plan.pool)).map_err(too_little)?;
    core.claim(frames(&info.image)).map_err(too_little)?;
    core.claim(frames(&(info.memory.start..plan.pool.start))).map_err(too_little)?;
    core.claim(frames(&plan.heap)).map_err(too_little)?;
    let root = Pfn::from_addr(plan.host_root.start);
    let reach = 0..1 << machine::ipa_bits();
    let mut holes: arrayvec::ArrayVec<Bytes, 128> = info.machine.memory.iter().filter_map(whole_frames).collect();
    for device in machine::hidden_devices(&info.machine) {
        holes.try_push(device).map_err(|_| BootError::TooMany("devices to hide"))?;
    }
    let devices = layout::without(&[reach], &holes);
    core.build_host_table(root, &devices).map_err(too_little)?;
    machine::set_root(Space::Host, root);
    Ok(Postern::new(core, vms))
}

/// Nothing of Postern's may be reachable from the host's table, and every record must be what the table says.
///
/// # Errors
/// It is not so.
pub fn self_check(postern: &Postern) -> Result<(), BootError> {
    let mut cursor = 0;
    loop {
        let audit = postern.core.audit(&|_| None, cursor, &mut Budget::new(4096));
        for violation in audit.first.iter().flatten() {
            log::error!("self-check: {violation:?}");
        }
        if audit.violations != 0 {
            return Err(BootError::Overlap("the host's table and Postern's memory"));
        }
        match audit.next {
            Some(next) => cursor = next,
            None => return Ok(()),
        }
    }
}

/// Does what the UEFI application's record asks for, and says where the measurements are.
pub fn use_record(info: &BootInfo) {
    match &info.record {
        None => {}
        Some(Err(error)) => log::warn!("what the UEFI application has left is not used: {error}"),
        Some(Ok(Received { record, measurements })) => {
            crate::log::set_level(record.log_level);
            let Region { start, size } = record.event_log;
            log::info!("{measurements} measurements in {size} bytes at {start:#x}");
        }
    }
}

/// Uses the log level of the bundle's `config`, unless the application's record has one.
pub fn use_log_level(info: &BootInfo, config: &[u8]) {
    let Some(name) = settings::get(config, abi::bundle::LOG_OPTION) else { return };
    let first = info.record.as_ref().and_then(|record| record.as_ref().ok()).map_or(0, |it| it.record.log_level);
    match config::log_level(name) {
        Some(level) if first == 0 => _ = crate::log::set_level(level),
        Some(_) => {}
        None => log::warn!("the bundle's `{}` takes {}", abi::bundle::LOG_OPTION, config::LOG_LEVELS),
    }
}

/// Memory that must stay as it is before the host's things are in place.
fn taken(info: &BootInfo) -> Result<arrayvec::ArrayVec<Bytes, 64>, BootError> {
    let tree_at = info.tree.as_ptr() as u64;
    let tree = tree_at..tree_at + info.tree.len() as u64;
    let mut taken: arrayvec::ArrayVec<Bytes, 64> =
        layout::taken(&info.machine, &info.image, &tree)?.into_iter().collect();
    taken.extend([info.memory.clone(), machine::LOW_MEMORY]);
    Ok(taken)
}

/// Has `zero` wipe all RAM that nothing uses yet, and says how many bytes that is. What the guests of an earlier boot left
/// in it would else be the host's.
///
/// # Errors
/// What the boot loader has put into memory is not apart.
pub fn wipe(info: &BootInfo, zero: &mut dyn FnMut(&Bytes)) -> Result<u64, BootError> {
    let free = layout::without(&info.machine.memory, &taken(info)?);
    free.iter().for_each(zero);
    Ok(free.iter().map(|range| range.end - range.start).sum())
}

/// A write to memory that the host will own.
pub type Put<'a> = &'a mut dyn FnMut(&[u8], u64);

/// Puts the host's kernel and what describes the machine into memory; needs the heap.
///
/// # Errors
/// The bundle lacks something, or there is no room.
pub fn load_host(info: &BootInfo, archive: &[u8], put: Put<'_>) -> Result<HostEntry, BootError> {
    let host = bundle::host(archive, machine::host_image)?;
    let mut taken = taken(info)?;
    let size = host.image.text_offset + host.image.size;
    let kernel = layout::place(&info.machine, &taken, size, 2 << 20, "the host's kernel")?;
    taken.push(kernel.clone());
    let bundle_at = info.machine.initrd.clone().ok_or(BootError::NoBundle)?.start;
    let initrd_at = bundle_at + host.initrd.0 as u64;
    let initrd = initrd_at..initrd_at + host.initrd.1 as u64;
    let files = HostFiles { kernel: host.kernel, initrd, cmdline: host.cmdline };
    let (description, bytes) = machine::describe_host(info, &files, &mut |size| {
        let room = layout::place(&info.machine, &taken, size, abi::FRAME_SIZE, "the description of the machine")?;
        Ok(room.start)
    })?;
    let start = kernel.start + host.image.text_offset;
    put(&host.kernel[host.image.skip..], start);
    put(&bytes, description);
    Ok(HostEntry { entry: start + host.image.entry, description })
}
