//! Several vCPUs inside the guest at the same time, one step of one of them after the other in a random order.
//!
//! No model here: what counts is that an INTID never sits in two list registers, that nobody sleeps or runs past an
//! interrupt without a kick or a maintenance interrupt on its way, and that no edge gets lost.

use super::bank::{Place, bits};
use super::*;

/// Edges of these are never withdrawn by the test, so each has to be delivered.
const RELIABLE: [u32; 4] = [1, 14, 40, 63];
const OTHERS: [u32; 6] = [3, 27, 33, 34, 64, 95];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Inside,
    Ready,
    Asleep,
}

struct World {
    vm: Vm,
    random: Random,
    phase: Vec<Phase>,
    /// Kicked, and not yet been through `fill` since.
    kicked: VcpuMask,
    /// At the last `fill` there were more interrupts than list registers.
    overflow: VcpuMask,
    /// Reliable interrupts, by vCPU (0 for SPIs), that were triggered and not acknowledged since.
    owed: Vec<(usize, u32)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let vcpus = 2 + random.below(3);
        let mut vm = Vm::booted(vcpus, 1 + random.below(4));
        for intid in [40, 63, 95] {
            vm.set_edge(0, intid, true);
        }
        for intid in [27, 33, 34, 40, 63, 64, 95] {
            (0..vcpus).for_each(|vcpu| vm.poke(vcpu, ISENABLER, intid));
        }
        World { vm, random, phase: std::vec![Phase::Ready; vcpus], kicked: 0, overflow: 0, owed: Vec::new() }
    }

    fn step(&mut self) {
        let vcpu = self.random.below(self.phase.len());
        match (self.phase[vcpu], self.random.below(8)) {
            (Phase::Inside, 0) => self.exit(vcpu),
            (Phase::Inside, 1..4) => self.acknowledge(vcpu),
            (Phase::Inside, 4..6) => self.deactivate(vcpu),
            (Phase::Ready, 0..3) => self.enter(vcpu),
            (Phase::Asleep, 0..3) if self.kicked & 1 << vcpu != 0 => self.enter(vcpu),
            _ => self.trigger_or_program(),
        }
        self.kicked |= self.vm.take_kicks();
        if self.phase[vcpu] == Phase::Inside && maintenance(&self.vm.lrs[vcpu]) {
            self.exit(vcpu);
        }
        self.kicked |= self.vm.take_kicks();
    }

    fn enter(&mut self, vcpu: usize) {
        self.kicked &= !(1 << vcpu);
        self.vm.fill(vcpu);
        self.phase[vcpu] = Phase::Inside;
        self.overflow &= !(1 << vcpu);
        self.overflow |= VcpuMask::from(self.waiting(vcpu)) << vcpu;
    }

    fn exit(&mut self, vcpu: usize) {
        self.vm.drain(vcpu);
        self.phase[vcpu] = if self.vm.deliverable(vcpu) { Phase::Ready } else { Phase::Asleep };
        let handling = self.vm.listed(vcpu).iter().any(|&(_, state)| state & ACTIVE != 0);
        if handling {
            self.phase[vcpu] = Phase::Ready; // nobody sleeps in a handler
        }
    }

    fn acknowledge(&mut self, vcpu: usize) {
        let Some(intid) = self.vm.ack(vcpu) else { return };
        let owner = if intid < 32 { vcpu } else { 0 };
        self.owed.retain(|&owed| owed != (owner, intid));
    }

    fn deactivate(&mut self, vcpu: usize) {
        let active: Vec<u32> = self.vm.listed(vcpu).iter().filter(|(_, s)| s & ACTIVE != 0).map(|&(n, _)| n).collect();
        if !active.is_empty() {
            let pick = self.random.below(active.len());
            self.vm.eoi(vcpu, active[pick]);
        }
    }

    /// The host or some vCPU does something.
    fn trigger_or_program(&mut self) {
        let vcpus = self.phase.len();
        let (of, flag) = (self.random.below(vcpus), self.random.flag());
        let any = [&RELIABLE[..], &OTHERS].concat();
        let (any, other) = (any[self.random.below(any.len())], OTHERS[self.random.below(OTHERS.len())]);
        let reliable = RELIABLE[self.random.below(RELIABLE.len())];
        match self.random.below(9) {
            0 | 1 => self.trigger(of, reliable),
            2 if (16..32).contains(&other) && self.phase[of] != Phase::Inside => {
                // Only the CPU of the vCPU itself looks at its timer, and only outside of the guest.
                self.vm.cpus[of].set_ppi(other, flag);
                self.vm.kicked |= 1 << of;
            }
            2 | 3 if other >= 32 => self.vm.set_spi(other, flag),
            4 => self.vm.poke(of, if flag { ISENABLER } else { ICENABLER }, any),
            5 => self.vm.poke(of, if flag { ISPENDR } else { ICPENDR }, other),
            6 => self.vm.poke(of, if flag { ISACTIVER } else { ICACTIVER }, any),
            7 if any >= 32 => self.vm.set_route(any, self.random.next() % (vcpus as u64 + 1)),
            8 => self.vm.set_priority(of, any, self.random.next() as u8),
            _ => {}
        }
    }

    fn trigger(&mut self, of: usize, intid: u32) {
        if intid < 16 {
            self.vm.cpus[of].post_sgi(intid);
            self.vm.kicked |= 1 << of;
            self.owed.push((of, intid));
        } else {
            self.vm.set_spi(intid, false);
            self.vm.set_spi(intid, true);
            self.owed.push((0, intid));
        }
    }

    /// Whether there is an interrupt that `vcpu` could put into a list register.
    fn waiting(&self, vcpu: usize) -> bool {
        let groups = self.vm.dist.groups();
        let (private, spis) = (&self.vm.cpus[vcpu].private, &self.vm.dist.spis);
        let idle = |place| place == Place::Idle;
        private.placed(private.ready(groups), idle) != 0
            || bits(spis.placed(spis.ready(groups), idle)).any(|bit| self.vm.dist.route(bit) == Some(vcpu))
    }

    fn check(&self) {
        let mut seen = Vec::new();
        for vcpu in 0..self.phase.len() {
            seen.extend(self.vm.listed(vcpu).iter().map(|&(intid, _)| intid).filter(|&intid| intid >= 32));
            let coming = self.kicked & 1 << vcpu != 0
                || match self.phase[vcpu] {
                    Phase::Inside => self.overflow & 1 << vcpu != 0,
                    Phase::Ready => true,
                    Phase::Asleep => false,
                };
            assert!(coming || !self.waiting(vcpu), "vCPU {vcpu} does not look after its interrupt");
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count, "an SPI in two list registers");
        self.check_handover();
    }

    /// An SPI that is pending while a vCPU holds it has to make that vCPU come back when it is done with it.
    fn check_handover(&self) {
        let spis = &self.vm.dist.spis;
        for bit in bits(spis.ready(self.vm.dist.groups())) {
            let Some(holder) = spis.place(bit).holder() else { continue };
            let lr = self.vm.lrs[holder].lr.iter().find(|&&lr| lr as u32 == bit + 32);
            let signals = lr.is_some_and(|&lr| lr & LR_EOI != 0);
            let coming = self.kicked & 1 << holder != 0 || self.phase[holder] == Phase::Ready;
            assert!(coming || signals, "SPI {} is stuck at vCPU {holder}", bit + 32);
        }
    }

    /// Makes everything deliverable, handles it all, and looks for what is left over.
    fn finish(mut self) {
        let vcpus = self.phase.len();
        for intid in RELIABLE.into_iter().chain(OTHERS) {
            if intid >= 32 {
                self.vm.set_route(intid, 0);
                self.vm.set_spi(intid, false);
            }
            for vcpu in 0..vcpus {
                self.vm.cpus[vcpu].set_ppi(intid, false);
                self.vm.poke(vcpu, ISENABLER, intid);
            }
        }
        for _ in 0..20 {
            for vcpu in 0..vcpus {
                self.vm.cycle(vcpu);
                while self.vm.ack(vcpu).map(|intid| self.owed.retain(|&o| o != (vcpu, intid))).is_some() {}
                for (intid, state) in self.vm.listed(vcpu) {
                    if state & ACTIVE != 0 {
                        self.vm.eoi(vcpu, intid);
                    }
                }
                self.vm.drain(vcpu);
            }
            for word in 0..3 {
                (0..vcpus).for_each(|vcpu| self.vm.poke(vcpu, ICACTIVER, 32 * word));
                self.vm.gicd_write(ICACTIVER + 4 * word as u64, 4, u64::MAX);
            }
            (0..vcpus).for_each(|vcpu| self.vm.gicr_write(vcpu, SGI_BASE + ICACTIVER, 4, u64::MAX));
        }
        assert_eq!(self.owed, [], "edges that were lost");
        for vcpu in 0..vcpus {
            assert_eq!(self.vm.lrs[vcpu].lr, [0; 16]);
            assert_eq!(self.vm.gicr_read(vcpu, SGI_BASE + ISACTIVER, 4), 0);
            assert_eq!(self.vm.gicr_read(vcpu, SGI_BASE + ISPENDR, 4), 0);
        }
        assert_eq!(self.vm.gicd_read(ISACTIVER, 8) | self.vm.gicd_read(ISPENDR, 8), 0);
        assert_eq!(self.vm.dist.spis.placed(u64::MAX, |place| place != Place::Idle), 0);
    }
}

#[test]
fn no_interleaving_loses_or_doubles_an_interrupt() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..2000 {
            world.step();
            world.check();
        }
        world.finish();
    }
}
