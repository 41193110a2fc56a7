//! Random operations against a naive model of the GIC: one struct per interrupt, no list registers.
//!
//! Guests run one after the other here, so the model is exact: what a vCPU acknowledges is what the model says, and a
//! vCPU that sleeps is kicked whenever the model has something for it.

use super::*;

/// One interrupt of one vCPU (private) or of the guest (SPI), as the architecture describes it.
#[derive(Clone, Copy, Default)]
struct Interrupt {
    enabled: bool,
    edge: bool,
    line: bool,
    latched: bool,
    group1: bool,
    priority: u8,
    route: usize,
    /// The vCPU that handles it; `Some(None)` when software has made it active.
    active: Option<Option<usize>>,
}

impl Interrupt {
    fn pending(&self) -> bool {
        self.latched || self.line && !self.edge
    }

    fn set_line(&mut self, level: bool) {
        self.latched |= level && !self.line && self.edge;
        self.line = level;
    }
}

struct Model {
    private: Vec<[Interrupt; 32]>,
    spis: [Interrupt; 64],
    groups: [bool; 2],
}

impl Model {
    fn at(&mut self, vcpu: usize, intid: u32) -> &mut Interrupt {
        match intid {
            0..32 => &mut self.private[vcpu][intid as usize],
            _ => &mut self.spis[intid as usize - 32],
        }
    }

    /// The interrupts that `vcpu` can acknowledge, the most urgent first.
    fn deliverable(&mut self, vcpu: usize) -> Vec<u32> {
        let groups = self.groups;
        let mut found: Vec<(u8, u32)> = (0..96)
            .map(|intid| (intid, *self.at(vcpu, intid)))
            .filter(|(intid, i)| i.enabled && i.pending() && i.active.is_none() && (*intid < 32 || i.route == vcpu))
            .filter(|(_, i)| groups[usize::from(i.group1)])
            .map(|(intid, i)| (i.priority, intid))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, intid)| intid).collect()
    }

    fn acknowledge(&mut self, vcpu: usize, intid: u32) {
        let interrupt = self.at(vcpu, intid);
        interrupt.latched = false;
        interrupt.active = Some(Some(vcpu));
    }
}

struct World {
    vm: Vm,
    model: Model,
    random: Random,
    /// The interrupts each vCPU has acknowledged and not yet ended.
    handling: Vec<Vec<u32>>,
    awake: VcpuMask,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let vcpus = 1 + random.below(4);
        let mut spis = [Interrupt { group1: true, priority: 0xa0, ..Interrupt::default() }; 64];
        let mut private = [Interrupt { group1: true, priority: 0xa0, ..Interrupt::default() }; 32];
        private[..16].iter_mut().for_each(|sgi| (sgi.enabled, sgi.edge) = (true, true));
        spis.iter_mut().for_each(|spi| spi.route = 0);
        World {
            vm: Vm::booted(vcpus, 1 + random.below(6)),
            model: Model { private: std::vec![private; vcpus], spis, groups: [true; 2] },
            handling: std::vec![Vec::new(); vcpus],
            awake: all_vcpus(vcpus),
            random,
        }
    }

    /// A few INTIDs of each kind, so that operations meet.
    fn intid(&mut self) -> u32 {
        [0, 1, 15, 16, 27, 31, 32, 33, 34, 40, 63, 64, 95][self.random.below(13)]
    }

    /// vCPU `by` does something to the state of an interrupt.
    fn program(&mut self, by: usize) {
        let (intid, flag) = (self.intid(), self.random.flag());
        let vcpus = self.handling.len();
        let value = self.random.next();
        let vm = &mut self.vm;
        // A private register of any vCPU may be written.
        let of = value as usize % vcpus;
        let interrupt = self.model.at(of, intid);
        match self.random.below(10) {
            0 | 1 => {
                vm.poke(of, if flag { ISENABLER } else { ICENABLER }, intid);
                interrupt.enabled = flag;
            }
            2 => {
                vm.poke(of, if flag { ISPENDR } else { ICPENDR }, intid);
                interrupt.latched = flag;
            }
            3 => {
                vm.poke(of, if flag { ISACTIVER } else { ICACTIVER }, intid);
                if !flag {
                    if let Some(Some(handler)) = interrupt.active {
                        self.handling[handler].retain(|&other| other != intid);
                    }
                    interrupt.active = None;
                } else if interrupt.active.is_none() {
                    interrupt.active = Some(None);
                }
            }
            4 => {
                vm.set_priority(of, intid, value as u8);
                interrupt.priority = value as u8 & 0xf8;
            }
            5 if intid >= 16 => {
                vm.set_edge(of, intid, flag);
                interrupt.edge = flag;
            }
            6 if intid >= 32 => {
                let affinity = (value >> 8) as usize % (vcpus + 1);
                vm.set_route(intid, affinity as u64);
                interrupt.route = affinity;
            }
            7 if intid < 16 => {
                vm.cpus[of].post_sgi(intid);
                vm.kicked |= 1 << of;
                interrupt.latched = true;
            }
            8 if value.is_multiple_of(16) => {
                vm.gicd_write(CTLR, 4, if flag { 3 } else { value >> 8 & 3 });
                self.model.groups = if flag { [true; 2] } else { [value >> 8 & 1 != 0, value >> 9 & 1 != 0] };
            }
            _ => match intid {
                0..16 => {}
                16..32 => {
                    // Only the CPU that runs a vCPU sets its PPIs, and it wakes it for that.
                    vm.cpus[by].set_ppi(intid, flag);
                    vm.kicked |= 1 << by;
                    self.model.at(by, intid).set_line(flag);
                }
                _ => {
                    vm.set_spi(intid, flag);
                    interrupt.set_line(flag);
                }
            },
        }
    }

    /// vCPU `by` runs: acknowledges and ends interrupts, with an exit whenever the hardware asks for one.
    fn run(&mut self, by: usize) {
        self.vm.fill(by);
        for _ in 0..self.random.below(12) {
            let overflow = self.vm.lrs[by].hcr & 8 != 0 || self.vm.listed(by).len() == self.vm.lrs[by].count;
            if self.random.below(3) != 0 {
                let expected = self.model.deliverable(by);
                let got = self.vm.ack(by);
                match got {
                    Some(intid) => {
                        assert!(expected.contains(&intid), "{intid} is not deliverable");
                        assert!(overflow || expected[0] == intid, "{intid} before {}", expected[0]);
                        self.model.acknowledge(by, intid);
                        self.handling[by].push(intid);
                    }
                    None => assert!(overflow || expected.is_empty(), "{expected:?} are not delivered"),
                }
            } else if !self.handling[by].is_empty() {
                let pick = self.random.below(self.handling[by].len());
                let intid = self.handling[by].swap_remove(pick);
                self.vm.eoi(by, intid);
                self.model.at(by, intid).active = None;
            }
            if maintenance(&self.vm.lrs[by]) || self.random.below(4) == 0 {
                self.vm.cycle(by);
            }
        }
        self.vm.drain(by);
        // It goes to sleep when there is nothing for it.
        self.awake &= !(1 << by);
        self.awake |= VcpuMask::from(self.vm.deliverable(by)) << by;
    }

    /// Whoever is kicked passes through an entry and an exit, which may kick others.
    fn follow_kicks(&mut self) {
        loop {
            let kicked = self.vm.take_kicks() & all_vcpus(self.handling.len());
            if kicked == 0 {
                return;
            }
            self.awake |= kicked;
            for vcpu in (0..self.handling.len()).filter(|vcpu| kicked & 1 << vcpu != 0) {
                self.vm.cycle(vcpu);
                self.vm.drain(vcpu);
            }
        }
    }

    fn check(&mut self) {
        self.follow_kicks();
        for vcpu in 0..self.handling.len() {
            let deliverable = !self.model.deliverable(vcpu).is_empty();
            assert_eq!(self.vm.deliverable(vcpu), deliverable, "vCPU {vcpu}");
            assert!(!deliverable || self.awake & 1 << vcpu != 0, "vCPU {vcpu} sleeps over an interrupt");
            for intid in 0..96 {
                let interrupt = *self.model.at(vcpu, intid);
                assert_eq!(self.vm.peek(vcpu, ISPENDR, intid), interrupt.pending(), "ISPENDR of {intid}");
                assert_eq!(self.vm.peek(vcpu, ICENABLER, intid), interrupt.enabled, "ICENABLER of {intid}");
                assert_eq!(self.vm.peek(vcpu, ICACTIVER, intid), interrupt.active.is_some(), "ICACTIVER of {intid}");
            }
        }
    }
}

#[test]
fn random_operations_agree_with_the_model() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            let by = world.random.below(world.handling.len());
            if world.random.below(4) == 0 {
                world.run(by);
            } else {
                world.program(by);
            }
            world.check();
        }
    }
}
