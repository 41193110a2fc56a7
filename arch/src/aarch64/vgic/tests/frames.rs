//! The register frames as a driver sees them.

use super::*;

/// The steps of Linux's irq-gic-v3 driver (gic_init_bases, then gic_cpu_init on each CPU), with the checks it makes.
#[test]
fn linux_initialises() {
    let mut vm = Vm::new(4, 4);
    assert_eq!(vm.gicd_read(0xffe8, 4) & 0xf0, 0x30, "GICD_PIDR2: GICv3");
    let typer = vm.gicd_read(4, 4);
    assert_eq!(32 * ((typer & 0x1f) + 1), 96, "INTIDs");
    assert_eq!((typer >> 19 & 0x1f) + 1, 10, "bits of an INTID");
    assert_eq!(typer & (1 << 16 | 1 << 17), 0, "neither MBIs nor LPIs");
    assert_eq!(typer & (1 << 8 | 1 << 10 | 1 << 24), 0, "no extended SPIs, one security state, no Aff3");
    assert_eq!(typer >> 25 & 3, 3, "no 1-of-N routing, a range selector for SGIs");
    for quirk in [0x0204_043b, 0, 0xa000_034c] {
        assert_ne!(vm.gicd_read(8, 4), quirk, "GICD_IIDR is in the list of errata");
    }
    assert_eq!(vm.gicd_read(0xc, 4), 0, "GICD_TYPER2");

    // gic_update_rdist_properties: walk to the redistributor that says it is the last.
    for vcpu in 0..4 {
        assert_eq!(vm.gicr_read(vcpu, 0xffe8, 4) & 0xf0, 0x30, "GICR_PIDR2");
        let typer = vm.gicr_read(vcpu, 8, 8);
        assert_eq!(typer >> 32, vcpu as u64, "affinity");
        assert_eq!(typer >> 8 & 0xffff, vcpu as u64, "processor number");
        assert_eq!(typer & 1 << 4 != 0, vcpu == 3, "last");
        assert_eq!(typer & 0xf800_00ef, 0, "16 PPIs, no LPIs, no virtual LPIs");
        assert_eq!(vm.gicr_read(vcpu, 0xc, 4), vcpu as u64, "the upper half alone");
    }

    // gic_dist_init
    vm.gicd_write(CTLR, 4, 0);
    assert_eq!(vm.gicd_read(CTLR, 4), 0x50, "disabled, ARE and DS are fixed, no write pending");
    for word in 1..3 {
        vm.gicd_write(IGROUPR + 4 * word, 4, 0xffff_ffff);
        vm.gicd_write(ICACTIVER + 4 * word, 4, 0xffff_ffff);
        vm.gicd_write(ICENABLER + 4 * word, 4, 0xffff_ffff);
        assert_eq!(vm.gicd_read(IGROUPR + 4 * word, 4), 0xffff_ffff);
    }
    for intid in (32..96).step_by(16) {
        vm.gicd_write(ICFGR + intid / 4, 4, 0);
    }
    for intid in (32..96).step_by(4) {
        vm.gicd_write(IPRIORITYR + intid, 4, 0xa0a0_a0a0);
        assert_eq!(vm.gicd_read(IPRIORITYR + intid, 4), 0xa0a0_a0a0);
    }
    vm.gicd_write(CTLR, 4, 0x13);
    assert_eq!(vm.gicd_read(CTLR, 4), 0x53);
    for intid in 32..96 {
        vm.set_route(intid, 0);
    }

    // gic_cpu_init
    for vcpu in 0..4 {
        assert_eq!(vm.gicr_read(vcpu, 0x14, 4), 6, "GICR_WAKER: asleep after reset");
        vm.gicr_write(vcpu, 0x14, 4, 6 & !2);
        assert_eq!(vm.gicr_read(vcpu, 0x14, 4), 0, "children awake at once");
        vm.gicr_write(vcpu, SGI_BASE + IGROUPR, 4, 0xffff_ffff);
        vm.gicr_write(vcpu, SGI_BASE + ICACTIVER, 4, 0xffff_ffff);
        vm.gicr_write(vcpu, SGI_BASE + ICENABLER, 4, 0xffff_0000);
        vm.gicr_write(vcpu, SGI_BASE + ISENABLER, 4, 0x0000_ffff);
        for word in 0..8 {
            vm.gicr_write(vcpu, SGI_BASE + IPRIORITYR + 4 * word, 4, 0xa0a0_a0a0);
        }
        assert_eq!(vm.gicr_read(vcpu, 0, 4), 0, "GICR_CTLR: no write pending");
        assert_eq!(vm.gicr_read(vcpu, SGI_BASE + ISENABLER, 4), 0xffff);
    }

    // The virtual timer's PPI, and an edge-triggered device of CPU 2.
    vm.set_edge(0, 27, false);
    vm.poke(0, ISENABLER, 27);
    vm.set_edge(0, 40, true);
    assert_eq!(vm.gicd_read(ICFGR + 8, 4), 0x2_0000, "irq_set_type reads back what it wrote");
    vm.poke(0, ISENABLER, 40);
    vm.set_route(40, 2);
    vm.cpus[0].set_ppi(27, true);
    assert_eq!(vm.dist.set_spi(40, true), Ok(2));
    assert_eq!([0, 1, 2, 3].map(|vcpu| vm.deliverable(vcpu)), [true, false, true, false]);
    vm.fill(0);
    vm.fill(2);
    assert_eq!([vm.ack(0), vm.ack(2)], [Some(27), Some(40)]);
}

#[test]
fn reset_state_is_group_0_disabled_and_idle() {
    let vm = Vm::new(2, 4);
    for register in [IGROUPR, ISENABLER, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER] {
        for word in 0..32 {
            assert_eq!(vm.gicd_read(register + 4 * word, 4), 0);
            assert_eq!(vm.gicr_read(1, SGI_BASE + register + 4 * word, 4), 0);
        }
    }
    assert_eq!(vm.gicr_read(0, SGI_BASE + ICFGR, 8), 0xaaaa_aaaa, "SGIs are edge-triggered, PPIs are not");
}

#[test]
fn reset_undoes_everything() {
    let mut vm = Vm::booted(2, 4);
    vm.set_edge(1, 20, true);
    vm.set_route(50, 1);
    for intid in [3, 20, 50] {
        vm.poke(1, ISENABLER, intid);
        vm.poke(1, ISPENDR, intid);
    }
    vm.fill(1);
    assert_eq!(vm.listed(1).len(), 3);
    vm.dist.reset(2);
    vm.cpus[1].reset();
    vm.cycle(1);
    assert_eq!(vm.listed(1), [], "what the list registers held is discarded");
    let fresh = Vm::new(2, 4);
    for offset in (0..0x1_0000).step_by(4) {
        assert_eq!(vm.gicd_read(offset, 4), fresh.gicd_read(offset, 4), "GICD + {offset:#x}");
    }
    for offset in (0..0x2_0000).step_by(4) {
        assert_eq!(vm.gicr_read(1, offset, 4), fresh.gicr_read(1, offset, 4), "GICR + {offset:#x}");
    }
}

#[test]
fn private_interrupts_have_no_fields_in_the_distributor() {
    let mut vm = Vm::new(1, 4);
    for register in [IGROUPR, ISENABLER, ISPENDR, ISACTIVER, ICFGR, ICFGR + 4, IPRIORITYR, IPRIORITYR + 28] {
        vm.gicd_write(register, 4, 0xffff_ffff);
        assert_eq!(vm.gicd_read(register, 4), 0);
    }
    for register in [ISENABLER + 4, IPRIORITYR + 32, ICFGR + 8] {
        vm.gicr_write(0, SGI_BASE + register, 4, 0xffff_ffff);
        assert_eq!(vm.gicr_read(0, SGI_BASE + register, 4), 0);
    }
    for register in [ISENABLER + 12, IPRIORITYR + 96, ICFGR + 24, IROUTER + 8 * 96, IROUTER + 8 * 31] {
        vm.gicd_write(register, 4, 0xffff_ffff);
        assert_eq!(vm.gicd_read(register, 4), 0, "INTIDs that do not exist");
    }
    vm.gicr_write(0, SGI_BASE + ICFGR, 4, 0);
    assert_eq!(vm.gicr_read(0, SGI_BASE + ICFGR, 4), 0xaaaa_aaaa, "SGIs stay edge-triggered");
    vm.gicr_write(0, SGI_BASE + ICFGR + 4, 4, 0xffff_ffff);
    assert_eq!(vm.gicr_read(0, SGI_BASE + ICFGR + 4, 4), 0xaaaa_aaaa, "the lower bit of each field is RES0");
}

#[test]
fn priorities_are_bytes() {
    let mut vm = Vm::new(1, 4);
    vm.gicd_write(IPRIORITYR + 40, 4, 0x4030_2010);
    vm.gicd_write(IPRIORITYR + 42, 1, 0xff);
    assert_eq!(vm.gicd_read(IPRIORITYR + 40, 4), 0x40f8_2010, "five bits are implemented");
    assert_eq!(vm.gicd_read(IPRIORITYR + 43, 1), 0x40);
    vm.gicd_write(IPRIORITYR + 40, 2, 0x5868);
    assert_eq!(vm.gicd_read(IPRIORITYR + 40, 8), 0x40f8_5868);
    vm.gicr_write(0, SGI_BASE + IPRIORITYR + 27, 1, 0x80);
    assert_eq!(vm.gicr_read(0, SGI_BASE + IPRIORITYR + 24, 4), 0x8000_0000);
}

#[test]
fn routes_are_doublewords_or_two_words() {
    let mut vm = Vm::new(4, 4);
    let router = IROUTER + 8 * 77;
    vm.gicd_write(router, 8, 3);
    assert_eq!(vm.gicd_read(router, 8), 3);
    vm.gicd_write(router + 4, 4, 1);
    assert_eq!(vm.gicd_read(router, 8), 3, "Aff3 is RES0");
    vm.gicd_write(router, 4, 0x8000_0002);
    assert_eq!(vm.gicd_read(router, 8), 2, "IRM is RES0");
    assert_eq!(vm.gicd_read(router, 4), 2);
    vm.gicd_write(router, 8, u64::MAX);
    assert_eq!(vm.gicd_read(router, 8), 0xff_ffff, "an affinity without a vCPU is kept");
    assert_eq!(vm.dist.set_spi(77, true), Ok(0), "but has no target");
    assert!((0..4).all(|vcpu| !vm.deliverable(vcpu)));
}

#[test]
fn accesses_that_are_not_allowed_do_nothing() {
    let mut vm = Vm::new(1, 4);
    vm.gicd_write(ISENABLER + 4, 1, 0xff);
    vm.gicd_write(ISENABLER + 6, 2, 0xffff);
    vm.gicd_write(CTLR, 1, 3);
    vm.gicd_write(ISENABLER + 5, 4, u64::MAX);
    vm.gicd_write(ISENABLER + 4, 8 + 4, u64::MAX);
    vm.gicd_write(ISENABLER + 4, 0, u64::MAX);
    assert_eq!(vm.gicd_read(ISENABLER + 4, 4), 0);
    assert_eq!(vm.gicd_read(CTLR, 4), 0x50);
    assert_eq!(vm.gicd_read(CTLR + 2, 4), 0, "misaligned");
    assert_eq!(vm.gicd_read(0xffe8, 1), 0x38, "a part of a word can be read");
    vm.gicd_write(ISENABLER + 4, 4, 0xdead_0000_0001);
    assert_eq!(vm.gicd_read(ISENABLER, 8), 1 << 32, "only the low bytes of the value count");
}

#[test]
fn both_halves_of_a_doubleword_can_kick() {
    let mut vm = Vm::booted(2, 4);
    vm.set_route(33, 1);
    vm.set_spi(33, true);
    vm.set_spi(64, true);
    vm.take_kicks();
    vm.gicd_write(ISENABLER, 8, u64::MAX); // INTIDs 0 to 63
    assert_eq!(vm.take_kicks(), 0b10);
    vm.gicd_write(ISENABLER + 8, 8, u64::MAX); // 64 to 127
    assert_eq!(vm.take_kicks(), 0b01);
}

#[test]
fn the_last_redistributor_is_marked_for_any_count() {
    for count in 1..=MAX_VCPUS {
        let vm = Vm::new(count, 4);
        let last = |vcpu: usize| vm.gicr_read(vcpu, 8, 4) & 1 << 4 != 0;
        assert_eq!((0..count).filter(|&vcpu| last(vcpu)).collect::<Vec<_>>(), [count - 1]);
    }
}
