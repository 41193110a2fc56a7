//! Whatever a guest writes, nothing panics and the list registers stay well-formed.

use super::*;

const SIZES: [u32; 8] = [1, 2, 4, 8, 0, 3, 16, u32::MAX];
const VALUES: [u64; 6] = [0, 1, u64::MAX, 0xffff_ffff, 0x8000_0000, 0x5555_aaaa_5555_aaaa];

#[test]
fn every_offset_size_and_value() {
    let mut vm = Vm::booted(3, 4);
    for base in [0, 0x1_0000, 0x2_0000, 1 << 32, u64::MAX - 0xffff] {
        for offset in base..=base + 0xffff {
            for size in SIZES {
                for value in VALUES {
                    vm.gicd_write(offset, size, value);
                    vm.gicr_write(1, offset, size, value);
                }
                let (gicd, gicr) = (vm.gicd_read(offset, size), vm.gicr_read(2, offset, size));
                if size < 8 {
                    assert_eq!((gicd | gicr) >> (8 * size), 0, "more than the {size} bytes at {offset:#x}");
                }
            }
        }
        for vcpu in 0..3 {
            vm.cycle(vcpu);
        }
    }
}

#[test]
fn random_accesses_between_runs() {
    let mut random = Random(1);
    for round in 0..200 {
        let (vcpus, list_registers) = (1 + random.below(MAX_VCPUS), 1 + random.below(16));
        let mut vm = if round % 2 == 0 { Vm::new(vcpus, list_registers) } else { Vm::booted(vcpus, list_registers) };
        for _ in 0..2000 {
            let vcpu = random.below(vcpus);
            let size = SIZES[random.below(5)];
            let value = random.next() << 16 ^ random.next();
            // Half of them among the registers that exist.
            let offset = match random.below(4) {
                0 => 0x80 + 4 * random.next() % 0xd00,
                1 => IROUTER + 4 * random.next() % 0x400,
                2 => random.next() % 0x2_0000,
                _ => random.next() % 0x20,
            };
            match random.below(6) {
                0 => vm.gicd_write(offset, size, value),
                1 => vm.gicr_write(vcpu, SGI_BASE + offset % 0x1_0000, size, value),
                2 => vm.kicked |= vm.dist.set_spi(32 + value as u32 % 64, value & 1 << 40 != 0).map_or(0, vcpu_bit),
                3 => {
                    let request = sgi_targets(value, vcpu, vcpus);
                    assert_eq!(request.mask & !all_vcpus(vcpus), 0);
                    (0..vcpus).filter(|n| request.mask & 1 << n != 0).for_each(|n| vm.cpus[n].post_sgi(request.intid));
                }
                4 => vm.cpus[vcpu].set_ppi(value as u32 % 40, value & 1 << 40 != 0),
                _ => {
                    vm.fill(vcpu);
                    // Hardware state that no guest could bring about, too.
                    let count = vm.lrs[vcpu].count;
                    for lr in &mut vm.lrs[vcpu].from_hardware()[..count] {
                        if random.below(3) == 0 {
                            *lr = *lr & !(BOTH << 62) | random.next() << 62;
                        }
                    }
                    vm.drain(vcpu);
                    let _ = vm.deliverable(vcpu);
                }
            }
        }
        for vcpu in 0..vcpus {
            vm.cycle(vcpu);
        }
    }
}
