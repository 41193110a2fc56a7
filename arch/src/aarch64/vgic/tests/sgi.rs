use super::*;

fn request(aff: [u64; 3], range: u64, list: u64) -> u64 {
    aff[0] << 16 | aff[1] << 32 | aff[2] << 48 | range << 44 | list | 5 << 24
}

#[test]
fn target_list_names_vcpus_by_aff0() {
    assert_eq!(sgi_targets(request([0; 3], 0, 0b1010), 0, 4), SgiRequest { intid: 5, mask: 0b1010 });
    assert_eq!(sgi_targets(request([0; 3], 0, 0xffff), 2, 3).mask, 0b111, "oneself included, others do not exist");
    assert_eq!(sgi_targets(request([0; 3], 1, 0b11), 0, 32).mask, 0x3_0000, "range selector 1 starts at 16");
    assert_eq!(sgi_targets(request([0; 3], 1, 0b11), 0, 17).mask, 0x1_0000);
    assert_eq!(sgi_targets(15 << 24, 0, 4), SgiRequest { intid: 15, mask: 0 });
}

#[test]
fn targets_that_do_not_exist_are_ignored() {
    for level in 0..3 {
        for value in [1, 0x80, 0xff] {
            let mut aff = [0; 3];
            aff[level] = value;
            assert_eq!(sgi_targets(request(aff, 0, 0xffff), 0, 32).mask, 0, "affinity level {}", level + 1);
        }
    }
    for range in 2..16 {
        assert_eq!(sgi_targets(request([0; 3], range, 0xffff), 0, 32).mask, 0);
    }
    assert_eq!(sgi_targets(!(1 << 40), 0, 32).mask, 0);
}

#[test]
fn broadcast_is_to_everyone_else_and_ignores_the_affinity() {
    let broadcast = 1 << 40;
    assert_eq!(sgi_targets(broadcast, 1, 4), SgiRequest { intid: 0, mask: 0b1101 });
    assert_eq!(sgi_targets(broadcast | request([1, 2, 3], 7, 0xffff), 0, 2), SgiRequest { intid: 5, mask: 0b10 });
    assert_eq!(sgi_targets(broadcast, 0, 1).mask, 0);
    assert_eq!(sgi_targets(broadcast, 31, 32).mask, 0x7fff_ffff);
    assert_eq!(sgi_targets(broadcast, 0, 1000).mask, !1, "no more vCPUs than the mask has bits");
}

#[test]
fn a_posted_sgi_is_delivered_once_to_each_target() {
    let mut vm = Vm::booted(3, 4);
    let SgiRequest { intid, mask } = sgi_targets(1 << 40 | 2 << 24, 1, 3);
    for vcpu in (0..3).filter(|vcpu| mask & 1 << vcpu != 0) {
        vm.cpus[vcpu].post_sgi(intid);
        vm.cpus[vcpu].post_sgi(intid);
    }
    for (vcpu, expected) in [Some(2), None, Some(2)].into_iter().enumerate() {
        assert_eq!(vm.deliverable(vcpu), expected.is_some());
        vm.fill(vcpu);
        assert_eq!(vm.ack(vcpu), expected);
        if let Some(intid) = expected {
            vm.eoi(vcpu, intid);
        }
        vm.cycle(vcpu);
        assert_eq!(vm.ack(vcpu), None);
    }
}

#[test]
fn one_that_comes_while_its_predecessor_is_active_is_delivered_after_it() {
    let mut vm = Vm::booted(1, 4);
    vm.cpus[0].post_sgi(1);
    vm.fill(0);
    assert_eq!(vm.ack(0), Some(1));
    vm.cpus[0].post_sgi(1);
    vm.cycle(0);
    assert_eq!(vm.listed(0), [(1, BOTH)], "pending and active in the same list register");
    assert_eq!(vm.ack(0), None);
    vm.eoi(0, 1);
    assert_eq!(vm.ack(0), Some(1), "without an exit");
    vm.eoi(0, 1);
    vm.cycle(0);
    assert_eq!(vm.listed(0), []);
}

#[test]
fn what_is_not_an_sgi_or_a_ppi_is_ignored() {
    let vm = Vm::booted(1, 4);
    for intid in [16, 27, 31, 32, 95, 1023, u32::MAX] {
        vm.cpus[0].post_sgi(intid);
    }
    for intid in [0, 15, 32, 64, u32::MAX] {
        vm.cpus[0].set_ppi(intid, true);
    }
    assert_eq!(vm.gicr_read(0, SGI_BASE + ISPENDR, 4), 0);
    for intid in [0, 31, 96, 1020, u32::MAX] {
        assert_eq!(vm.dist.set_spi(intid, true), Err(BadIntid(intid)));
    }
}
