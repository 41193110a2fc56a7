//! What each physical CPU has of its own; the GS base points to it while Postern runs.

use super::mitigate::MsrEntry;
use super::msr::number::SPEC_CTRL;
use super::world::World;
use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU64};
use loader::machine::CPUS_MAX;
use x86_64::registers::model_specific::Msr;

const GS_BASE: u32 = 0xc000_0101;

/// One CPU.
#[repr(C)]
pub struct PerCpu {
    /// Address of this, for [`this`] to read in one instruction.
    itself: Cell<u64>,
    /// Index in the order of ACPI's table.
    pub index: Cell<usize>,
    /// APIC identifier.
    pub apic_id: Cell<u64>,
    /// Top of its stack.
    pub stack: Cell<u64>,
    /// The frame that VMXON takes.
    pub vmxon: Cell<u64>,
    /// The frame of the host's VMCS.
    pub host_vmcs: Cell<u64>,
    /// Save area for the host's extended state, [`super::features::xsave_size`] bytes, 64-byte aligned.
    pub xsave: Cell<u64>,
    /// The address space that is entered or about to be: its index + 1; 0 while Postern runs.
    pub running: AtomicU64,
    /// Generation of each address space's translations that this CPU has seen.
    pub seen: [AtomicU64; abi::host::VMS_MAX + 1],
    /// What a CPU that waits for a start-up IPI is told; 0 while it waits.
    pub sipi: AtomicU64,
    /// Another CPU wants this one out of its guest.
    pub kicked: AtomicBool,
    /// An NMI has come while Postern ran: what it was about has to be looked at before the next entry.
    pub attention: AtomicBool,
    /// An NMI that is the host's waits for it.
    pub host_nmi: AtomicBool,
    /// NMIs that arrived while Postern ran.
    pub nmis: Cell<u64>,
    /// The host has switched its APIC off.
    pub apic_off: Cell<bool>,
    /// The halves of the host's last command in xAPIC mode, upper half first.
    pub apic_command: Cell<[u32; 2]>,
    /// Time stamp counter at the last VM exit.
    pub entered_at: Cell<u64>,
    /// IA32_SPEC_CTRL of whoever runs here: an exit stores it, an entry loads it.
    pub runs: MsrEntry,
    /// The same register while Postern runs: an exit loads it.
    pub root: MsrEntry,
    /// The host's registers while a guest runs.
    pub host_world: UnsafeCell<World>,
}

// SAFETY: every CPU reaches the cells of only its own element, through `this`; what others reach is atomic. Of what runs
// here only the NMI handler interrupts anything, and it changes nothing but `nmis`.
unsafe impl Sync for PerCpu {}

static CPUS: [PerCpu; CPUS_MAX] = [const {
    PerCpu {
        itself: Cell::new(0),
        index: Cell::new(0),
        apic_id: Cell::new(0),
        stack: Cell::new(0),
        vmxon: Cell::new(0),
        host_vmcs: Cell::new(0),
        xsave: Cell::new(0),
        running: AtomicU64::new(0),
        seen: [const { AtomicU64::new(0) }; abi::host::VMS_MAX + 1],
        sipi: AtomicU64::new(0),
        kicked: AtomicBool::new(false),
        attention: AtomicBool::new(false),
        host_nmi: AtomicBool::new(false),
        nmis: Cell::new(0),
        apic_off: Cell::new(false),
        apic_command: Cell::new([0; 2]),
        entered_at: Cell::new(0),
        runs: MsrEntry::new(SPEC_CTRL),
        root: MsrEntry::new(SPEC_CTRL),
        host_world: UnsafeCell::new(World::RESET),
    }
}; CPUS_MAX];

/// Makes element `index` this CPU's and returns it.
pub fn install(index: usize) -> &'static PerCpu {
    let cpu = &CPUS[index];
    let address = core::ptr::from_ref(cpu) as u64;
    cpu.itself.set(address);
    cpu.index.set(index);
    // SAFETY: nothing else uses the GS segment.
    unsafe { Msr::new(GS_BASE).write(address) };
    cpu
}

/// This CPU's element; `install` has run.
#[inline(always)]
pub fn this() -> &'static PerCpu {
    let address: u64;
    // SAFETY: `install` has pointed the GS base at a static whose first word is its address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) address, options(nostack, preserves_flags, readonly));
        &*(address as *const PerCpu)
    }
}

/// Whether `install` has run on this CPU.
pub fn installed() -> bool {
    // SAFETY: reading has no effect. The entry code leaves 0 there.
    unsafe { Msr::new(GS_BASE).read() != 0 }
}

/// Element `index`, for what is atomic in it.
pub fn of(index: usize) -> &'static PerCpu {
    &CPUS[index]
}
