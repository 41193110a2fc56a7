//! The list registers: how pending interrupts get into the hardware, and what became of them comes back.
//!
//! An interrupt is *pending* in a list register only while the vCPU runs: `drain` takes it back, so that at each `fill`
//! the most urgent ones are chosen anew, with the priorities, enables and routes of that moment. An *active* one stays
//! where it is until the guest deactivates it, for only the hardware can do that.

use core::mem;

use super::bank::{Bank, Place, bits};
use super::dist::{Dist, spi_bit};
use super::redist::CpuIf;
use super::{FIRST_SPI, VcpuMask, vcpu_bit};

/// The GIC registers that the world switch loads into and reads from the hardware for one vCPU. Owned by the CPU that
/// runs it.
#[derive(Clone, Debug)]
pub struct ListRegs {
    /// `ICH_LR<n>_EL2` for `n` below `count`. The hardware changes no more than the state field, so a list register
    /// that ICH_ELRSR_EL2 shows empty may be saved as 0.
    pub lr: [u64; 16],
    /// Number of list registers implemented: ICH_VTR_EL2.ListRegs + 1.
    pub count: usize,
    /// ICH_HCR_EL2. [`fill`] keeps the trap bits (14:10) and decides on all others.
    pub hcr: u64,
    /// ICH_VMCR_EL2.
    pub vmcr: u64,
    /// `ICH_AP0R<n>_EL2`, as far as implemented.
    pub ap0r: [u64; 4],
    /// `ICH_AP1R<n>_EL2`, as far as implemented.
    pub ap1r: [u64; 4],
    /// What was last put into each list register; 0 says that it is free.
    loaded: [u64; 16],
    /// Something may be in one: most of the time nothing is, and this is looked at on the way of every exit.
    used: bool,
}

// ICH_LR<n>_EL2 (IHI0069 §12.4): vINTID in 31:0. HW (61) is never set: no physical interrupt belongs to a guest.
/// Maintenance interrupt when the interrupt is deactivated.
const LR_EOI: u64 = 1 << 41;
const LR_PRIORITY_SHIFT: u32 = 48;
const LR_GROUP1: u64 = 1 << 60;
const LR_PENDING: u64 = 1 << 62;
const LR_ACTIVE: u64 = 1 << 63;
const LR_STATE: u64 = LR_PENDING | LR_ACTIVE;

// ICH_HCR_EL2 (IHI0069 §12.4).
const HCR_EN: u64 = 1 << 0;
/// Maintenance interrupt when no list register is pending.
const HCR_NPIE: u64 = 1 << 3;
/// TC, TALL0, TALL1, TSEI and TDIR: which accesses trap is not this module's business.
const HCR_TRAPS: u64 = 0x1f << 10;

// ICH_VMCR_EL2 (IHI0069 §12.4).
const VMCR_ENG0: u64 = 1 << 0;
const VMCR_ENG1: u64 = 1 << 1;
/// RES1 when the guest's ICC_SRE_EL1.SRE is 1.
const VMCR_FIQ_EN: u64 = 1 << 3;

impl ListRegs {
    /// The state of a vCPU after reset, on hardware with `count` list registers (1 to 16).
    pub const fn new(count: usize) -> Self {
        Self {
            lr: [0; 16],
            count: if count < 16 { count } else { 16 },
            hcr: HCR_EN,
            vmcr: VMCR_FIQ_EN,
            ap0r: [0; 4],
            ap1r: [0; 4],
            loaded: [0; 16],
            used: false,
        }
    }

    /// Whether a list register may hold something.
    #[inline]
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// The list registers, for reading them from the hardware.
    #[inline]
    pub fn from_hardware(&mut self) -> &mut [u64; 16] {
        self.used = true;
        &mut self.lr
    }

    fn load(&mut self, slot: usize, value: u64) {
        self.lr[slot] = value;
        self.loaded[slot] = value;
        self.used = true;
    }

    /// The slots that exist. `count` is a public field, so it is not taken on trust.
    fn slots(&self) -> core::ops::Range<usize> {
        0..self.count.min(self.lr.len())
    }
}

/// Prepares the list registers of vCPU `index` for a run: drains them, puts the most urgent interrupts that are
/// deliverable to it into those that are free, and arranges for a maintenance interrupt when more would follow. Returns
/// the vCPUs to kick.
#[must_use = "other vCPUs may wait for an interrupt that this one has let go of"]
pub fn fill(dist: &Dist, cpu: &CpuIf, index: usize, lrs: &mut ListRegs) -> VcpuMask {
    let kick = drain(dist, cpu, index, lrs);
    let vcpu = Vcpu { dist, cpu, index };
    if lrs.is_used() {
        vcpu.refresh_active(lrs);
    }
    let (more_kick, overflow) = vcpu.list_pending(lrs);
    lrs.hcr = lrs.hcr & HCR_TRAPS | HCR_EN;
    if overflow {
        ask_for_refill(lrs);
    }
    kick | more_kick
}

/// Takes back what the last run has left in the list registers of vCPU `index`: interrupts that are still pending
/// become pending here again (a level-sensitive one only if its line is still high), deactivated ones are let go,
/// active ones stay. The second time it does nothing, even if `lr` was read from the hardware once more. Returns the
/// vCPUs to kick.
#[must_use = "other vCPUs may wait for an interrupt that this one has let go of"]
pub fn drain(dist: &Dist, cpu: &CpuIf, index: usize, lrs: &mut ListRegs) -> VcpuMask {
    if !lrs.used {
        return 0;
    }
    let vcpu = Vcpu { dist, cpu, index };
    let kick = lrs.slots().fold(0, |kick, slot| kick | vcpu.settle(&mut lrs.lr[slot], &mut lrs.loaded[slot]));
    lrs.used = lrs.slots().any(|slot| lrs.loaded[slot] != 0);
    kick
}

/// Empties the registers of vCPU `index`, which is switched off and starts from reset when it runs again. Interrupts
/// that were active remain so in the distributor until the guest writes GICD_ICACTIVER. Returns the vCPUs to kick.
#[must_use = "other vCPUs may wait for an interrupt that this one has let go of"]
pub fn retire(dist: &Dist, cpu: &CpuIf, index: usize, lrs: &mut ListRegs) -> VcpuMask {
    let mut kick = drain(dist, cpu, index, lrs);
    let vcpu = Vcpu { dist, cpu, index };
    for loaded in lrs.loaded.into_iter().filter(|&loaded| loaded != 0) {
        let intid = loaded as u32;
        if let Some((bank, bit)) = vcpu.bank(intid)
            && bank.place(bit).holder() == Some(index)
            && !bank.move_place(bit, Place::Active(index), Place::Parked)
        {
            kick |= vcpu.release(intid);
        }
    }
    *lrs = ListRegs { hcr: lrs.hcr & HCR_TRAPS | HCR_EN, ..ListRegs::new(lrs.count) };
    kick
}

/// Whether there is an interrupt that would wake vCPU `index` from a WFI: pending, enabled and not active. To be asked
/// after [`drain`], what [`fill`] has put into list registers does not count. The CPU interface's own masks
/// (ICH_VMCR_EL2) are not looked at, so a guest that sleeps with its CPU interface closed is woken for nothing.
#[must_use]
pub fn deliverable(dist: &Dist, cpu: &CpuIf, index: usize) -> bool {
    let (private, spis) = Vcpu { dist, cpu, index }.candidates();
    private | spis != 0
}

/// When there are more interrupts than list registers, the guest has to come back once it has taken those it has. While
/// one is pending, that is when none is. If all are active, it is when it deactivates one; the other condition would
/// hold at once and for ever. UIE, the third possibility, does not help: it fires with one list register in use, so at
/// once where there is only one, and not when a guest that uses all of several deactivates one.
fn ask_for_refill(lrs: &mut ListRegs) {
    if lrs.slots().any(|slot| lrs.loaded[slot] & LR_STATE == LR_PENDING) {
        lrs.hcr |= HCR_NPIE;
        return;
    }
    for slot in lrs.slots() {
        lrs.load(slot, lrs.loaded[slot] | LR_EOI);
    }
}

/// A vCPU's view of its own and of the shared interrupts.
#[derive(Clone, Copy)]
struct Vcpu<'a> {
    dist: &'a Dist,
    cpu: &'a CpuIf,
    index: usize,
}

impl<'a> Vcpu<'a> {
    /// The bank of an interrupt, and its bit there.
    fn bank(self, intid: u32) -> Option<(&'a Bank, u32)> {
        match spi_bit(intid) {
            Some(bit) => Some((&self.dist.spis, bit)),
            None => (intid < FIRST_SPI).then_some((&self.cpu.private, intid)),
        }
    }

    /// Whether the interrupt, if it became free, would be this vCPU's.
    fn is_mine(self, intid: u32) -> bool {
        spi_bit(intid).is_none_or(|bit| self.dist.route(bit) == Some(self.index))
    }

    /// The private interrupts and the SPIs that may be put into a list register, as bits of their banks.
    fn candidates(self) -> (u64, u64) {
        let groups = self.dist.groups();
        let (cpu, dist) = (&self.cpu.private, &self.dist.spis);
        let free = |place| place == Place::Idle;
        let private = cpu.placed(cpu.ready(groups), free);
        let routed = bits(dist.ready(groups)).filter(|&bit| self.dist.route(bit) == Some(self.index));
        (private, dist.placed(routed.fold(0, |mask, bit| mask | 1 << bit), free))
    }

    /// The value of a list register that holds `intid` in `state`.
    fn list_register(self, bank: &Bank, bit: u32, intid: u32, state: u64) -> u64 {
        let group = if bank.is_group1(bit) { LR_GROUP1 } else { 0 };
        state | group | u64::from(bank.priority(bit)) << LR_PRIORITY_SHIFT | u64::from(intid)
    }

    /// Ends this vCPU's hold on an interrupt. Returns the other vCPU that has to take it over, if it is deliverable
    /// there: that one may have tried and failed while it was held here.
    fn release(self, intid: u32) -> VcpuMask {
        let Some((bank, bit)) = self.bank(intid) else { return 0 };
        bank.set_place(bit, Place::Idle);
        spi_bit(intid).map_or(0, |bit| self.dist.concerned(1 << bit)) & !vcpu_bit(self.index)
    }

    /// Folds one list register back, leaving in it no more than an active interrupt.
    fn settle(self, lr: &mut u64, loaded: &mut u64) -> VcpuMask {
        let was = mem::take(loaded);
        let mut state = mem::take(lr) & LR_STATE;
        let intid = was as u32;
        let Some((bank, bit)) = self.bank(intid).filter(|_| was != 0) else { return 0 };
        let place = bank.place(bit);
        if place.holder() != Some(self.index) {
            // The distributor or redistributor was reset meanwhile.
            return 0;
        }
        if place == Place::Dropped(self.index) {
            state &= !LR_ACTIVE;
        }
        // Hardware makes nothing pending, so this is a second look at what has been taken back already.
        if was & LR_PENDING == 0 {
            state &= !LR_PENDING;
        }
        if bank.is_edge(bit) {
            if state & LR_PENDING != 0 {
                bank.latch(bit);
            }
        } else if was & LR_PENDING != 0 && state & LR_PENDING == 0 {
            // Acknowledged, which ends what GICx_ISPENDR has made pending; the line speaks for itself (IHI0069 §4.1).
            bank.take_latch(bit);
        }
        if state & LR_ACTIVE == 0 {
            return self.release(intid);
        }
        if place == Place::Listed(self.index) {
            bank.set_place(bit, Place::Active(self.index));
        }
        *loaded = was & !LR_STATE | LR_ACTIVE;
        *lr = *loaded;
        0
    }

    /// Brings the list registers of active interrupts up to date. One that is pending as well is delivered again after
    /// its deactivation: an edge can wait in the same list register. A level cannot, as it may drop until then, and
    /// neither can an SPI that has been moved to another vCPU; these have the guest come back when it deactivates them.
    fn refresh_active(self, lrs: &mut ListRegs) {
        let groups = self.dist.groups();
        for slot in lrs.slots() {
            let intid = lrs.loaded[slot] as u32;
            let Some((bank, bit)) = self.bank(intid).filter(|_| lrs.loaded[slot] != 0) else { continue };
            let mut state = LR_ACTIVE;
            if bank.ready(groups) & 1 << bit != 0 {
                let waits_here = bank.is_edge(bit) && self.is_mine(intid) && bank.take_latch(bit);
                state |= if waits_here { LR_PENDING } else { LR_EOI };
            }
            lrs.load(slot, self.list_register(bank, bit, intid, state));
        }
    }

    /// Puts pending interrupts into the free list registers, the most urgent first. Returns the vCPUs to kick, and
    /// whether there were more than would fit.
    fn list_pending(self, lrs: &mut ListRegs) -> (VcpuMask, bool) {
        let (mut private, mut spis) = self.candidates();
        let mut kick = 0;
        while let Some(intid) = self.most_urgent(private, spis, lrs.vmcr) {
            let Some(slot) = lrs.slots().find(|&slot| lrs.loaded[slot] == 0) else { return (kick, true) };
            let Some((bank, bit)) = self.bank(intid) else { break };
            let mask = if intid < FIRST_SPI { &mut private } else { &mut spis };
            *mask &= !(1 << bit);
            if !bank.move_place(bit, Place::Idle, Place::Listed(self.index)) {
                continue;
            }
            // It is ours now, but it may have been withdrawn, or delivered elsewhere, since it was chosen.
            let is_edge = bank.is_edge(bit);
            let is_pending = if is_edge { bank.take_latch(bit) } else { bank.pending() & 1 << bit != 0 };
            if !is_pending {
                kick |= self.release(intid);
                continue;
            }
            // A level may still be high when the guest is done with it. Only an exit can tell.
            let state = LR_PENDING | if is_edge { 0 } else { LR_EOI };
            lrs.load(slot, self.list_register(bank, bit, intid, state));
        }
        (kick, false)
    }

    /// The INTID of the most urgent of these interrupts; the lowest of several. Those of a group that the guest's CPU
    /// interface does not signal come last, or they would keep the list registers from those it does.
    fn most_urgent(self, private: u64, spis: u64, vmcr: u64) -> Option<u32> {
        let urgency = |bank: &Bank, bit: u32, intid: u32| {
            let enable = if bank.is_group1(bit) { VMCR_ENG1 } else { VMCR_ENG0 };
            (vmcr & enable == 0, bank.priority(bit), intid)
        };
        let private = bits(private).map(|bit| urgency(&self.cpu.private, bit, bit));
        let spis = bits(spis).map(|bit| urgency(&self.dist.spis, bit, FIRST_SPI + bit));
        private.chain(spis).min().map(|(_, _, intid)| intid)
    }
}
