//! What each physical CPU has of its own; TPIDR_EL2 points to it.

use super::sysreg::{mrs, msr};
use super::world::El1State;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU64};
use loader::machine::CPUS_MAX;

/// How other CPUs interrupt a guest on this one.
pub struct Doorbell {
    /// The CPU's redistributor's SGI frame; 0 before it has started.
    pub gicr_sgi: AtomicU64,
    /// Somebody has rung.
    pub rung: AtomicBool,
}

/// One CPU.
pub struct PerCpu {
    /// Index in the device tree's order.
    pub index: Cell<usize>,
    /// Top of its EL2 stack.
    pub stack: Cell<u64>,
    /// Save area of [`super::world::HOST_FP_SIZE`] bytes.
    pub host_fp: Cell<u64>,
    /// What other CPUs use of it.
    pub doorbell: Doorbell,
    /// The host's registers while a guest runs.
    pub host_el1: UnsafeCell<El1State>,
    /// ELR_EL2 and SPSR_EL2 of the host while a guest runs.
    pub host_return: Cell<(u64, u64)>,
    /// CNTV_CTL and CNTV_CVAL of the host while a guest runs.
    pub host_timer: Cell<(u64, u64)>,
    /// PPIs of Postern's that the host had enabled.
    pub host_ppis: Cell<u64>,
    /// PPIs of Postern's that are enabled while a guest runs.
    pub guest_ppis: Cell<u64>,
    /// List registers and active-priority registers of its CPU interface.
    pub interface: Cell<(usize, usize)>,
    /// Whether a list register holds something.
    pub lists_used: Cell<bool>,
    /// MDCR_EL2 of the host.
    pub mdcr: Cell<u64>,
    /// PMCR_EL0 of the host while a guest runs.
    pub host_pmcr: Cell<u64>,
    /// Serial number of the VM << 8 | index + 1 of the vCPU of each VMID that ran here last.
    pub last_vcpu: [Cell<u64>; abi::host::VMS_MAX + 1],
    /// CNTPCT at the last entry into EL2.
    pub entered_at: Cell<u64>,
}

// SAFETY: every CPU reaches only its own element, through `this`, but for the atomics of `doorbell`, and nothing here runs from an interrupt at EL2:
// interrupts stay masked there.
unsafe impl Sync for PerCpu {}

static CPUS: [PerCpu; CPUS_MAX] = [const {
    PerCpu {
        index: Cell::new(0),
        stack: Cell::new(0),
        host_fp: Cell::new(0),
        doorbell: Doorbell { gicr_sgi: AtomicU64::new(0), rung: AtomicBool::new(false) },
        host_el1: UnsafeCell::new(El1State::ZERO),
        host_return: Cell::new((0, 0)),
        host_timer: Cell::new((0, 0)),
        host_ppis: Cell::new(0),
        guest_ppis: Cell::new(0),
        interface: Cell::new((0, 0)),
        lists_used: Cell::new(false),
        mdcr: Cell::new(0),
        host_pmcr: Cell::new(0),
        last_vcpu: [const { Cell::new(0) }; abi::host::VMS_MAX + 1],
        entered_at: Cell::new(0),
    }
}; CPUS_MAX];

/// Makes element `index` this CPU's.
pub fn install(index: usize, stack: u64, host_fp: u64) {
    let cpu = &CPUS[index];
    cpu.index.set(index);
    cpu.stack.set(stack);
    cpu.host_fp.set(host_fp);
    cpu.last_vcpu.iter().for_each(|last| last.set(0));
    msr!("tpidr_el2", core::ptr::from_ref(cpu) as u64);
}

/// This CPU's element; `install` has run.
#[inline(always)]
pub fn this() -> &'static PerCpu {
    let address = mrs!("tpidr_el2");
    // SAFETY: TPIDR_EL2 is written only by `install`, with the address of a static.
    unsafe { &*(address as *const PerCpu) }
}

/// The doorbell of CPU `index`.
pub fn doorbell(index: usize) -> Option<&'static Doorbell> {
    CPUS.get(index).map(|cpu| &cpu.doorbell)
}

/// Whether `install` has run on this CPU.
pub fn installed() -> bool {
    mrs!("tpidr_el2") != 0
}
