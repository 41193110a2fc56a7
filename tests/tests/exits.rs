//! What makes a guest leave, and what the host then sees of it: no more than it needs.

use abi::host::{self, counter, dialect};
use abi::psci;
use abi::run::{self, exit, failure};
use arch::machine::{Exception, Instruction};
use arch::{Abort, Exit, MmioAccess};
use core::sync::atomic::Ordering::Relaxed;
use guestmem::Pfn;
use tests::{Guest, World};

const UART: u64 = 0x0900_0018;

fn each_dialect(test: impl Fn(&World, &Guest<'_>)) {
    for dialect in World::DIALECTS {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect, 2);
        test(&world, &guest);
        world.check();
        guest.end();
        world.check_empty();
    }
}

/// Address at which the guest reaches devices.
fn device(guest: &Guest<'_>) -> u64 {
    UART | guest.alias()
}

#[test]
fn mmio_write_shows_address_size_and_value_and_no_other_register() {
    each_dialect(|_, guest| {
        let secrets = (0..31).map(|n| 0x5EC0 + n).collect();
        let program = [Instruction::Set(secrets), Instruction::Access(Guest::device(device(guest), 3, Some(0x41)))];
        assert_eq!(guest.does(0, program), exit::MMIO_WRITE);
        assert_eq!([run::ADDRESS, run::SIZE, run::VALUE].map(|word| guest.word(0, word)), [UART, 4, 0x41]);
        for word in 0..512 {
            assert!(!(0x5EC0..0x5EE0).contains(&guest.word(0, word)), "word {word} shows a register");
        }
        assert_eq!(guest.run(0), exit::WAIT, "past the store");
        assert_eq!(guest.vcpu(0, |vcpu| vcpu.next()), 2);
    });
}

#[test]
fn mmio_read_is_completed_at_the_next_run_once() {
    each_dialect(|_, guest| {
        let access = MmioAccess { size: 1, value: None, rt: 5, sign_extend: false, wide: false };
        for (access, answer, result) in [
            (access, 0x1_23, 0x23),
            (MmioAccess { size: 2, ..access }, 0xF_8001, 0x8001),
            (MmioAccess { size: 4, ..access }, 0xF_8000_0001, 0x8000_0001),
            (MmioAccess { size: 8, wide: true, ..access }, u64::MAX - 1, u64::MAX - 1),
            (MmioAccess { sign_extend: true, ..access }, 0x80, 0xFFFF_FF80),
            (MmioAccess { sign_extend: true, wide: true, ..access }, 0x80, 0xFFFF_FFFF_FFFF_FF80),
        ] {
            let abort = Abort { access: Some(access), ..Guest::touch(device(guest)) };
            assert_eq!(guest.does(0, [Instruction::Access(abort)]), exit::MMIO_READ);
            assert_eq!([run::ADDRESS, run::SIZE].map(|word| guest.word(0, word)), [UART, access.size.into()]);
            guest.set_word(0, run::MMIO_VALUE, answer);
            assert_eq!(guest.run(0), exit::WAIT);
            assert_eq!(guest.vcpu(0, |vcpu| vcpu.x(5)), result, "{access:?}");
            guest.set_word(0, run::MMIO_VALUE, 0xBAD);
            assert_eq!(guest.run(0), exit::WAIT);
            assert_eq!(guest.vcpu(0, |vcpu| vcpu.x(5)), result, "the host changes a register later");
        }
    });
}

#[test]
fn mmio_read_into_xzr_is_discarded() {
    each_dialect(|_, guest| {
        guest.program(0, [Instruction::Set(vec![7; 31])]);
        assert_eq!(guest.does(0, [Instruction::Access(Guest::device(device(guest), 31, None))]), exit::MMIO_READ);
        guest.set_word(0, run::MMIO_VALUE, 0xBAD);
        assert_eq!(guest.run(0), exit::WAIT);
        assert!((0..31).all(|n| guest.vcpu(0, |vcpu| vcpu.x(n)) == 7));
    });
}

#[test]
fn e23_a_device_access_without_a_decoded_operand_is_an_abort_in_the_guest() {
    each_dialect(|world, guest| {
        let faults = world.counter(counter::GUEST_FAULTS);
        let accesses = [(false, false), (true, false), (false, true)];
        for (write, fetch) in accesses {
            let abort = Abort { write, fetch, ..Guest::touch(device(guest)) };
            assert_eq!(guest.does(0, [Instruction::Access(abort)]), exit::WAIT);
        }
        let expected = accesses.map(|(write, fetch)| Exception::Abort { fetch, write });
        assert_eq!(guest.vcpu(0, |vcpu| vcpu.exceptions.clone()), expected);
        assert_eq!(world.counter(counter::GUEST_FAULTS), faults + 3);
    });
}

#[test]
fn memory_that_is_not_there_is_asked_for_and_the_access_is_tried_again() {
    each_dialect(|world, guest| {
        let ipa = guest.ipa(6);
        assert_eq!(
            guest.does(0, [Instruction::Access(Guest::device(ipa + 0x123, 2, Some(0x5EC)))]),
            exit::MEMORY_FAULT
        );
        assert_eq!(guest.fault(0), (ipa, 0), "the page, not the byte");
        assert_eq!(guest.word(0, run::VALUE), 0, "nor the value");
        guest.donate(ipa);
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.does(0, [Instruction::Access(Guest::touch(ipa))]), exit::WAIT, "there by now: no exit");
        assert_eq!(guest.vcpu(0, |vcpu| vcpu.exceptions.clone()), []);
        world.check();
    });
}

#[test]
fn realm_halves_are_kept_apart() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::REALM, 1);
    let (ipa, alias) = (guest.ipa(1), guest.alias());
    let aborts = || guest.vcpu(0, |vcpu| core::mem::take(&mut vcpu.exceptions).len());
    // Private: through the shared half is wrong, page or not.
    assert_eq!(guest.does(0, [Instruction::Access(Guest::touch(alias | ipa))]), exit::WAIT);
    guest.donate(ipa);
    assert_eq!(guest.does(0, [Instruction::Access(Guest::device(alias | ipa, 0, None))]), exit::WAIT);
    assert_eq!(aborts(), 2);
    // Shared: the other way round, and a missing page is asked for as shared memory.
    guest.share(ipa, true);
    guest.share(guest.ipa(2), true);
    assert_eq!(guest.does(0, [Instruction::Access(Guest::touch(ipa))]), exit::WAIT);
    assert_eq!(aborts(), 1);
    assert_eq!(guest.does(0, [Instruction::Access(Guest::touch(alias | guest.ipa(2)))]), exit::MEMORY_FAULT);
    assert_eq!(guest.fault(0), (guest.ipa(2), 1));
    guest.donate(guest.ipa(2));
    assert_eq!(guest.run(0), exit::WAIT);
    // Never executed from, page or not.
    let fetch = |address| Abort { fetch: true, ..Guest::touch(address) };
    guest.share(guest.ipa(3), true);
    assert_eq!(guest.does(0, [Instruction::Access(fetch(alias | guest.ipa(3)))]), exit::WAIT);
    assert_eq!(aborts(), 1);
    // Devices are in the shared half only.
    assert_eq!(guest.does(0, [Instruction::Access(Guest::device(UART, 0, None))]), exit::WAIT);
    assert_eq!(aborts(), 1);
    world.check();
}

#[test]
fn a2_a_poisoned_page_ends_the_guest_and_nobody_else() {
    for dialect in World::ALL_DIALECTS {
        let world = &World::new();
        let guest = Guest::sealed(world, dialect, 2);
        let page = guest.donate(guest.ipa(1));
        world
            .postern
            .vms
            .with(guest.handle, |vm| {
                assert_eq!(world.postern.core.poison(Pfn::from_addr(page), Some(&vm.memory)), Ok(()));
                Ok(())
            })
            .expect("the VM exists");
        assert_eq!(world.frame(page).0, host::frame::POISONED);
        assert_eq!(world.refusal(host::VM_DONATE, [guest.handle, page, guest.ipa(2), 1]), host::POISONED);
        assert_eq!(guest.does(0, [Instruction::Access(Guest::touch(guest.ipa(1)))]), exit::FAILED);
        assert_eq!(guest.word(0, run::FAILURE), failure::POISON);
        for index in 0..2 {
            guest.set_word(index, run::FAILURE, u64::MAX);
            assert_eq!(guest.run(index), exit::FAILED, "vCPU {index}");
            assert_eq!(guest.word(index, run::FAILURE), failure::POISON, "vCPU {index} says why");
        }
        // What is left is as after any other end, but the poisoned frame never comes back.
        guest.end();
        assert_eq!(world.frame(page).0, host::frame::POISONED);
        let new = Guest::sealed(world, dialect::PKVM, 2);
        assert_eq!(new.run(0), exit::WAIT);
        new.end();
        world.check();
    }
}

#[test]
fn interrupts_waits_and_wakes_leave() {
    each_dialect(|_, guest| {
        assert_eq!(guest.does(0, [Instruction::Leave(Exit::Interrupt)]), exit::INTERRUPT);
        guest.vcpu(0, |vcpu| vcpu.deadline = 0x1234_5678);
        assert_eq!(guest.does(0, [Instruction::Wait]), exit::WAIT);
        assert_eq!(guest.word(0, run::DEADLINE), 0x1234_5678);
        assert_eq!(guest.does(0, [Instruction::Signal(0b10)]), exit::WAKE);
        assert_eq!(guest.word(0, run::VCPU_MASK), 0b10);
        assert_eq!(guest.does(0, [Instruction::Signal(0b01)]), exit::WAIT, "itself needs no host");
        assert_eq!(guest.does(0, [Instruction::Leave(Exit::Refused), Instruction::Leave(Exit::Handled)]), exit::WAIT);
    });
}

#[test]
fn a_guest_that_switches_off_never_runs_again() {
    for (function, reason) in [(psci::SYSTEM_OFF, exit::SYSTEM_OFF), (psci::SYSTEM_RESET, exit::SYSTEM_RESET)] {
        each_dialect(|world, guest| {
            assert_eq!(guest.does(0, guest.instructions(&[function])), reason);
            guest.program(0, guest.instructions(&[psci::VERSION]));
            let before = guest.vcpu(0, |vcpu| vcpu.next());
            assert_eq!(guest.run(0), reason);
            assert_eq!(guest.run(1), reason, "all vCPUs");
            assert_eq!(guest.vcpu(0, |vcpu| vcpu.next()), before);
            // Its memory can still be given to, and taken back.
            guest.donate(guest.ipa(7));
            world.check();
        });
    }
}

#[test]
fn the_first_vcpu_to_end_the_guest_decides_how() {
    each_dialect(|_, guest| {
        let on = [psci::CPU_ON, 1, guest.ipa(0), 0];
        assert_eq!(guest.does(0, guest.instructions(&on)), exit::CPU_ON);
        assert_eq!(guest.does(1, guest.instructions(&[psci::SYSTEM_RESET])), exit::SYSTEM_RESET);
        assert_eq!(guest.does(0, guest.instructions(&[psci::SYSTEM_OFF])), exit::SYSTEM_RESET);
    });
}

#[test]
fn a1_stray_accesses_of_the_host_are_denied_and_those_in_passing_retried() {
    use arch::{HostFault, Kernel};
    each_dialect(|world, guest| {
        let page = guest.donate(guest.ipa(1));
        let own = world.page();
        let aborts = world.counter(counter::HOST_ABORTS);
        for address in [page, page + 4095, guest.first_page, 0x4000_0000, 0x4200_0000, u64::MAX] {
            for (write, fetch) in [(false, false), (true, false), (false, true)] {
                assert_eq!(world.postern.host_fault(address, write, fetch), HostFault::Deny, "{address:#x}");
            }
        }
        assert_eq!(world.counter(counter::HOST_ABORTS), aborts + 18);
        let retries = world.counter(counter::HOST_RETRIES);
        assert_eq!(world.postern.host_fault(own, true, false), HostFault::Retry);
        guest.share(guest.ipa(1), true);
        assert_eq!(world.postern.host_fault(page, true, false), HostFault::Retry);
        assert_eq!(world.counter(counter::HOST_RETRIES), retries + 2);
    });
}

#[test]
fn a_destroyed_vm_leaves_at_its_next_exit() {
    for dialect in World::ALL_DIALECTS {
        let world = &World::new();
        let guest = Guest::sealed(world, dialect, 2);
        world
            .postern
            .vms
            .with(guest.handle, |vm| {
                let page = vm.vcpu(0)?;
                let mut registers = page.own.lock();
                world.ok(host::VM_DESTROY, [guest.handle]);
                assert_eq!(world.refusal(host::VM_RECLAIM, [guest.handle]), host::BUSY, "museum 11: it is still used");
                assert_eq!(world.postern.run(vm, page, &mut registers.0), exit::FAILED);
                assert_eq!(guest.word(0, run::FAILURE), failure::DESTROYED);
                Ok(())
            })
            .expect("the VM exists");
        world.ok(host::VM_RECLAIM, [guest.handle]);
        let again = Guest::sealed(world, guest.config.dialect, 2);
        assert_eq!(again.reads(again.ipa(0)), Some(0x1457));
        assert_eq!(world.content(guest.first_page)[0].load(Relaxed), 0);
        assert_ne!(again.handle, guest.handle);
        again.end();
        world.check_empty();
    }
}
