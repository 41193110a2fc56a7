//! A guest and its hardware in a few lines, for the tests.

extern crate std;

mod delivery;
mod frames;
mod fuzz;
mod interleave;
mod model;
mod race;
mod sgi;

use std::vec::Vec;

use super::*;

// Offsets as a driver writes them.
pub const CTLR: u64 = 0;
pub const IGROUPR: u64 = 0x80;
pub const ISENABLER: u64 = 0x100;
pub const ICENABLER: u64 = 0x180;
pub const ISPENDR: u64 = 0x200;
pub const ICPENDR: u64 = 0x280;
pub const ISACTIVER: u64 = 0x300;
pub const ICACTIVER: u64 = 0x380;
pub const IPRIORITYR: u64 = 0x400;
pub const ICFGR: u64 = 0xc00;
pub const IROUTER: u64 = 0x6000;
pub const SGI_BASE: u64 = 0x1_0000;

const LR_EOI: u64 = 1 << 41;
const PENDING: u64 = 1;
const ACTIVE: u64 = 2;
const BOTH: u64 = 3;

pub fn state(lr: u64) -> u64 {
    lr >> 62
}

pub fn priority(lr: u64) -> u8 {
    (lr >> 48) as u8
}

/// A guest with all that its vCPUs own.
pub struct Vm {
    pub dist: Dist,
    pub cpus: Vec<CpuIf>,
    pub lrs: Vec<ListRegs>,
    /// Every vCPU that was ever to be kicked since this was last taken.
    pub kicked: VcpuMask,
}

impl Vm {
    pub fn new(vcpus: usize, list_registers: usize) -> Self {
        let dist = Dist::new();
        dist.reset(vcpus);
        let mut lrs = ListRegs::new(list_registers);
        lrs.vmcr |= 3; // both groups open
        Vm { dist, cpus: (0..vcpus).map(|_| CpuIf::new()).collect(), lrs: std::vec![lrs; vcpus], kicked: 0 }
    }

    /// A guest that has initialised its GIC as Linux does: all in group 1, priority 0xa0, SGIs enabled.
    pub fn booted(vcpus: usize, list_registers: usize) -> Self {
        let mut vm = Vm::new(vcpus, list_registers);
        for word in 1..3 {
            vm.gicd_write(IGROUPR + 4 * word, 4, u64::from(u32::MAX));
        }
        for intid in 32..96 {
            vm.gicd_write(IPRIORITYR + intid, 1, 0xa0);
        }
        for vcpu in 0..vcpus {
            vm.gicr_write(vcpu, 0x14, 4, 0);
            vm.gicr_write(vcpu, SGI_BASE + IGROUPR, 4, u64::from(u32::MAX));
            vm.gicr_write(vcpu, SGI_BASE + ISENABLER, 4, 0xffff);
            for word in 0..8 {
                vm.gicr_write(vcpu, SGI_BASE + IPRIORITYR + 4 * word, 4, 0xa0a0_a0a0);
            }
        }
        vm.gicd_write(CTLR, 4, 0x13);
        vm.kicked = 0;
        vm
    }

    pub fn gicd_write(&mut self, offset: u64, size: u32, value: u64) {
        self.kicked |= dist_access(&self.dist, offset, size, Some(value)).kick;
    }

    pub fn gicd_read(&self, offset: u64, size: u32) -> u64 {
        dist_access(&self.dist, offset, size, None).value
    }

    pub fn gicr_write(&mut self, vcpu: usize, offset: u64, size: u32, value: u64) {
        self.kicked |= redist_access(&self.cpus[vcpu], vcpu, self.cpus.len(), offset, size, Some(value)).kick;
    }

    pub fn gicr_read(&self, vcpu: usize, offset: u64, size: u32) -> u64 {
        redist_access(&self.cpus[vcpu], vcpu, self.cpus.len(), offset, size, None).value
    }

    /// Writes the bit of `intid` in a register with a bit per interrupt, as vCPU `vcpu` would.
    pub fn poke(&mut self, vcpu: usize, register: u64, intid: u32) {
        let (word, bit) = (u64::from(intid / 32), 1 << (intid % 32));
        match word {
            0 => self.gicr_write(vcpu, SGI_BASE + register, 4, bit),
            _ => self.gicd_write(register + 4 * word, 4, bit),
        }
    }

    pub fn peek(&self, vcpu: usize, register: u64, intid: u32) -> bool {
        let (word, bit) = (u64::from(intid / 32), 1 << (intid % 32));
        let value = match word {
            0 => self.gicr_read(vcpu, SGI_BASE + register, 4),
            _ => self.gicd_read(register + 4 * word, 4),
        };
        value & bit != 0
    }

    pub fn set_priority(&mut self, vcpu: usize, intid: u32, value: u8) {
        let offset = IPRIORITYR + u64::from(intid);
        match intid {
            0..32 => self.gicr_write(vcpu, SGI_BASE + offset, 1, value.into()),
            _ => self.gicd_write(offset, 1, value.into()),
        }
    }

    /// Read-modify-write of ICFGR, as Linux does it.
    pub fn set_edge(&mut self, vcpu: usize, intid: u32, edge: bool) {
        let (offset, field) = (ICFGR + u64::from(intid / 16) * 4, 2 << (2 * (intid % 16)));
        let update = |value: u64| if edge { value | field } else { value & !field };
        match intid {
            0..32 => self.gicr_write(
                vcpu,
                SGI_BASE + offset,
                4,
                update(redist_access(&self.cpus[vcpu], vcpu, 1, SGI_BASE + offset, 4, None).value),
            ),
            _ => self.gicd_write(offset, 4, update(self.gicd_read(offset, 4))),
        }
    }

    pub fn set_route(&mut self, intid: u32, affinity: u64) {
        self.gicd_write(IROUTER + 8 * u64::from(intid), 8, affinity);
    }

    pub fn set_spi(&mut self, intid: u32, level: bool) {
        self.kicked |= 1 << self.dist.set_spi(intid, level).expect("an SPI");
    }

    pub fn fill(&mut self, vcpu: usize) {
        self.kicked |= fill(&self.dist, &self.cpus[vcpu], vcpu, &mut self.lrs[vcpu]);
        check_list_registers(&self.lrs[vcpu]);
    }

    pub fn drain(&mut self, vcpu: usize) {
        self.kicked |= drain(&self.dist, &self.cpus[vcpu], vcpu, &mut self.lrs[vcpu]);
    }

    pub fn deliverable(&self, vcpu: usize) -> bool {
        deliverable(&self.dist, &self.cpus[vcpu], vcpu)
    }

    /// An exit and the following entry.
    pub fn cycle(&mut self, vcpu: usize) {
        self.drain(vcpu);
        self.fill(vcpu);
    }

    /// The INTIDs in the list registers of a vCPU, with their state.
    pub fn listed(&self, vcpu: usize) -> Vec<(u32, u64)> {
        let mut all: Vec<_> = occupied(&self.lrs[vcpu]).map(|lr| (lr as u32, state(lr))).collect();
        all.sort_unstable();
        all
    }

    pub fn ack(&mut self, vcpu: usize) -> Option<u32> {
        acknowledge(&mut self.lrs[vcpu])
    }

    pub fn eoi(&mut self, vcpu: usize, intid: u32) {
        assert!(deactivate(&mut self.lrs[vcpu], intid), "EOI of {intid}, which is not active");
    }

    pub fn take_kicks(&mut self) -> VcpuMask {
        core::mem::take(&mut self.kicked)
    }
}

fn occupied(lrs: &ListRegs) -> impl Iterator<Item = u64> + '_ {
    lrs.lr[..lrs.count].iter().copied().filter(|&lr| state(lr) != 0)
}

/// What the virtual CPU interface does on a read of ICV_IAR: the most urgent pending interrupt of an open group becomes
/// active. Preemption is not modelled, so more can be active than hardware would allow.
pub fn acknowledge(lrs: &mut ListRegs) -> Option<u32> {
    let (vmcr, count) = (lrs.vmcr, lrs.count);
    let open = |lr: u64| vmcr >> (lr >> 60 & 1) & 1 != 0;
    let best = lrs.lr[..count].iter_mut().filter(|lr| state(**lr) == PENDING && open(**lr));
    let lr = best.min_by_key(|lr| (priority(**lr), **lr as u32))?;
    *lr = *lr & !(BOTH << 62) | ACTIVE << 62;
    Some(*lr as u32)
}

/// A write of ICV_EOIR with EOImode 0; tells whether the interrupt was active.
pub fn deactivate(lrs: &mut ListRegs, intid: u32) -> bool {
    let count = lrs.count;
    match lrs.lr[..count].iter_mut().find(|lr| **lr as u32 == intid && state(**lr) & ACTIVE != 0) {
        Some(lr) => *lr &= !(ACTIVE << 62),
        None => return false,
    }
    true
}

/// Whether the maintenance interrupt is asserted (IHI0069 §12.4, ICH_MISR_EL2 and ICH_EISR_EL2).
pub fn maintenance(lrs: &ListRegs) -> bool {
    let implemented = &lrs.lr[..lrs.count];
    let eoi = implemented.iter().any(|&lr| state(lr) == 0 && lr & LR_EOI != 0);
    let no_pending = lrs.hcr & 1 << 3 != 0 && !implemented.iter().any(|&lr| state(lr) == PENDING);
    let underflow = lrs.hcr & 1 << 1 != 0 && implemented.iter().filter(|&&lr| state(lr) != 0).count() <= 1;
    eoi || no_pending || underflow
}

/// What must hold of the list registers of every vCPU at each entry.
pub fn check_list_registers(lrs: &ListRegs) {
    const FIELDS: u64 = BOTH << 62 | 1 << 60 | 0xff << 48 | LR_EOI | 0xffff_ffff;
    let listed: Vec<u64> = lrs.lr.iter().copied().filter(|&lr| lr != 0).collect();
    for (n, &lr) in listed.iter().enumerate() {
        assert_eq!(lr & !FIELDS, 0, "HW or reserved bits in {lr:#x}");
        assert_ne!(state(lr), 0, "inactive list register {lr:#x}");
        assert!((lr as u32) < 96, "no such INTID: {lr:#x}");
        assert_eq!(priority(lr) & 7, 0, "unimplemented priority bits in {lr:#x}");
        assert!(listed[..n].iter().all(|&other| other as u32 != lr as u32), "INTID twice: {lr:#x}");
    }
    assert!(lrs.lr[lrs.count..].iter().all(|&lr| lr == 0), "a list register that is not implemented");
    assert_eq!(lrs.hcr & 1, 1, "ICH_HCR_EL2.En");
    assert!(!maintenance(lrs), "the vCPU would leave at once, for ever");
}

/// A linear congruential generator (constants of Knuth's MMIX) with a seed that is fixed by the test.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16 // the low bits of such a generator are poor
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn flag(&mut self) -> bool {
        self.next() & 1 != 0
    }
}
