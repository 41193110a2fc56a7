//! From the pending bit to the list register and back.

use super::*;

/// Enables `intid` as an SPI of vCPU `vcpu`.
fn enable(vm: &mut Vm, intid: u32, vcpu: u64, edge: bool) {
    vm.set_edge(0, intid, edge);
    vm.set_route(intid, vcpu);
    vm.poke(0, ISENABLER, intid);
}

#[test]
fn the_most_urgent_come_first_and_ties_go_to_the_lowest_intid() {
    let mut vm = Vm::booted(1, 16);
    for (intid, priority) in [(40, 0x80), (41, 0x40), (42, 0x80), (43, 0)] {
        enable(&mut vm, intid, 0, true);
        vm.set_priority(0, intid, priority);
        vm.set_spi(intid, true);
    }
    vm.cpus[0].post_sgi(7);
    vm.set_priority(0, 7, 0x40);
    vm.fill(0);
    let order: Vec<_> = core::iter::from_fn(|| vm.ack(0)).collect();
    assert_eq!(order, [43, 7, 41, 40, 42]);
}

#[test]
fn a_list_register_carries_priority_group_and_id() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 70, 0, true);
    vm.set_priority(0, 70, 0x58);
    vm.set_spi(70, true);
    vm.fill(0);
    assert_eq!(vm.lrs[0].lr[0], 1 << 62 | 1 << 60 | 0x58 << 48 | 70);
    vm.gicd_write(IGROUPR + 8, 4, 0);
    vm.gicd_write(CTLR, 4, 1);
    vm.cycle(0);
    assert_eq!(vm.lrs[0].lr[0], 1 << 62 | 0x58 << 48 | 70, "group 0 has its own enable");
    vm.gicd_write(CTLR, 4, 2);
    vm.cycle(0);
    assert_eq!(vm.listed(0), []);
    assert!(vm.peek(0, ISPENDR, 70), "but stays pending");
}

#[test]
fn overflow_is_delivered_in_order_through_refills() {
    for count in 1..=5 {
        let mut vm = Vm::booted(1, count);
        for intid in 32..64 {
            enable(&mut vm, intid, 0, true);
            vm.set_priority(0, intid, (8 * (95 - intid)) as u8);
            vm.set_spi(intid, true);
        }
        vm.fill(0);
        let mut order = Vec::new();
        while let Some(intid) = vm.ack(0) {
            order.push(intid);
            vm.eoi(0, intid);
            if maintenance(&vm.lrs[0]) {
                vm.cycle(0);
            }
        }
        assert_eq!(order, (32..64).rev().collect::<Vec<_>>(), "{count} list registers");
        assert_eq!(vm.lrs[0].hcr, 1, "nothing more to ask for");
    }
}

#[test]
fn an_urgent_one_displaces_a_pending_one() {
    let mut vm = Vm::booted(1, 2);
    for (intid, priority) in [(40, 0x80), (41, 0x80), (42, 0x10)] {
        enable(&mut vm, intid, 0, true);
        vm.set_priority(0, intid, priority);
    }
    vm.set_spi(40, true);
    vm.set_spi(41, true);
    vm.fill(0);
    vm.set_spi(42, true);
    vm.cycle(0);
    assert_eq!(vm.listed(0), [(40, PENDING), (42, PENDING)]);
    assert!(vm.deliverable(0), "a vCPU that is stopped here must not sleep");
}

#[test]
fn with_all_list_registers_active_the_next_deactivation_refills() {
    let mut vm = Vm::booted(1, 2);
    for intid in 40..43 {
        enable(&mut vm, intid, 0, true);
        vm.set_spi(intid, true);
    }
    vm.fill(0);
    assert_eq!((vm.ack(0), vm.ack(0)), (Some(40), Some(41)));
    assert!(maintenance(&vm.lrs[0]), "none pending");
    vm.cycle(0);
    assert_eq!(vm.listed(0), [(40, ACTIVE), (41, ACTIVE)]);
    vm.eoi(0, 40);
    assert!(maintenance(&vm.lrs[0]));
    vm.cycle(0);
    assert_eq!(vm.ack(0), Some(42));
}

#[test]
fn a_closed_group_does_not_keep_the_list_registers_from_the_other() {
    let mut vm = Vm::booted(1, 2);
    vm.lrs[0].vmcr &= !1; // group 0 closed at the CPU interface
    for intid in 40..44 {
        enable(&mut vm, intid, 0, true);
        vm.set_spi(intid, true);
    }
    vm.gicd_write(IGROUPR + 4, 4, !0x700); // 40, 41 and 42 in group 0, which is also the more urgent
    vm.set_priority(0, 43, 0xf0);
    vm.fill(0);
    assert_eq!(vm.ack(0), Some(43));
}

#[test]
fn an_edge_is_delivered_once() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 33, 0, true);
    vm.set_spi(33, true);
    vm.set_spi(33, true);
    vm.cycle(0);
    vm.cycle(0);
    assert_eq!(vm.ack(0), Some(33));
    vm.cycle(0);
    vm.eoi(0, 33);
    vm.cycle(0);
    assert_eq!(vm.listed(0), [], "the line is still high, but there was no new edge");
    vm.set_spi(33, false);
    vm.set_spi(33, true);
    vm.cycle(0);
    assert_eq!(vm.ack(0), Some(33));
}

#[test]
fn an_edge_survives_the_fall_of_its_line() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 33, 0, true);
    vm.set_spi(33, true);
    vm.set_spi(33, false);
    vm.fill(0);
    assert_eq!(vm.ack(0), Some(33));
}

#[test]
fn a_level_is_delivered_again_while_it_is_high() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 34, 0, false);
    vm.set_spi(34, true);
    vm.fill(0);
    for _ in 0..3 {
        assert_eq!(vm.ack(0), Some(34));
        assert!(!maintenance(&vm.lrs[0]));
        vm.eoi(0, 34);
        assert!(maintenance(&vm.lrs[0]), "only an exit can tell whether the line is still high");
        vm.cycle(0);
    }
    assert_eq!(vm.ack(0), Some(34));
    vm.cycle(0);
    assert_eq!(vm.listed(0), [(34, ACTIVE)], "never pending and active: the line may drop");
    vm.set_spi(34, false);
    vm.cycle(0);
    vm.eoi(0, 34);
    assert!(!maintenance(&vm.lrs[0]), "the line is known to be low, no exit is needed");
    vm.cycle(0);
    assert_eq!(vm.listed(0), []);
}

#[test]
fn a_level_that_drops_before_delivery_is_retracted() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 34, 0, false);
    vm.poke(0, ISENABLER, 27);
    vm.set_spi(34, true);
    vm.cpus[0].set_ppi(27, true);
    vm.fill(0);
    assert_eq!(vm.listed(0), [(27, PENDING), (34, PENDING)]);
    vm.set_spi(34, false);
    vm.cpus[0].set_ppi(27, false);
    vm.drain(0);
    assert!(!vm.deliverable(0));
    vm.fill(0);
    assert_eq!(vm.listed(0), []);
}

#[test]
fn fill_alone_retracts_too() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 34, 0, false);
    vm.set_spi(34, true);
    vm.fill(0);
    vm.set_spi(34, false);
    vm.fill(0);
    assert_eq!(vm.listed(0), []);
}

#[test]
fn a_level_made_pending_by_software_ends_when_acknowledged() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 34, 0, false);
    vm.poke(0, ISPENDR, 34);
    vm.cycle(0);
    vm.cycle(0);
    assert_eq!(vm.ack(0), Some(34), "it survives an exit before the acknowledgement");
    vm.eoi(0, 34);
    vm.cycle(0);
    assert_eq!(vm.listed(0), []);
    vm.poke(0, ISPENDR, 34);
    vm.poke(0, ICPENDR, 34);
    assert!(!vm.peek(0, ISPENDR, 34));
    vm.set_spi(34, true);
    vm.poke(0, ICPENDR, 34);
    assert!(vm.peek(0, ICPENDR, 34), "a high line cannot be cleared");
    vm.cycle(0);
    assert_eq!(vm.ack(0), Some(34));
    vm.drain(0);
    vm.poke(0, ISPENDR, 34);
    vm.set_spi(34, false);
    vm.cycle(0);
    vm.eoi(0, 34);
    vm.cycle(0);
    assert_eq!(vm.ack(0), Some(34), "what was made pending while it was active comes after it");
}

#[test]
fn disabling_retracts_and_enabling_brings_back() {
    let mut vm = Vm::booted(2, 4);
    enable(&mut vm, 50, 1, true);
    vm.set_spi(50, true);
    vm.fill(1);
    vm.take_kicks();
    vm.poke(0, ICENABLER, 50);
    assert_eq!(vm.take_kicks(), 0b10, "the vCPU that has it in its list registers");
    assert!(vm.peek(0, ISPENDR, 50), "pending as far as anyone knows");
    vm.cycle(1);
    assert_eq!(vm.listed(1), []);
    assert!(!vm.deliverable(1));
    assert!(vm.peek(0, ISPENDR, 50));
    vm.poke(0, ISENABLER, 50);
    assert_eq!(vm.take_kicks(), 0b10);
    assert!(vm.deliverable(1));
    vm.poke(0, ICENABLER, 50);
    vm.poke(0, ICPENDR, 50);
    vm.poke(0, ISENABLER, 50);
    assert!(!vm.deliverable(1));
}

#[test]
fn a_moved_spi_changes_hands_only_when_it_is_let_go() {
    let mut vm = Vm::booted(2, 4);
    enable(&mut vm, 50, 0, true);
    vm.set_spi(50, true);
    vm.fill(0);
    vm.take_kicks();
    vm.set_route(50, 1);
    assert_eq!(vm.take_kicks(), 0b01, "the holder has to come back first");
    vm.fill(1);
    assert_eq!(vm.listed(1), [], "it is still in the list registers of vCPU 0");
    vm.drain(0);
    assert_eq!(vm.take_kicks(), 0b10, "now it is for vCPU 1");
    vm.fill(0);
    vm.fill(1);
    assert_eq!((vm.ack(0), vm.ack(1)), (None, Some(50)));
}

#[test]
fn an_active_spi_that_was_moved_goes_on_after_its_deactivation() {
    for edge in [false, true] {
        let mut vm = Vm::booted(2, 4);
        enable(&mut vm, 50, 0, edge);
        vm.set_spi(50, true);
        vm.fill(0);
        assert_eq!(vm.ack(0), Some(50));
        vm.drain(0);
        vm.set_route(50, 1);
        vm.fill(0);
        vm.take_kicks();
        vm.set_spi(50, false);
        vm.set_spi(50, true);
        assert_eq!(vm.take_kicks(), 0b01, "vCPU 0 has to be told that someone waits");
        vm.fill(1);
        assert_eq!(vm.listed(1), []);
        vm.cycle(0);
        vm.eoi(0, 50);
        assert!(maintenance(&vm.lrs[0]));
        vm.take_kicks();
        vm.cycle(0);
        assert_eq!(vm.take_kicks(), 0b10);
        vm.fill(1);
        assert_eq!(vm.ack(1), Some(50));
    }
}

#[test]
fn active_state_can_be_read_and_written() {
    let mut vm = Vm::booted(2, 4);
    enable(&mut vm, 50, 0, true);
    vm.set_spi(50, true);
    vm.fill(0);
    assert_eq!(vm.ack(0), Some(50));
    let read = dist_access(&vm.dist, ISACTIVER + 4, 4, None);
    assert_eq!(read, Access { value: 0, kick: 0b01 }, "not known yet: vCPU 0 has to exit");
    vm.cycle(0);
    assert!(vm.peek(1, ISACTIVER, 50));
    // vCPU 1 deactivates it, and it is pending again.
    vm.set_spi(50, false);
    vm.set_spi(50, true);
    vm.take_kicks();
    vm.poke(1, ICACTIVER, 50);
    assert_eq!(vm.take_kicks(), 0b01);
    assert!(!vm.peek(1, ISACTIVER, 50));
    vm.cycle(0);
    assert_eq!(vm.ack(0), Some(50), "delivered anew without an EOI");
    vm.eoi(0, 50);
    vm.cycle(0);
    // Active by software: not delivered until it is deactivated by software.
    vm.poke(0, ISACTIVER, 50);
    vm.poke(0, ISPENDR, 50);
    assert!(vm.peek(0, ISACTIVER, 50));
    assert!(!vm.deliverable(0));
    vm.fill(0);
    assert_eq!(vm.listed(0), []);
    vm.take_kicks();
    vm.poke(0, ICACTIVER, 50);
    assert_eq!(vm.take_kicks(), 0b01);
    vm.fill(0);
    assert_eq!(vm.ack(0), Some(50));
}

#[test]
fn a_deactivation_can_be_taken_back() {
    let mut vm = Vm::booted(1, 4);
    vm.cpus[0].post_sgi(3);
    vm.fill(0);
    vm.ack(0);
    vm.drain(0);
    vm.poke(0, ICACTIVER, 3);
    vm.poke(0, ISACTIVER, 3);
    vm.fill(0);
    assert_eq!(vm.listed(0), [(3, ACTIVE)]);
    vm.drain(0);
    vm.poke(0, ICACTIVER, 3);
    vm.fill(0);
    assert_eq!(vm.listed(0), []);
}

#[test]
fn a_deactivation_elsewhere_hands_over_what_is_pending() {
    let mut vm = Vm::booted(2, 4);
    enable(&mut vm, 50, 0, false);
    vm.set_spi(50, true);
    vm.fill(0);
    vm.ack(0);
    vm.drain(0);
    vm.set_route(50, 1);
    vm.poke(0, ICACTIVER, 50);
    vm.take_kicks();
    vm.fill(0);
    assert_eq!(vm.take_kicks(), 0b10, "fill lets go of it, so fill has to say so");
    vm.fill(1);
    assert_eq!(vm.ack(1), Some(50));
}

#[test]
fn a_retired_vcpu_gives_everything_back() {
    let mut vm = Vm::booted(2, 4);
    for intid in [50, 51, 52] {
        enable(&mut vm, intid, 0, true);
        vm.set_spi(intid, true);
        vm.fill(0);
        if intid != 52 {
            assert_eq!(vm.ack(0), Some(intid));
            vm.cycle(0);
        }
    }
    vm.set_route(52, 1);
    vm.poke(1, ICACTIVER, 51);
    vm.take_kicks();
    vm.kicked |= retire(&vm.dist, &vm.cpus[0], 0, &mut vm.lrs[0]);
    assert_eq!(vm.take_kicks(), 0b10, "52 is for vCPU 1");
    assert_eq!(vm.lrs[0].lr, [0; 16]);
    vm.cpus[0].reset();
    vm.fill(1);
    assert_eq!(vm.ack(1), Some(52));
    vm.set_route(50, 1);
    vm.poke(1, ISPENDR, 50);
    assert!(vm.peek(1, ISACTIVER, 50) && !vm.peek(1, ISACTIVER, 51));
    vm.cycle(1);
    assert_eq!(vm.ack(1), None, "50 is still active");
    vm.poke(1, ICACTIVER, 50);
    vm.cycle(1);
    assert_eq!(vm.ack(1), Some(50));
}

#[test]
fn empty_list_registers_may_be_saved_as_zero() {
    let mut vm = Vm::booted(1, 4);
    enable(&mut vm, 50, 0, true);
    for _ in 0..2 {
        vm.set_spi(50, false);
        vm.set_spi(50, true);
        vm.fill(0);
        assert_eq!(vm.ack(0), Some(50));
        vm.lrs[0].lr = [0; 16];
        vm.drain(0);
    }
}

#[test]
fn list_registers_that_are_read_twice_count_once() {
    let mut vm = Vm::booted(1, 4);
    for intid in [50, 51] {
        enable(&mut vm, intid, 0, true);
        vm.set_spi(intid, true);
    }
    vm.fill(0);
    vm.ack(0);
    vm.cpus[0].post_sgi(2);
    vm.set_spi(50, false);
    vm.set_spi(50, true);
    vm.cycle(0);
    assert_eq!(vm.listed(0), [(2, PENDING), (50, BOTH), (51, PENDING)]);
    let hardware = vm.lrs[0].lr;
    vm.drain(0);
    (50..52).for_each(|intid| vm.poke(0, ICPENDR, intid));
    *vm.lrs[0].from_hardware() = hardware;
    vm.fill(0);
    assert_eq!(vm.listed(0), [(2, PENDING), (50, ACTIVE)], "the guest has cleared the other two");
}

#[test]
fn drain_is_idempotent_and_trap_bits_are_kept() {
    let mut vm = Vm::booted(1, 4);
    vm.lrs[0].hcr = u64::MAX;
    enable(&mut vm, 50, 0, true);
    vm.set_spi(50, true);
    vm.fill(0);
    assert_eq!(vm.lrs[0].hcr, 0x7c01);
    vm.ack(0);
    vm.set_spi(50, false);
    vm.set_spi(50, true);
    vm.drain(0);
    let once = vm.lrs[0].clone();
    vm.drain(0);
    assert_eq!(vm.lrs[0].lr, once.lr);
    vm.fill(0);
    assert_eq!(vm.listed(0), [(50, BOTH)]);
}

#[test]
fn a_wrong_count_of_list_registers_does_no_harm() {
    let mut vm = Vm::booted(1, 4);
    vm.cpus[0].post_sgi(0);
    for count in [0, 17, usize::MAX, 1] {
        vm.lrs[0].count = count;
        let _ = fill(&vm.dist, &vm.cpus[0], 0, &mut vm.lrs[0]);
        let _ = drain(&vm.dist, &vm.cpus[0], 0, &mut vm.lrs[0]);
    }
    assert_eq!(ListRegs::new(99).count, 16);
    vm.fill(0);
    assert_eq!(vm.ack(0), Some(0));
}

#[test]
fn writing_another_vcpus_redistributor_kicks_it() {
    let mut vm = Vm::booted(2, 4);
    vm.cpus[1].set_ppi(27, true);
    vm.take_kicks();
    vm.poke(1, ISENABLER, 27);
    assert_eq!(vm.take_kicks(), 0b10);
    assert!(vm.deliverable(1));
    vm.gicd_write(CTLR, 4, 0);
    assert_eq!(vm.take_kicks(), 0b11, "the distributor's enable concerns everyone");
    assert!(!vm.deliverable(1));
    vm.gicd_write(CTLR, 4, 0);
    assert_eq!(vm.take_kicks(), 0, "nothing has changed");
}
