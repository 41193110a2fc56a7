//! vCPUs, the host and the guest's own routing on real threads at the same time.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

const VCPUS: usize = 3;
const EDGE: u32 = 40;
const LEVEL: u32 = 41;
const SGI: u32 = 5;

/// What the threads share.
struct World {
    dist: Dist,
    cpus: [CpuIf; VCPUS],
    kicked: [AtomicBool; VCPUS],
    stop: AtomicBool,
    /// How many list registers hold each SPI.
    in_list_registers: [AtomicU32; 64],
    /// Acknowledgements of EDGE and LEVEL, and of the SGI by each vCPU.
    edges: AtomicUsize,
    levels: AtomicUsize,
    sgis: [AtomicUsize; VCPUS],
    sgis_sent: AtomicUsize,
}

impl World {
    fn kick(&self, mask: VcpuMask) {
        for vcpu in (0..VCPUS).filter(|vcpu| mask & 1 << vcpu != 0) {
            self.kicked[vcpu].store(true, SeqCst);
        }
    }

    fn gicd_write(&self, offset: u64, size: u32, value: u64) {
        self.kick(dist_access(&self.dist, offset, size, Some(value)).kick);
    }

    /// Counts the SPIs of a vCPU that enters (`true`) or leaves the guest.
    fn count(&self, lrs: &ListRegs, enters: bool) {
        for lr in occupied(lrs).filter(|&lr| lr as u32 >= 32) {
            let counter = &self.in_list_registers[(lr as u32 - 32) as usize];
            let others = if enters { counter.fetch_add(1, SeqCst) } else { counter.fetch_sub(1, SeqCst) - 1 };
            assert_eq!(others, 0, "SPI {} is in two list registers", lr as u32);
        }
    }

    fn handle(&self, vcpu: usize, intid: u32) {
        match intid {
            EDGE => _ = self.edges.fetch_add(1, SeqCst),
            LEVEL => {
                // The handler silences the device.
                self.kick(self.dist.set_spi(LEVEL, false).map_or(0, vcpu_bit));
                self.levels.fetch_add(1, SeqCst);
            }
            SGI => _ = self.sgis[vcpu].fetch_add(1, SeqCst),
            _ => panic!("INTID {intid}"),
        }
    }

    fn run_vcpu(&self, vcpu: usize, mut lrs: ListRegs) {
        let mut random = Random(vcpu as u64);
        while !self.stop.load(SeqCst) {
            self.kicked[vcpu].store(false, SeqCst);
            self.kick(fill(&self.dist, &self.cpus[vcpu], vcpu, &mut lrs));
            check_list_registers(&lrs);
            self.count(&lrs, true);
            self.run_guest(vcpu, &mut lrs, &mut random);
            // An SPI that was deactivated is not counted any more, the others are until the drain.
            self.count(&lrs, false);
            self.kick(drain(&self.dist, &self.cpus[vcpu], vcpu, &mut lrs));
            let handling = occupied(&lrs).next().is_some();
            while !handling
                && !deliverable(&self.dist, &self.cpus[vcpu], vcpu)
                && !self.kicked[vcpu].load(SeqCst)
                && !self.stop.load(SeqCst)
            {
                thread::yield_now();
            }
        }
    }

    /// Runs until kicked, or until the hardware or the guest itself wants out.
    fn run_guest(&self, vcpu: usize, lrs: &mut ListRegs, random: &mut Random) {
        let busy = random.flag();
        loop {
            while let Some(intid) = acknowledge(lrs) {
                self.handle(vcpu, intid);
                if random.below(4) == 0 {
                    return; // an exit in the middle of the handler
                }
            }
            for lr in &mut lrs.lr[..lrs.count] {
                if state(*lr) & ACTIVE != 0 {
                    let spi = (*lr as u32).checked_sub(32);
                    *lr &= !(ACTIVE << 62);
                    if let Some(spi) = spi.filter(|_| state(*lr) == 0) {
                        self.in_list_registers[spi as usize].fetch_sub(1, SeqCst);
                    }
                }
            }
            let idle = !occupied(lrs).any(|lr| state(lr) == PENDING);
            if self.kicked[vcpu].load(SeqCst) || maintenance(lrs) || self.stop.load(SeqCst) || idle && !busy {
                return;
            }
            thread::yield_now();
        }
    }

    /// Waits for a counter to pass `before`, or fails with what was lost.
    fn wait(&self, counter: &AtomicUsize, before: usize, what: &str) {
        let start = Instant::now();
        while counter.load(SeqCst) == before {
            if start.elapsed() > Duration::from_secs(20) {
                self.stop.store(true, SeqCst);
                panic!("{what} was never delivered");
            }
            if self.stop.load(SeqCst) {
                return;
            }
            thread::yield_now();
        }
    }
}

/// Stops the other threads when one of them fails.
struct StopOnDrop<'a>(&'a World);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
    }
}

#[test]
fn concurrent_vcpus_lose_nothing() {
    const ROUNDS: usize = 3000;
    let mut vm = Vm::booted(VCPUS, 2);
    for intid in [EDGE, LEVEL] {
        vm.set_edge(0, intid, intid == EDGE);
        vm.poke(0, ISENABLER, intid);
    }
    let world = World {
        dist: vm.dist,
        cpus: vm.cpus.try_into().ok().expect("as many as vCPUs"),
        kicked: Default::default(),
        stop: AtomicBool::new(false),
        in_list_registers: [const { AtomicU32::new(0) }; 64],
        edges: AtomicUsize::new(0),
        levels: AtomicUsize::new(0),
        sgis: Default::default(),
        sgis_sent: AtomicUsize::new(0),
    };
    thread::scope(|scope| {
        let world = &world;
        for (vcpu, lrs) in vm.lrs.into_iter().enumerate() {
            scope.spawn(move || {
                let _stop = StopOnDrop(world);
                world.run_vcpu(vcpu, lrs);
            });
        }
        // The guest moves the SPIs about: with the line masked, as Linux does, and without.
        scope.spawn(move || {
            let mut random = Random(99);
            while !world.stop.load(SeqCst) {
                let (intid, target) = (EDGE + random.below(2) as u32, random.below(VCPUS) as u64);
                let masked = random.flag();
                if masked {
                    world.gicd_write(ICENABLER + 4, 4, 1 << (intid - 32));
                }
                world.gicd_write(IROUTER + 8 * u64::from(intid), 8, target);
                if masked {
                    world.gicd_write(ISENABLER + 4, 4, 1 << (intid - 32));
                }
                if random.below(50) == 0 {
                    world.kick(dist_access(&world.dist, ISACTIVER + 4, 4, None).kick);
                    world.gicd_write(ICACTIVER + 4, 4, u64::MAX);
                }
                thread::yield_now();
            }
        });
        // The host's devices.
        scope.spawn(move || {
            let _stop = StopOnDrop(world);
            for _ in 0..ROUNDS {
                let (edges, levels) = (world.edges.load(SeqCst), world.levels.load(SeqCst));
                for (intid, level) in [(EDGE, true), (EDGE, false), (LEVEL, true)] {
                    world.kick(world.dist.set_spi(intid, level).map_or(0, vcpu_bit));
                }
                world.wait(&world.edges, edges, "an edge");
                world.wait(&world.levels, levels, "a level");
            }
        });
        // Another vCPU's SGIs.
        scope.spawn(move || {
            let mut random = Random(7);
            while !world.stop.load(SeqCst) {
                let vcpu = random.below(VCPUS);
                let before = world.sgis[vcpu].load(SeqCst);
                world.sgis_sent.fetch_add(1, SeqCst);
                world.cpus[vcpu].post_sgi(SGI);
                world.kick(vcpu_bit(vcpu));
                world.wait(&world.sgis[vcpu], before, "an SGI");
            }
        });
    });
    // Each edge was waited for, so none can have merged with another; a level may be taken again before it drops.
    assert_eq!(world.edges.load(SeqCst), ROUNDS);
    assert!(world.levels.load(SeqCst) >= ROUNDS);
    let sgis: usize = world.sgis.iter().map(|count| count.load(SeqCst)).sum();
    assert!(sgis.abs_diff(world.sgis_sent.load(SeqCst)) <= 1, "the last one may have been under way");
}

/// Every SPI wants to be everywhere at once: half of them are levels that stay high, half are edges that come again as
/// soon as they were taken, and all are re-routed all the time. The window between choosing an interrupt and claiming
/// it is hit often.
#[test]
fn claims_are_exclusive() {
    const EDGES: u64 = 0xffff_ffff_0000_0000;
    let mut vm = Vm::booted(VCPUS, 16);
    for word in [2, 3] {
        vm.gicd_write(ICFGR + 8 + 4 * word, 4, 0xaaaa_aaaa); // INTIDs 64 to 95
    }
    vm.gicd_write(ISENABLER + 4, 4, u64::MAX);
    vm.gicd_write(ISENABLER + 8, 4, u64::MAX);
    (32..64).for_each(|intid| vm.set_spi(intid, true));
    let (dist, cpus) = (&vm.dist, &vm.cpus);
    let stop = &AtomicBool::new(false);
    let holders = &[const { AtomicU32::new(0) }; 64];
    let (sent, taken) = (&[const { AtomicU32::new(0) }; 64], &[const { AtomicU32::new(0) }; 64]);

    let run_vcpu = |vcpu: usize, mut lrs: ListRegs| {
        let mut random = Random(vcpu as u64);
        while !stop.load(SeqCst) {
            let _ = fill(dist, &cpus[vcpu], vcpu, &mut lrs);
            let listed: Vec<usize> = occupied(&lrs).map(|lr| (lr as u32 - 32) as usize).collect();
            let clashes = listed.iter().filter(|&&spi| holders[spi].fetch_add(1, SeqCst) != 0).count();
            if clashes != 0 {
                stop.store(true, SeqCst);
                panic!("{clashes} SPIs in two list registers");
            }
            for _ in 0..random.below(16) {
                let Some(intid) = acknowledge(&mut lrs) else { break };
                let spi = (intid - 32) as usize;
                let number = taken[spi].fetch_add(1, SeqCst) + 1;
                if EDGES & 1 << spi != 0 && number > sent[spi].load(SeqCst) {
                    stop.store(true, SeqCst);
                    panic!("an edge of {intid} was delivered twice");
                }
                deactivate(&mut lrs, intid);
            }
            listed.iter().for_each(|&spi| _ = holders[spi].fetch_sub(1, SeqCst));
            let _ = drain(dist, &cpus[vcpu], vcpu, &mut lrs);
        }
    };
    thread::scope(|scope| {
        for (vcpu, lrs) in vm.lrs.iter().cloned().enumerate() {
            scope.spawn(move || run_vcpu(vcpu, lrs));
        }
        let start = Instant::now();
        let mut random = Random(3);
        while !stop.load(SeqCst) && start.elapsed() < Duration::from_secs(3) {
            for spi in 0..64 {
                let target = random.below(VCPUS) as u64;
                dist_access(dist, IROUTER + 8 * (32 + spi), 4, Some(target));
                let spi = spi as usize;
                if EDGES & 1 << spi != 0 && taken[spi].load(SeqCst) == sent[spi].load(SeqCst) {
                    sent[spi].fetch_add(1, SeqCst);
                    let _ = dist.set_spi(32 + spi as u32, false);
                    let _ = dist.set_spi(32 + spi as u32, true);
                }
            }
        }
        stop.store(true, SeqCst);
    });
    assert!((0..64).all(|spi| taken[spi].load(SeqCst) > 0), "every SPI was delivered");
}
