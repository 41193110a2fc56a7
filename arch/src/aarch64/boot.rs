//! From the first Rust instruction to a machine that the rest of Postern can use.

use super::entry::{self, Launch};
use super::mmu::{self, Builder, Protection, Regime};
use super::serial::Serial;
use super::sysreg::{instruction, mrs};
use super::world::HOST_FP_SIZE;
use super::{cache, features, fwcfg, gic, host, percpu, stage2, timer, vectors};
use crate::screen::Screen;
use crate::{BootInfo, console};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU64, Ordering};
use loader::machine::{CPUS_MAX, Machine, RANGES_MAX};
use loader::received::{self, Received};
use loader::{BootError, Bytes, layout};

/// Bytes of each secondary CPU's stack.
const STACK_SIZE: u64 = 16 << 10;
/// Largest device tree that is read: Linux's own limit (booting.rst, section 2).
const TREE_MAX: u64 = 2 << 20;
/// Frames set aside for tables, records and the boot heap beyond what is computed: 1.5 MiB.
const SPARE_FRAMES: u64 = 384;

static REGIME: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static AFFINITY: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(u64::MAX) }; CPUS_MAX];
static PERCPU_MEMORY: AtomicU64 = AtomicU64::new(0);

/// A guard frame, the stack, and the host's FP state.
const PERCPU_SIZE: u64 = abi::FRAME_SIZE + STACK_SIZE + (HOST_FP_SIZE as u64).next_multiple_of(abi::FRAME_SIZE);

unsafe extern "Rust" {
    /// The hypervisor proper.
    safe fn postern_main(info: BootInfo) -> !;
}

/// Called by the entry code with the address of the device tree; MMU off.
pub extern "C" fn start(tree: u64) -> ! {
    let stop = |error: BootError| -> ! {
        console::write_line(format_args!("postern: cannot boot: {error}"));
        // Below EL2 there is a hypervisor to ask, above it firmware.
        if at_el2() { super::psci::system_off() } else { super::psci::system_off_from_el1() }
    };
    // Below EL2 the counter may be somebody's to trap, and the time does not matter.
    let entered_at = if at_el2() { timer::now() } else { 0 };
    // Until the MMU is on all memory is Device memory, so nothing here may need atomic read-modify-writes.
    match prepare(tree, entered_at) {
        Ok(info) => postern_main(info),
        Err(error) => stop(error),
    }
}

/// Whether this is EL2 (Arm ARM, CurrentEL).
fn at_el2() -> bool {
    mrs!("CurrentEL") == 2 << 2
}

// Not inlined, so that what it needs of the stack is free again when the hypervisor runs.
#[inline(never)]
fn prepare(tree: u64, entered_at: u64) -> Result<BootInfo, BootError> {
    let blob = read_tree(tree)?;
    let serial = loader::fdt::console(blob).and_then(|uart| {
        // SAFETY: the device tree says that a PL011 is there; Postern is alone on the machine.
        unsafe { Serial::new(uart.start) }
    });
    console::install_early(serial);
    if !at_el2() {
        return Err(BootError::Cpu("Postern has to be started at EL2: turn virtualisation on in firmware or emulator"));
    }
    let mut machine = loader::fdt::parse(blob)?;
    fwcfg::find(blob);
    features::init()?;
    let image = entry::image();
    let (own, blob_at) = (image[0]..image[3], tree..tree + blob.len() as u64);
    let record = read_record(&mut machine, &own, &blob_at);
    machine.screen = record.as_ref().and_then(|record| record.as_ref().ok()?.screen());
    console::install_screen(screen(&mut machine, &own, &blob_at));
    let taken = layout::taken(&machine, &own, &blob_at)?;
    let memory = own_memory(&machine, &taken)?;
    let (regime, rest) = turn_mmu_on(&machine, memory.clone())?;
    console::enable_locking();
    REGIME[0].store(regime.ttbr0, Ordering::Relaxed);
    REGIME[1].store(regime.tcr, Ordering::Relaxed);
    for (slot, affinity) in AFFINITY.iter().zip(&machine.cpus) {
        slot.store(*affinity, Ordering::Relaxed);
    }
    if features::has(features::Feature::ForcedWriteBack) {
        stage2::use_forced_write_back();
    }
    let index = cpu_index(this_affinity()).ok_or(BootError::Node("CPU node for the boot CPU"))?;
    let (stack, host_fp) = percpu_memory(index);
    percpu::install(index, stack, host_fp);
    gic::init(&machine)?;
    gic::init_cpu(percpu::this())?;
    Ok(BootInfo { machine, tree: blob, image: own, memory, free: rest, record, entered_at })
}

/// The screen, if there is one that nothing else is in; the machine forgets any other.
fn screen(machine: &mut Machine, image: &Bytes, tree: &Bytes) -> Option<Screen> {
    let bundle = machine.initrd.clone().unwrap_or_default();
    let layout = machine.screen.take().filter(|layout| {
        let mut apart: ArrayVec<Bytes, { 4 + 2 * RANGES_MAX }> = [image.clone(), tree.clone(), bundle].into_iter().collect();
        apart.extend(machine.uart.iter().chain([&machine.distributor]).chain(&machine.redistributors).cloned());
        layout.memory.end <= 1 << 40 && layout.fits(machine, &apart) && layout.take_from_memory(machine)
    })?;
    // SAFETY: picture memory by the record, apart from all else. The MMU is off, and later maps it as a device.
    let screen = unsafe { Screen::new(&layout, layout.memory.start as *mut u32) };
    machine.screen = screen.is_some().then_some(layout);
    screen
}

/// What the UEFI application has left, if it was here.
fn read_record(machine: &mut Machine, image: &Bytes, tree: &Bytes) -> Option<Result<Received, BootError>> {
    let bundle = machine.initrd.clone().unwrap_or_default();
    let (record, seed) = received::receive(machine, &[image.clone(), tree.clone(), bundle], &|range| {
        // SAFETY: memory by the device tree; the application has cleaned it, and nothing writes it but Postern below.
        Some(unsafe { core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize) })
    });
    if let Some(seed) = seed {
        // The MMU is off: what caches hold of it must neither come over the zeroes later nor be read instead.
        cache::clean_invalidate(seed.start, seed.end);
        for word in seed.clone().step_by(8) {
            // SAFETY: as above, at a multiple of eight bytes, apart from all that is in use.
            unsafe { (word as *mut u64).write_volatile(0) };
        }
        cache::clean_invalidate(seed.start, seed.end);
    }
    record
}

fn read_tree(tree: u64) -> Result<&'static [u8], BootError> {
    if tree == 0 || !tree.is_multiple_of(8) {
        return Err(BootError::DeviceTree);
    }
    // SAFETY: booting.rst: x0 is the physical address of the device tree blob. The header is 40 bytes.
    let header = unsafe { core::slice::from_raw_parts(tree as *const u8, 8) };
    let field = |at: usize| header[at..at + 4].iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if field(0) != 0xd00d_feed || !(40..=TREE_MAX).contains(&field(4)) {
        return Err(BootError::DeviceTree);
    }
    // SAFETY: as above, with the size that the header gives, which booting.rst bounds too.
    Ok(unsafe { core::slice::from_raw_parts(tree as *const u8, field(4) as usize) })
}

/// Where Postern's memory beyond its image goes: after the image when that is free.
fn own_memory(machine: &Machine, taken: &[Bytes]) -> Result<Bytes, BootError> {
    let ram: u64 = machine.memory.iter().map(|range| range.end - range.start).sum();
    // A record for each block and for each GiB, and some at the edges.
    let records = ram.div_ceil(abi::BLOCK_SIZE) + ram.div_ceil(1 << 30) + machine.memory.len() as u64 * 2;
    let summaries = (records * 8).next_multiple_of(abi::FRAME_SIZE);
    // One table for each GiB of RAM in Postern's own tables and in the host's, and a few above and at the edges.
    let tables = 2 * (ram.div_ceil(1 << 30) + 24) * abi::FRAME_SIZE;
    let size = summaries + tables + machine.cpus.len() as u64 * PERCPU_SIZE + SPARE_FRAMES * abi::FRAME_SIZE;
    let size = size.next_multiple_of(abi::FRAME_SIZE);
    layout::place(machine, taken, size, abi::FRAME_SIZE, "Postern itself")
}

fn turn_mmu_on(machine: &Machine, memory: Bytes) -> Result<(Regime, Bytes), BootError> {
    let cpus = machine.cpus.len() as u64 * PERCPU_SIZE;
    let (for_cpus, for_tables) = (memory.start..memory.start + cpus, memory.start + cpus..memory.end);
    PERCPU_MEMORY.store(for_cpus.start, Ordering::Relaxed);
    let mut builder = Builder::new(for_tables)?;
    for range in &machine.memory {
        builder.map(range, Protection::Data)?;
    }
    for range in machine.uart.iter().chain([&machine.distributor]).chain(&machine.redistributors) {
        builder.map(range, Protection::Device)?;
    }
    if let Some(screen) = &machine.screen {
        builder.map(&screen.memory, Protection::Device)?;
    }
    let image = entry::image();
    builder.map(&(image[0]..image[1]), Protection::Text)?;
    builder.map(&(image[1]..image[2]), Protection::Constants)?;
    builder.unmap(&entry::boot_stack_guard())?;
    for cpu in 0..machine.cpus.len() as u64 {
        let guard = for_cpus.start + cpu * PERCPU_SIZE;
        builder.unmap(&(guard..guard + abi::FRAME_SIZE))?;
    }
    let end = builder.used_up_to();
    Ok((builder.enable(), end..memory.end))
}

fn percpu_memory(index: usize) -> (u64, u64) {
    let start = PERCPU_MEMORY.load(Ordering::Relaxed) + index as u64 * PERCPU_SIZE + abi::FRAME_SIZE;
    (start + STACK_SIZE, start + STACK_SIZE)
}

fn this_affinity() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

/// Index of the CPU with this affinity in the device tree's order.
pub fn cpu_index(affinity: u64) -> Option<usize> {
    AFFINITY.iter().position(|slot| slot.load(Ordering::Relaxed) == affinity)
}

static LAUNCH: [LaunchSlot; CPUS_MAX] = [const { LaunchSlot(core::cell::UnsafeCell::new(Launch::ZERO)) }; CPUS_MAX];

struct LaunchSlot(core::cell::UnsafeCell<Launch>);

// SAFETY: a slot is written by the CPU that holds its STARTING flag, and read by the CPU it starts before the flag falls.
unsafe impl Sync for LaunchSlot {}

/// Writes the launch record of CPU `index` and returns its address.
pub fn prepare_launch(index: usize, entry: u64, argument: u64) -> u64 {
    let launch = LAUNCH[index].0.get();
    let (stack, _) = percpu_memory(index);
    let [ttbr0, tcr] = [REGIME[0].load(Ordering::Relaxed), REGIME[1].load(Ordering::Relaxed)];
    let (mair, sctlr, cpu) = (mmu::MAIR, mmu::SCTLR, index as u64);
    // SAFETY: the caller holds the slot's flag.
    unsafe { launch.write(Launch { ttbr0, tcr, mair, sctlr, stack, cpu, entry, argument }) };
    launch as u64
}

/// Called by the entry code of a secondary CPU, on its own stack, with the MMU on.
pub extern "C" fn secondary(launch: &Launch) -> ! {
    let (index, entry, argument) = (launch.cpu as usize, launch.entry, launch.argument);
    let (stack, host_fp) = percpu_memory(index);
    percpu::install(index, stack, host_fp);
    host::started(index);
    if !features::same_here() {
        log::error!("CPU {index} differs from the boot CPU and stays off");
        super::psci::cpu_off();
    }
    if let Err(error) = gic::init_cpu(percpu::this()) {
        log::error!("CPU {index} stays off: {error}");
        super::psci::cpu_off();
    }
    run_host(entry, argument)
}

/// Enters the host on this CPU.
pub fn run_host(entry: u64, argument: u64) -> ! {
    host::init_cpu();
    instruction!("ic iallu");
    instruction!("dsb nsh");
    // SAFETY: `init_cpu` has set this CPU's registers for the host, and the stack is this CPU's.
    unsafe { vectors::enter_host(entry, argument, percpu::this().stack.get()) }
}
