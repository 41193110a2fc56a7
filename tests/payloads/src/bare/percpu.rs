//! Per-CPU data: found through TPIDR_EL1, so that exception entry code reaches it with one instruction.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Most CPUs that the programs use.
pub const CPUS_MAX: usize = 8;
/// Interrupts that are counted one by one.
const COUNTED: usize = 128;
const STACK_BYTES: usize = 64 << 10;

/// One CPU's data. The first three words belong to the exception entry code.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Where to continue after a synchronous exception; zero when none is expected.
    resume: AtomicU64,
    /// Syndrome of the last expected exception; zero when there was none.
    esr: AtomicU64,
    /// Fault address of the last expected exception.
    far: AtomicU64,
    stack_top: AtomicU64,
    index: AtomicUsize,
    interrupts: [AtomicU32; COUNTED],
}

/// Offset of the stack pointer that `secondary_start` loads.
pub const STACK_TOP: usize = offset_of!(PerCpu, stack_top);
/// Offset of the syndrome that the exception entry stores.
pub const ESR: usize = offset_of!(PerCpu, esr);
/// Offset of the fault address that the exception entry stores.
pub const FAR: usize = offset_of!(PerCpu, far);
const _: () = assert!(offset_of!(PerCpu, resume) == 0);

static AREAS: [PerCpu; CPUS_MAX] = [const { PerCpu::new() }; CPUS_MAX];
static AFFINITIES: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);
static mut STACKS: [Stack; CPUS_MAX] = [const { Stack([0; STACK_BYTES]) }; CPUS_MAX];

impl PerCpu {
    const fn new() -> Self {
        Self {
            resume: AtomicU64::new(0),
            esr: AtomicU64::new(0),
            far: AtomicU64::new(0),
            stack_top: AtomicU64::new(0),
            index: AtomicUsize::new(0),
            interrupts: [const { AtomicU32::new(0) }; COUNTED],
        }
    }

    /// This CPU's position in the device tree's list.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// Forgets the last expected exception.
    pub fn arm(&self) {
        self.esr.store(0, Ordering::Relaxed);
    }

    /// Syndrome and address of the expected exception, if it came.
    pub fn taken(&self) -> Option<(u64, u64)> {
        let esr = self.esr.load(Ordering::Relaxed);
        (esr != 0).then(|| (esr, self.far.load(Ordering::Relaxed)))
    }

    /// Counts an interrupt.
    pub fn count(&self, intid: u32) {
        if let Some(counter) = self.interrupts.get(intid as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often `intid` was taken on this CPU.
    pub fn counted(&self, intid: u32) -> u32 {
        self.interrupts.get(intid as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// Makes area `index` that of the calling CPU.
pub fn install(index: usize) {
    let area = &AREAS[index];
    area.index.store(index, Ordering::Relaxed);
    // SAFETY: TPIDR_EL1 is for software's use; nothing but this module uses it.
    unsafe { asm!("msr tpidr_el1, {0}", "isb", in(reg) area) };
}

/// The calling CPU's area.
pub fn this() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: `install` ran first on every CPU, so the register holds the address of a static.
    unsafe {
        asm!("mrs {0}, tpidr_el1", out(reg) area, options(nomem, nostack, preserves_flags));
        &*area
    }
}

/// The area of CPU `index`.
pub fn of(index: usize) -> &'static PerCpu {
    &AREAS[index]
}

/// The calling CPU's position in the device tree's list.
pub fn index() -> usize {
    this().index()
}

/// Readies area and stack of CPU `index`; answers the context argument of its `CPU_ON`.
pub(super) fn prepare(index: usize) -> u64 {
    let area = &AREAS[index];
    area.index.store(index, Ordering::Relaxed);
    // SAFETY: only the address is taken; the stack belongs to that CPU, which is off.
    let stack = unsafe { &raw mut STACKS[index] } as u64;
    area.stack_top.store(stack + STACK_BYTES as u64, Ordering::Release);
    core::ptr::from_ref(area) as u64
}

pub(super) fn set_affinities(list: &[u64]) {
    for (slot, affinity) in AFFINITIES.iter().zip(list) {
        slot.store(*affinity, Ordering::Relaxed);
    }
}

/// MPIDR affinity of CPU `index`.
pub fn affinity(index: usize) -> u64 {
    AFFINITIES[index].load(Ordering::Relaxed)
}
