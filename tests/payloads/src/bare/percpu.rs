//! Per-CPU data: found through a register, so that exception entry code reaches it with one instruction.

use crate::cpu;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Most CPUs that the programs use.
pub const CPUS_MAX: usize = 8;
/// Interrupts that are counted one by one.
const COUNTED: usize = 256;
const STACK_BYTES: usize = 64 << 10;

/// One CPU's data. The first three words belong to the exception entry code.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Where to continue after a synchronous exception; zero when none is expected.
    resume: AtomicU64,
    /// Syndrome of the last expected exception, in the architecture's own form; zero when there was none.
    esr: AtomicU64,
    /// Fault address of the last expected exception.
    far: AtomicU64,
    stack_top: AtomicU64,
    /// The area's own address.
    own: AtomicU64,
    index: AtomicUsize,
    interrupts: [AtomicU32; COUNTED],
}

/// Offset of the stack pointer that `secondary_start` loads.
pub const STACK_TOP: usize = offset_of!(PerCpu, stack_top);
/// Offset of the area's own address.
pub const OWN: usize = offset_of!(PerCpu, own);
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
            own: AtomicU64::new(0),
            index: AtomicUsize::new(0),
            interrupts: [const { AtomicU32::new(0) }; COUNTED],
        }
    }

    /// This CPU's position in the machine's list.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// Where its stack begins; only CPUs that were started have one.
    pub fn stack_top(&self) -> u64 {
        self.stack_top.load(Ordering::Acquire)
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

    /// Where to continue after an exception, which is expected no more then; zero when none is.
    pub fn take_resume(&self) -> u64 {
        self.resume.swap(0, Ordering::Relaxed)
    }

    /// Notes an expected exception.
    pub fn note(&self, syndrome: u64, address: u64) {
        self.esr.store(syndrome, Ordering::Relaxed);
        self.far.store(address, Ordering::Relaxed);
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
    let own = core::ptr::from_ref(area) as u64;
    area.own.store(own, Ordering::Relaxed);
    cpu::set_area(own);
}

/// The calling CPU's area.
pub fn this() -> &'static PerCpu {
    // SAFETY: `install` ran first on every CPU, so the register holds the address of a static.
    unsafe { &*(cpu::area() as *const PerCpu) }
}

/// The area of CPU `index`.
pub fn of(index: usize) -> &'static PerCpu {
    &AREAS[index]
}

/// The calling CPU's position in the machine's list.
pub fn index() -> usize {
    this().index()
}

/// Readies area and stack of CPU `index`; answers the area's address, which that CPU starts with.
pub(crate) fn prepare(index: usize) -> u64 {
    let area = &AREAS[index];
    area.index.store(index, Ordering::Relaxed);
    // SAFETY: only the address is taken; the stack belongs to that CPU, which is off.
    let stack = unsafe { &raw mut STACKS[index] } as u64;
    area.stack_top.store(stack + STACK_BYTES as u64, Ordering::Release);
    core::ptr::from_ref(area) as u64
}

pub(crate) fn set_affinities(list: &[u64]) {
    for (slot, affinity) in AFFINITIES.iter().zip(list) {
        slot.store(*affinity, Ordering::Relaxed);
    }
}

/// What the hardware calls CPU `index`: its MPIDR affinity, or its APIC ID.
pub fn affinity(index: usize) -> u64 {
    AFFINITIES[index].load(Ordering::Relaxed)
}
