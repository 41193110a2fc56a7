//! The generic timer (Arm ARM D12): guest and host both use the virtual timer, so it is switched, and while a guest has
//! it the host's deadline waits on EL2's own physical timer.

use super::percpu::PerCpu;
use super::sysreg::{isb, mrs, msr};

const ENABLE: u64 = 1;
const MASK: u64 = 1 << 1;
const STATUS: u64 = 1 << 2;

/// A vCPU's virtual timer while it is not loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestTimer {
    control: u64,
    compare: u64,
}

impl GuestTimer {
    /// The host's CNTVCT at which the timer fires; `u64::MAX` when it will not. `offset` is the guest's CNTVOFF; the
    /// host's is zero.
    pub fn deadline(&self, offset: u64) -> u64 {
        if self.control & (ENABLE | MASK) == ENABLE { self.compare.saturating_add(offset) } else { u64::MAX }
    }
}

/// System counter, in ticks of CNTFRQ.
#[inline(always)]
pub fn now() -> u64 {
    mrs!("cntpct_el0")
}

/// Ticks a second.
pub fn frequency() -> u64 {
    mrs!("cntfrq_el0")
}

/// Puts the host's timer aside and loads the guest's.
pub fn to_guest(cpu: &PerCpu, guest: &GuestTimer, offset: u64) {
    let (control, compare) = (mrs!("cntv_ctl_el0"), mrs!("cntv_cval_el0"));
    cpu.host_timer.set((control, compare));
    msr!("cntv_ctl_el0", 0);
    // The host's CNTVOFF is zero, so its virtual deadline is a physical one.
    msr!("cnthp_cval_el2", compare);
    msr!("cnthp_ctl_el2", if control & (ENABLE | MASK) == ENABLE { ENABLE } else { 0 });
    msr!("cntvoff_el2", offset);
    msr!("cntv_cval_el0", guest.compare);
    isb();
    msr!("cntv_ctl_el0", guest.control);
}

/// The reverse of [`to_guest`].
pub fn to_host(cpu: &PerCpu, guest: &mut GuestTimer) {
    guest.control = mrs!("cntv_ctl_el0") & (ENABLE | MASK);
    guest.compare = mrs!("cntv_cval_el0");
    msr!("cntv_ctl_el0", 0);
    msr!("cnthp_ctl_el2", 0);
    msr!("cntvoff_el2", 0);
    let (control, compare) = cpu.host_timer.get();
    msr!("cntv_cval_el0", compare);
    isb();
    msr!("cntv_ctl_el0", control & (ENABLE | MASK));
}

/// The output of the loaded guest's timer (Arm ARM D12.2.4): enabled, not masked, condition met.
pub fn output() -> bool {
    isb();
    mrs!("cntv_ctl_el0") & (ENABLE | MASK | STATUS) == ENABLE | STATUS
}
