//! From the first Rust instruction to a machine that the rest of Postern can use.

use super::descriptors::{self, STACK_SIZE as FAULT_STACK_SIZE, STACKS};
use super::pages::Protection;
use super::percpu::{self, PerCpu};
use super::serial::Serial;
use super::xapic::{PAGE, WINDOW};
use super::{acpi, apic, entry, features, host, mmu, power, start, timer, vmx, world};
use crate::screen::Screen;
use crate::{BootInfo, console};
use core::sync::atomic::{AtomicU64, Ordering};
use loader::received::{self, Received};
use loader::{BootError, Bytes, Machine, layout, multiboot, overlap};

/// What EAX holds when a multiboot2 boot loader has started Postern.
pub const MAGIC: u32 = multiboot::MAGIC;
/// Bytes of each CPU's stack.
const STACK_SIZE: u64 = 16 << 10;
/// Frames set aside for tables, records and the boot heap beyond what is computed: 1.5 MiB.
const SPARE_FRAMES: u64 = 384;
/// What boot's page tables map, where all that is used before Postern's own tables has to lie.
const LOW: Bytes = 0..1 << 32;
/// Stack that exceptions use before there is memory for better ones.
static EARLY_STACK: EarlyStack = EarlyStack([const { AtomicU64::new(0) }; 1024]);
/// Start of the CPUs' memory.
static PERCPU_MEMORY: AtomicU64 = AtomicU64::new(0);

#[repr(C, align(16))]
struct EarlyStack([AtomicU64; 1024]);

unsafe extern "Rust" {
    /// The hypervisor proper.
    safe fn postern_main(info: BootInfo) -> !;
}

/// Called by the entry code with what the boot loader left in EAX and EBX, on boot's page tables.
pub extern "C" fn start(magic: u64, info: u64) -> ! {
    let entered_at = timer::now();
    // SAFETY: the first use of COM1, and Postern is alone on the machine.
    console::install_early(unsafe { Serial::new() });
    console::enable_locking();
    descriptors::init();
    descriptors::install(0, [&raw const EARLY_STACK as u64 + size_of::<EarlyStack>() as u64; STACKS as usize]);
    match prepare(magic, info, entered_at) {
        Ok(info) => postern_main(info),
        Err(error) => {
            console::write_line(format_args!("postern: cannot boot: {error}"));
            power::off()
        }
    }
}

// Not inlined, so that what it needs of the stack is free again when the hypervisor runs.
#[inline(never)]
fn prepare(magic: u64, info: u64, entered_at: u64) -> Result<BootInfo, BootError> {
    let information = read_information(magic, info)?;
    let mut machine = multiboot::parse(information, info)?;
    let image = entry::image();
    let (own, information_at) = (image[0]..image[3], info..info + information.len() as u64);
    // Before all that a machine may lack: whoever has no serial line is to see it.
    console::install_screen(screen(&mut machine, &own, &information_at));
    features::init()?;
    apic::enable()?;
    let pm_timer = find_cpus(&mut machine)?;
    if apic::is_mapped() && !apic::can_name(&machine.cpus) {
        return Err(BootError::Cpu("firmware has left x2APIC mode off, which the CPUs' identifiers need: turn it on"));
    }
    timer::init(pm_timer)?;
    limit_addresses(&mut machine)?;
    let record = read_record(&mut machine, &own, &information_at);
    let taken = layout::taken(&machine, &own, &information_at)?;
    let memory = own_memory(&machine, &taken)?;
    let rest = turn_own_tables_on(&machine, memory.clone())?;
    let index = machine
        .cpus
        .iter()
        .position(|id| *id == apic::id())
        .ok_or(BootError::Cpu("ACPI does not list the boot CPU"))?;
    install(index);
    vmx::enable(percpu::this())?;
    start::others(&machine, &taken)?;
    Ok(BootInfo { machine, tree: information, image: own, memory, free: rest, record, entered_at })
}

/// The screen, if there is one that nothing else is in, and where boot's tables map it; the machine forgets any other.
fn screen(machine: &mut Machine, image: &Bytes, information: &Bytes) -> Option<Screen> {
    let bundle = machine.initrd.clone().unwrap_or_default();
    let layout = machine.screen.take().filter(|layout| {
        layout.memory.end <= LOW.end
            && layout.fits(machine, &[image.clone(), information.clone(), bundle, WINDOW])
            && layout.take_from_memory(machine)
    })?;
    // SAFETY: picture memory by the boot loader, apart from all else. Mapped as a device later.
    let screen = unsafe { Screen::new(&layout, layout.memory.start as *mut u32) };
    machine.screen = screen.is_some().then_some(layout);
    screen
}

/// What the UEFI application has left, if it was here. Only while boot's page tables are in use.
fn read_record(machine: &mut Machine, image: &Bytes, information: &Bytes) -> Option<Result<Received, BootError>> {
    let bundle = machine.initrd.clone().unwrap_or_default();
    let (record, seed) = received::receive(machine, &[image.clone(), information.clone(), bundle], &|range| {
        // SAFETY: memory by the boot loader's map, which boot's tables map; nothing writes it but Postern below.
        let bytes = || unsafe {
            core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize)
        };
        (range.end <= LOW.end).then(bytes)
    });
    if let Some(seed) = seed {
        // SAFETY: as above; the record has told it apart from all that is in use.
        unsafe { core::ptr::write_bytes(seed.start as *mut u8, 0, (seed.end - seed.start) as usize) };
    }
    record
}

/// The boot loader's information, which says itself how long it is.
fn read_information(magic: u64, info: u64) -> Result<&'static [u8], BootError> {
    if magic != u64::from(MAGIC) {
        return Err(BootError::HandOff("multiboot2 information: use GRUB's `multiboot2` command"));
    }
    if info == 0 || !info.is_multiple_of(8) {
        return Err(BootError::HandOff("boot information: it is not aligned"));
    }
    // SAFETY: the magic number says that the specification's structure is there; its first word is its size.
    let size = unsafe { (info as *const u32).read() };
    if !multiboot::SIZES.contains(&size) || info + u64::from(size) > LOW.end {
        return Err(BootError::HandOff("boot information: its size makes no sense"));
    }
    // SAFETY: as above; nothing writes there from now on.
    Ok(unsafe { core::slice::from_raw_parts(info as *const u8, size as usize) })
}

/// Puts the CPUs into `machine`, and finds the power management timer's port.
fn find_cpus(machine: &mut Machine) -> Result<Option<u16>, BootError> {
    machine.rsdp = acpi::find(machine);
    let Some(root) = machine.rsdp else {
        console::write_line(format_args!("postern: no ACPI tables: using one CPU"));
        machine.cpus.push(apic::id());
        return Ok(None);
    };
    let pm_timer = acpi::init(machine, root)?;
    let power = acpi::power(root);
    if power.hidden_reset {
        console::write_line(format_args!("postern: ACPI's reset register is no port: the host can use it at any time"));
    }
    if power.hidden_suspend {
        console::write_line(format_args!("postern: ACPI's suspend register is no port: the host can suspend the machine"));
    }
    power::set_acpi(power);
    Ok(pm_timer)
}

/// Memory that no address of the host's or a guest's can reach is left to nobody; what is the APIC's is no memory.
fn limit_addresses(machine: &mut Machine) -> Result<(), BootError> {
    let end = 1 << features::ipa_bits().min(47);
    machine.memory.retain(|range| {
        range.end = range.end.min(end);
        !range.is_empty()
    });
    if machine.memory.iter().any(|range| overlap(range, &WINDOW)) {
        return Err(BootError::Overlap("RAM and the local APIC"));
    }
    if machine.memory.is_empty() { Err(BootError::Memory("anything")) } else { Ok(()) }
}

/// A guard frame, the stack; the same for each kind of exception; then the frames of VMX and the extended state.
fn percpu_size() -> u64 {
    let stacks = abi::FRAME_SIZE + STACK_SIZE + STACKS * (abi::FRAME_SIZE + FAULT_STACK_SIZE);
    stacks + 2 * abi::FRAME_SIZE + features::xsave_size().next_multiple_of(abi::FRAME_SIZE)
}

/// Where Postern's memory beyond its image goes: the lowest place that is free.
fn own_memory(machine: &Machine, taken: &[Bytes]) -> Result<Bytes, BootError> {
    let ram: u64 = machine.memory.iter().map(|range| range.end - range.start).sum();
    // A record for each block and for each GiB, and some at the edges.
    let records = ram.div_ceil(abi::BLOCK_SIZE) + ram.div_ceil(1 << 30) + machine.memory.len() as u64 * 2;
    let summaries = (records * 8).next_multiple_of(abi::FRAME_SIZE);
    // One table for each GiB of RAM in Postern's own tables and in the host's, and a few above and at the edges.
    let tables = 2 * (ram.div_ceil(1 << 30) + 24) * abi::FRAME_SIZE;
    let size = summaries + tables + machine.cpus.len() as u64 * percpu_size() + SPARE_FRAMES * abi::FRAME_SIZE;
    let size = size.next_multiple_of(abi::FRAME_SIZE);
    let memory = layout::place(machine, taken, size, abi::FRAME_SIZE, "Postern itself")?;
    if memory.end > LOW.end { Err(BootError::Memory("Postern itself below 4 GiB")) } else { Ok(memory) }
}

fn turn_own_tables_on(machine: &Machine, memory: Bytes) -> Result<Bytes, BootError> {
    let cpus = machine.cpus.len() as u64 * percpu_size();
    let (for_cpus, for_tables) = (memory.start..memory.start + cpus, memory.start + cpus..memory.end);
    PERCPU_MEMORY.store(for_cpus.start, Ordering::Relaxed);
    // SAFETY: RAM that was free; VMX and XSAVE want their areas zeroed.
    unsafe { core::ptr::write_bytes(for_cpus.start as *mut u8, 0, cpus as usize) };
    let mut builder = mmu::builder(&for_tables)?;
    for range in &machine.memory {
        builder.map(range, Protection::Data)?;
    }
    builder.map(&(PAGE..PAGE + abi::FRAME_SIZE), Protection::Device)?;
    if let Some(screen) = &machine.screen {
        builder.map(&screen.memory, Protection::Device)?;
    }
    let image = entry::image();
    builder.map(&(image[0]..image[1]), Protection::Text)?;
    builder.map(&(image[1]..image[2]), Protection::Constants)?;
    builder.unmap(&entry::boot_stack_guard())?;
    for cpu in 0..machine.cpus.len() {
        let memory = CpuMemory::of(cpu);
        for top in memory.fault_stacks {
            builder.unmap(&(top - FAULT_STACK_SIZE - abi::FRAME_SIZE..top - FAULT_STACK_SIZE))?;
        }
        builder.unmap(&(memory.stack - STACK_SIZE - abi::FRAME_SIZE..memory.stack - STACK_SIZE))?;
    }
    assert!(builder.is_write_xor_execute(), "Postern's own tables make a page both writable and executable");
    let end = builder.used_up_to();
    mmu::enable(builder.root());
    Ok(end..memory.end)
}

/// Where the parts of a CPU's memory are.
pub struct CpuMemory {
    /// Top of its stack.
    pub stack: u64,
    fault_stacks: [u64; STACKS as usize],
    vmxon: u64,
    host_vmcs: u64,
    xsave: u64,
}

impl CpuMemory {
    /// The memory of CPU `index`.
    pub fn of(index: usize) -> Self {
        let start = PERCPU_MEMORY.load(Ordering::Relaxed) + index as u64 * percpu_size();
        let stack = start + abi::FRAME_SIZE + STACK_SIZE;
        let step = abi::FRAME_SIZE + FAULT_STACK_SIZE;
        let fault_stacks = core::array::from_fn(|number| stack + (number as u64 + 1) * step);
        let vmxon = stack + STACKS * step;
        Self { stack, fault_stacks, vmxon, host_vmcs: vmxon + abi::FRAME_SIZE, xsave: vmxon + 2 * abi::FRAME_SIZE }
    }
}

/// Gives this CPU what is its own; its APIC is on.
fn install(index: usize) -> &'static PerCpu {
    let memory = CpuMemory::of(index);
    descriptors::install(index, memory.fault_stacks);
    let cpu = percpu::install(index);
    cpu.apic_id.set(apic::id());
    cpu.stack.set(memory.stack);
    cpu.vmxon.set(memory.vmxon);
    cpu.host_vmcs.set(memory.host_vmcs);
    cpu.xsave.set(memory.xsave);
    cpu
}

/// Called by the entry code of a secondary CPU, on its own stack and Postern's tables.
pub extern "C" fn secondary(index: usize) -> ! {
    // First of all, so that what goes wrong is a message.
    descriptors::install(index, CpuMemory::of(index).fault_stacks);
    start::started(prepare_secondary(index));
    host::park()
}

fn prepare_secondary(index: usize) -> Result<(), BootError> {
    if !features::same_here() || !world::same_here() {
        return Err(BootError::Cpu("a CPU differs from the boot CPU"));
    }
    apic::enable_other()?;
    mmu::enable(mmu::root());
    vmx::enable(install(index))
}
