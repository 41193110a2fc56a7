//! PSCI between the vCPUs of a guest (Arm DEN0022).

use abi::host::{self, VmConfig, dialect};
use abi::psci::{self, *};
use abi::run::{self, exit};
use tests::{Guest, World};

const ON: u64 = AFFINITY_ON as u64;
const OFF: u64 = AFFINITY_OFF as u64;

fn code(status: i64) -> [u64; 4] {
    [status as u64, 0, 0, 0]
}

fn each_dialect(vcpus: u64, test: impl Fn(&World, &Guest<'_>)) {
    for dialect in World::DIALECTS {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect, vcpus);
        test(&world, &guest);
        guest.end();
        world.check_empty();
    }
}

#[test]
fn a_vcpu_is_started_runs_switches_off_and_is_started_again() {
    each_dialect(2, |world, guest| {
        for (cpu_on, entry, argument) in [(CPU_ON, guest.ipa(0) + 64, 77), (CPU_ON_32, guest.ipa(3), 78)] {
            assert_eq!(guest.call(&[AFFINITY_INFO, 1, 0]), code(AFFINITY_OFF));
            assert_eq!(world.refusal(host::VCPU_RUN, [guest.handle, 1]), host::STATE);
            assert_eq!(guest.does(0, guest.instructions(&[cpu_on, 1, entry, argument])), exit::CPU_ON);
            assert_eq!(guest.word(0, run::VCPU), 1);
            assert_eq!(guest.run(0), exit::WAIT);
            assert_eq!(guest.x(0), code(SUCCESS));
            assert_eq!(guest.call(&[AFFINITY_INFO_32, 1, 0]), code(AFFINITY_ON));
            assert_eq!(guest.vcpu(1, |vcpu| (vcpu.pc(), vcpu.x(0), vcpu.x(1))), (entry, argument, 0));
            assert_eq!(guest.call(&[CPU_ON, 1, entry, 0]), code(ALREADY_ON));
            assert_eq!(guest.call_of(1, &[AFFINITY_INFO, 0, 0]), code(AFFINITY_ON));
            assert_eq!(guest.does(1, guest.instructions(&[CPU_OFF])), exit::CPU_OFF);
            assert_eq!(world.refusal(host::VCPU_RUN, [guest.handle, 1]), host::STATE, "the host cannot wake it");
        }
    });
}

#[test]
fn bad_targets_and_entries_are_refused_with_the_right_code() {
    each_dialect(3, |_, guest| {
        let entry = guest.ipa(0);
        for affinity in [3, 8, 1 << 8, 1 << 31, 1 << 32 | 1, u64::MAX] {
            assert_eq!(guest.call(&[CPU_ON, affinity, entry, 0]), code(INVALID_PARAMETERS), "{affinity:#x}");
            assert_eq!(guest.call(&[AFFINITY_INFO, affinity, 0]), code(INVALID_PARAMETERS), "{affinity:#x}");
        }
        for level in [1, 3, u64::MAX] {
            assert_eq!(guest.call(&[AFFINITY_INFO, 1, level]), code(INVALID_PARAMETERS));
        }
        let end = guest.config.ram_base + guest.config.ram_size;
        for entry in [0, 0x0900_0000, entry + 2, end, 1 << 39 | entry, u64::MAX] {
            assert_eq!(guest.call(&[CPU_ON, 1, entry, 0]), code(INVALID_ADDRESS), "{entry:#x}");
        }
        assert_eq!(guest.call(&[CPU_ON, 0, entry, 0]), code(ALREADY_ON), "itself");
        assert_eq!(guest.call(&[AFFINITY_INFO, 0, 0]), code(AFFINITY_ON));
    });
}

#[test]
fn a_vcpu_that_the_host_did_not_create_cannot_be_started() {
    let world = World::new();
    let config = VmConfig { vcpu_count: 2, ..World::config(dialect::REALM, 1) };
    let handle = world.create(&config, 16);
    let mut guest = Guest { world: &world, handle, config, run_pages: vec![world.page()], first_page: 0 };
    world.ok(host::VCPU_CREATE, [handle, 0, guest.run_pages[0]]);
    guest.seal();
    assert_eq!(guest.call(&[CPU_ON, 1, guest.ipa(0), 0]), code(INTERNAL_FAILURE));
    assert_eq!(guest.call(&[AFFINITY_INFO, 1, 0]), code(AFFINITY_OFF));
    guest.end();
    world.check_empty();
}

#[test]
fn a_vcpu_that_another_cpu_still_has_is_started_in_a_moment() {
    each_dialect(2, |world, guest| {
        let call = guest.instructions(&[CPU_ON, 1, guest.ipa(0), 5]);
        guest.program(0, call.clone());
        // The host keeps trying to run what is off, so that the target's registers are in use; the guest asks again
        // until its run is ended by a kick.
        world
            .postern
            .vms
            .with(guest.handle, |vm| {
                let busy = vm.vcpu(1)?.own.lock();
                std::thread::scope(|scope| {
                    let runner = scope.spawn(|| guest.run(0));
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    assert!(!runner.is_finished());
                    world.call(host::VCPU_KICK, [guest.handle, 0]);
                    assert_eq!(runner.join().expect("no panic"), exit::INTERRUPT);
                });
                drop(busy);
                Ok(())
            })
            .expect("the VM exists");
        assert_eq!(guest.run(0), exit::CPU_ON);
        assert_eq!(guest.vcpu(1, |vcpu| vcpu.x(0)), 5);
        assert_eq!((guest.run(0), guest.x(0)), (exit::WAIT, code(SUCCESS)));
    });
}

#[test]
fn psci_features_are_those_there_are() {
    each_dialect(1, |_, guest| {
        let there = [
            psci::VERSION,
            psci::FEATURES,
            CPU_ON,
            CPU_ON_32,
            CPU_OFF,
            AFFINITY_INFO,
            AFFINITY_INFO_32,
            SYSTEM_OFF,
            SYSTEM_RESET,
            MIGRATE_INFO_TYPE,
            abi::smccc::VERSION,
        ];
        for function in there {
            assert_eq!(guest.call(&[psci::FEATURES, function]), code(SUCCESS), "{function:#x}");
        }
        let not = [CPU_SUSPEND, CPU_SUSPEND_32, SYSTEM_SUSPEND, SYSTEM_RESET2, 0x8400_0013, 0xC400_0015, 0, u64::MAX];
        for function in not {
            assert_eq!(guest.call(&[psci::FEATURES, function]), code(NOT_SUPPORTED), "{function:#x}");
            if function >> 32 == 0 {
                assert_eq!(guest.call(&[function, 0, 0, 0]), code(NOT_SUPPORTED), "{function:#x}");
            }
        }
    });
}

#[test]
fn all_vcpus_see_the_same_states() {
    each_dialect(8, |_, guest| {
        for index in 1..8 {
            let on = guest.instructions(&[CPU_ON, index, guest.ipa(0), index]);
            assert_eq!(guest.does(index - 1, on), exit::CPU_ON);
            assert_eq!(guest.run(index - 1), exit::WAIT);
            for (other, expected) in (0..8).map(|other| (other, if other <= index { ON } else { OFF })) {
                assert_eq!(guest.call_of(index, &[AFFINITY_INFO, other, 0])[0], expected);
            }
        }
    });
}
