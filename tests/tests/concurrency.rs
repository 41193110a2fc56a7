//! Many CPUs at once: threads that run, destroy, reclaim, donate, interrupt and convert against each other. What each sees
//! in the middle is its own business; in the end everything has to add up.

use abi::host::*;
use abi::run::{FAILURE, exit, failure};
use abi::tdx::{self, register::*};
use abi::{FRAME_SIZE, pkvm, psci, rsi};
use arch::machine::{Instruction, set_cpu};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use tests::{Guest, Noise, World};

/// Runs each of these as a CPU of its own.
fn cpus(work: &[&(dyn Fn(&mut Noise<'_>) + Sync)]) {
    thread::scope(|scope| {
        for (index, work) in work.iter().enumerate() {
            scope.spawn(move || {
                set_cpu(index);
                work(&mut Noise::seed(index as u64));
            });
        }
    });
}

#[test]
fn museum_11_run_against_destroy_and_reclaim() {
    for dialect in World::DIALECTS {
        let world = &World::new();
        for round in 0..30 {
            let guest = Guest::sealed(world, dialect, 2);
            let on = [psci::CPU_ON, 1, guest.ipa(0), 0];
            assert_eq!(guest.does(0, guest.instructions(&on)), exit::CPU_ON);
            for index in 0..2 {
                guest.program(index, (0..2000).flat_map(|_| guest.instructions(&[psci::VERSION])));
            }
            let handle = guest.handle;
            let guest = &guest;
            let over = AtomicBool::new(false);
            let run = |index| {
                move |_: &mut Noise<'_>| {
                    loop {
                        match world.call(VCPU_RUN, [handle, index]) {
                            (OK, [exit::FAILED, ..]) => assert_eq!(guest.word(index, FAILURE), failure::DESTROYED),
                            (OK, [reason, ..]) => assert!([exit::INTERRUPT, exit::WAIT].contains(&reason), "{reason}"),
                            (BUSY | STATE, _) => {}
                            (NO_SUCH, _) => break,
                            (status, _) => panic!("run answers {status}"),
                        }
                    }
                }
            };
            let end = |noise: &mut Noise<'_>| {
                (0..noise.below(2000)).for_each(|_| core::hint::spin_loop());
                assert_eq!(world.call(VM_DESTROY, [handle]).0, OK);
                loop {
                    match world.call(VM_RECLAIM, [handle]).0 {
                        OK => break,
                        BUSY | MORE => {}
                        status => panic!("reclaim answers {status}"),
                    }
                }
                over.store(true, Relaxed);
            };
            cpus(&[&run(0), &run(1), &end]);
            assert!(over.load(Relaxed), "round {round}");
            world.check_empty();
        }
    }
}

#[test]
fn a_vcpu_never_runs_on_two_cpus() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::PKVM, 1);
    guest.program(0, (0..5000).flat_map(|_| guest.instructions(&[psci::VERSION])));
    let (ran, busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // The fake vCPU panics when it is loaded twice.
    let run = |_: &mut Noise<'_>| {
        for _ in 0..50 {
            match world.call(VCPU_RUN, [guest.handle, 0]).0 {
                OK => ran.fetch_add(1, Relaxed),
                BUSY => busy.fetch_add(1, Relaxed),
                status => panic!("{status}"),
            };
        }
    };
    cpus(&[&run, &run, &run]);
    assert!(ran.load(Relaxed) > 0);
    world.check();
}

#[test]
fn b2_conversions_against_donations_pins_and_interrupts() {
    for dialect in World::ALL_DIALECTS {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect, 2);
        if dialect != dialect::TDX {
            let on = [psci::CPU_ON, 1, guest.ipa(0), 0];
            assert_eq!(guest.does(0, guest.instructions(&on)), exit::CPU_ON);
        }
        let pages: Vec<u64> = (1..9).map(|n| guest.donate(guest.ipa(n))).collect();
        let convert = |index: u64| {
            let guest = &guest;
            move |noise: &mut Noise<'_>| {
                for _ in 0..300 {
                    let (ipa, shared) = (guest.ipa(1 + noise.below(12)), noise.one_in(2));
                    let call = match (dialect, shared) {
                        (dialect::PKVM, true) => guest.instructions(&[pkvm::MEM_SHARE, ipa, 0, 0]),
                        (dialect::PKVM, false) => guest.instructions(&[pkvm::MEM_UNSHARE, ipa, 0, 0]),
                        (dialect::TDX, _) if noise.one_in(3) => {
                            Guest::td(&[(RAX, tdx::leaf::MEM_PAGE_ACCEPT), (RCX, ipa)])
                        }
                        (dialect::TDX, shared) => {
                            let start = ipa | if shared { guest.alias() } else { 0 };
                            Guest::td_vm(tdx::vmcall::MAP_GPA, &[(R12, start), (R13, FRAME_SIZE)])
                        }
                        (_, shared) => {
                            guest.instructions(&[rsi::IPA_STATE_SET, ipa, ipa + FRAME_SIZE, u64::from(!shared)])
                        }
                    };
                    guest.program(index, call);
                    match guest.run(index) {
                        exit::WAIT | exit::INTERRUPT => {}
                        exit::MEMORY_FAULT => guest.vcpu(index, |vcpu| {
                            // The host does not answer: the guest gives up and does something else.
                            let next = vcpu.next();
                            vcpu.program[next] = Instruction::Wait;
                        }),
                        reason => panic!("exit {reason}"),
                    }
                }
            }
        };
        let hold = |noise: &mut Noise<'_>| {
            for _ in 0..1000 {
                let page = pages[noise.below(8) as usize];
                if world.call(PIN, [page]).0 == OK {
                    // What is pinned stays readable however the guest tries to take it back.
                    assert!(world.host_reads(page).is_some(), "D2: pinned and gone");
                    assert_eq!(world.call(UNPIN, [page]).0, OK);
                }
                world.host_writes(page, 0xBAD);
            }
        };
        let host = |noise: &mut Noise<'_>| {
            for n in 0..200 {
                assert_eq!(world.call(VM_IRQ, [guest.handle, 32 + noise.below(64), n % 2]).0, OK);
                world.call(VCPU_KICK, [guest.handle, noise.below(2)]);
                let spare = world.page();
                let status = world.call(VM_DONATE, [guest.handle, spare, guest.ipa(1 + noise.below(12)), 1]).0;
                assert!([OK, EXISTS, BUSY].contains(&status), "donate answers {status}");
            }
        };
        cpus(&[&convert(0), &convert(1), &hold, &host]);
        world.check();
        guest.end();
        world.check_empty();
    }
}

#[test]
fn a_page_is_accepted_by_one_vcpu_only() {
    let world = &World::new();
    let guest = &Guest::sealed(world, dialect::TDX, 2);
    let accept = Guest::td(&[(RAX, tdx::leaf::MEM_PAGE_ACCEPT), (RCX, guest.ipa(1))]);
    guest.donate(guest.ipa(1));
    for round in 0..100 {
        guest.share(guest.ipa(1), true);
        assert_eq!(guest.map_gpa(guest.ipa(1), FRAME_SIZE).0, tdx::vmcall::SUCCESS);
        let run = |index| {
            let accept = accept.clone();
            move |_: &mut Noise<'_>| assert_eq!(guest.does(index, accept.clone()), exit::WAIT)
        };
        cpus(&[&run(0), &run(1)]);
        let mut answers = [0, 1].map(|index| guest.gprs(index)[RAX]);
        answers.sort_unstable();
        assert_eq!(answers, [tdx::status::SUCCESS, tdx::status::PAGE_ALREADY_ACCEPTED], "round {round}");
    }
    world.check();
    guest.end();
    world.check_empty();
}

/// Makes a VM, whatever others do with the slots: an audit looks at all, and a reclaim may be at work on the only empty one.
fn create(world: &World, config: u64, pages: u64) -> u64 {
    loop {
        match world.call(VM_CREATE, [config, pages, 4]) {
            (OK, [handle, ..]) => return handle,
            (status, _) => assert_eq!(status, BUSY, "of a create"),
        }
    }
}

/// Takes back all of a VM that has ended. The audit looks at all slots, and so does who makes another VM.
fn reclaim(world: &World, handle: u64) {
    loop {
        match world.call(VM_RECLAIM, [handle]).0 {
            OK => return,
            status => assert!([MORE, BUSY].contains(&status), "reclaim answers {status}"),
        }
    }
}

#[test]
fn many_vms_come_and_go() {
    let world = World::new();
    let config = world.config_page(&World::config(dialect::REALM, 1));
    let work = |pages: u64| {
        let world = &world;
        move |_: &mut Noise<'_>| {
            for _ in 0..40 {
                let handle = create(world, config, pages);
                for n in 4..8 {
                    assert_eq!(world.call(VM_DONATE_META, [handle, pages + n * FRAME_SIZE, 1]).0, OK);
                }
                assert_eq!(world.call(VCPU_CREATE, [handle, 0, pages + 8 * FRAME_SIZE]).0, OK);
                assert_eq!(world.finish(VM_LOAD, [handle, pages + 9 * FRAME_SIZE, 0x4000_0000]).0, OK);
                assert_eq!(world.call(VM_SEAL, [handle, 0x4000_0000, 0]).0, OK);
                assert_eq!(world.call(VCPU_RUN, [handle, 0]), (OK, [exit::WAIT, 0, 0]));
                assert_eq!(world.call(VM_DESTROY, [handle]).0, OK);
                reclaim(world, handle);
                assert_eq!(world.call(VM_DESTROY, [handle]).0, NO_SUCH);
            }
        }
    };
    let look = |_: &mut Noise<'_>| {
        for cursor in 0..200 {
            // While others convert, it may find anything, but it answers.
            let (status, _) = world.call(AUDIT, [cursor]);
            assert!([OK, MORE, BUSY].contains(&status), "audit answers {status}");
        }
    };
    cpus(&[&work(world.pages(16)), &work(world.pages(16)), &work(world.pages(16)), &look]);
    world.check_empty();
}

#[test]
fn calls_on_a_vm_do_not_notice_that_others_come_and_go() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::PKVM, 1);
    let come_and_go = |config: u64, pages: u64| {
        let world = &world;
        move |_: &mut Noise<'_>| {
            for _ in 0..500 {
                let handle = create(world, config, pages);
                // A VM that has just been made is nobody else's, either.
                assert_eq!(world.call(VM_DONATE_META, [handle, pages + 4 * FRAME_SIZE, 1]).0, OK);
                assert_eq!(world.call(VM_DESTROY, [handle]).0, OK);
                reclaim(world, handle);
            }
        }
    };
    let call = |_: &mut Noise<'_>| {
        for _ in 0..50_000 {
            assert_eq!(world.call(VCPU_KICK, [guest.handle, 0]).0, OK);
        }
    };
    let config = || world.config_page(&World::config(dialect::REALM, 1));
    cpus(&[&come_and_go(config(), world.pages(8)), &come_and_go(config(), world.pages(8)), &call]);
    world.check();
}

#[test]
fn two_cpus_that_give_the_same_frame_give_it_once() {
    let world = World::new();
    let guests = [Guest::sealed(&world, dialect::PKVM, 1), Guest::sealed(&world, dialect::REALM, 1)];
    for n in 1..100 {
        let (page, given) = (world.page(), AtomicUsize::new(0));
        let give = |guest: usize| {
            let (given, world, guest) = (&given, &world, &guests[guest]);
            move |_: &mut Noise<'_>| {
                let (status, _) = world.call(VM_DONATE, [guest.handle, page, guest.ipa(n), 1]);
                assert!([OK, OWNER].contains(&status), "donate answers {status}");
                given.fetch_add(usize::from(status == OK), Relaxed);
            }
        };
        cpus(&[&give(0), &give(1)]);
        assert_eq!(given.load(Relaxed), 1, "A3");
    }
    world.check();
}
