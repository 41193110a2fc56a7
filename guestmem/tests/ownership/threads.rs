//! Several CPUs at once, on a machine of real threads: conversions, donations, pins and the end of a VM race, and what is
//! left satisfies the invariants.

use crate::common::*;
use guestmem::fake::{Concatenated, GIB};
use guestmem::*;
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;

type W = World<Concatenated>;

const ROUNDS: u64 = 3000;

/// A small generator of numbers, different for each thread.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// Runs the closures on threads of their own, starting together.
fn together(jobs: &[&(dyn Fn() + Sync)]) {
    let barrier = Barrier::new(jobs.len());
    std::thread::scope(|scope| {
        for job in jobs {
            scope.spawn(|| {
                barrier.wait();
                job();
            });
        }
    });
}

/// What only depends on who was first.
fn expected(refusal: Refusal) -> bool {
    use Refusal::*;
    matches!(refusal, Busy | Absent | Occupied | WrongVisibility | Pinned | NotOwner(_) | Underflow | Dying)
}

#[track_caller]
fn fine<T>(answer: Result<T, Refusal>) {
    if let Err(refusal) = answer {
        assert!(expected(refusal), "{refusal:?}");
    }
}

#[test]
fn c9_cpus_convert_the_same_pages() {
    for alias in [None, Some(ALIAS)] {
        let w = W::new();
        w.core.machine.caches.store(false, Relaxed);
        let vm = w.guest(1, alias, 32);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        for page in 0..4 {
            w.donate(&vm, w.page(page), w.gfn(512 + page)).unwrap();
        }
        let (core, frames) = (&w.core, [w.block(2), w.page(0)]);
        let (start, block_end) = (w.gfn(0), w.gfn(512));
        let vcpu = |seed| {
            let vm = &vm;
            move || {
                let mut random = numbers(seed);
                for _ in 0..ROUNDS {
                    let gfn = Gfn::new(start.get() + random(2) * 512 + random(4));
                    match random(8) {
                        0..3 => fine(core.share(vm, gfn)),
                        3..6 => fine(core.unshare(vm, gfn)),
                        6 => fine(core.convert(vm, start..block_end, Visibility::Shared, &mut Budget::new(600))),
                        _ => fine(core.convert(
                            vm,
                            gfn..block_end.max(gfn.offset(1)),
                            Visibility::Private,
                            &mut Budget::new(8),
                        )),
                    }
                    let _ = core.fault(vm, gfn, Visibility::Private);
                }
            }
        };
        let host = || {
            let mut random = numbers(9);
            for _ in 0..ROUNDS {
                let frame = frames[random(2) as usize].offset(random(4));
                if core.pin(frame, State::Shared).is_ok() {
                    core.unpin(frame).expect("pinned frames stay");
                }
                let _ = (core.host_fault(frame.addr()), core.lookup(frame), core.with_host_page(frame, |_| ()));
            }
        };
        together(&[&vcpu(1), &vcpu(2), &vcpu(3), &host]);
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }
}

#[test]
fn a3_cpus_donate_the_same_frames_to_the_same_addresses() {
    let w = W::new();
    w.core.machine.caches.store(false, Relaxed);
    let vms = [w.plain(1), w.aliased(2)];
    let (core, frames, blocks) = (&w.core, w.page(0), w.block(2));
    let (start, past) = (w.gfn(0), w.gfn(1024));
    let cpu = |seed| {
        let vms = &vms;
        move || {
            let mut random = numbers(seed);
            for _ in 0..ROUNDS {
                let vm = &vms[random(2) as usize];
                let (frame, gfn) = (frames.offset(random(6)), start.offset(random(8)));
                let block = blocks.offset(random(2) * 512);
                match random(10) {
                    0..3 => fine(core.donate(vm, frame, gfn, Size::Page, &mut Budget::new(1))),
                    3 => fine(core.donate(vm, block, start.offset(512), Size::Block, &mut Budget::new(128))),
                    4..7 => fine(core.relinquish(vm, gfn)),
                    7 => fine(core.share(vm, gfn)),
                    8 => fine(core.relinquish(vm, start.offset(512 + random(512)))),
                    _ => fine(core.convert(vm, start..past, Visibility::Private, &mut Budget::new(4))),
                }
            }
        }
    };
    together(&[&cpu(1), &cpu(2), &cpu(3), &cpu(4)]);
    let all = [&vms[0], &vms[1]];
    w.check(&all);
    all.into_iter().for_each(|vm| w.end(vm));
    w.check(&[]);
}

#[test]
fn b3_a_vm_ends_while_its_vcpus_call() {
    for round in 0..ROUNDS / 20 {
        let w = W::new();
        w.core.machine.caches.store(false, Relaxed);
        let vm = w.guest(1, if round % 2 == 0 { None } else { Some(ALIAS) }, 32);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        let (core, start, frames) = (&w.core, w.gfn(0), w.page(0));
        let vcpu = |seed| {
            let vm = &vm;
            move || {
                let mut random = numbers(seed + round);
                while !vm.is_gone() {
                    let gfn = start.offset(random(520));
                    match random(6) {
                        0 => fine(core.share(vm, gfn)),
                        1 => fine(core.unshare(vm, gfn)),
                        2 => fine(core.convert(vm, start..start.offset(512), Visibility::Shared, &mut Budget::new(99))),
                        3 => fine(core.donate(vm, frames.offset(random(8)), gfn, Size::Page, &mut Budget::new(1))),
                        4 => fine(core.relinquish(vm, gfn)),
                        _ => fine(core.with_page(vm, gfn, |_| ())),
                    }
                }
            }
        };
        let host = || {
            std::thread::sleep(std::time::Duration::from_micros(round * 7));
            while core.reclaim(&vm, &mut Budget::new(64)) == Progress::More {}
        };
        together(&[&vcpu(1), &vcpu(1000), &host]);
        assert_eq!((vm.private_frames(), vm.shared_frames()), (0, 0));
        w.check(&[]);
    }
}

#[test]
fn a_gib_comes_apart_and_goes_together_under_many_cpus() {
    let w = W::in_gib(150);
    w.core.machine.caches.store(false, Relaxed);
    let vms = [w.plain(1), w.plain(2), w.plain(3)];
    let (core, root) = (&w.core, w.core.host_root());
    let sees = |frame: Pfn| core.machine.walk(root, frame.get()).is_some();
    // Each has a block of its own, and looks what the host can see of it while the others take the GiB apart.
    let cpu = |number: usize| {
        let (vm, block, page, start) = (&vms[number], w.block(1 + number as u64), w.gfn(0), w.gfn(512));
        move || {
            let mut random = numbers(number as u64);
            for _ in 0..ROUNDS {
                match random(4) {
                    0 => {
                        core.pin(block, State::Host).unwrap();
                        assert!(sees(block), "its own page table");
                        core.unpin(block).unwrap();
                    }
                    1 => {
                        core.lend(block).unwrap();
                        core.end_lend(block).unwrap();
                    }
                    2 => {
                        assert_eq!(core.donate(vm, block, page, Size::Page, &mut Budget::new(1)), Ok(Progress::Done));
                        assert!(!sees(block), "the guest's alone");
                        core.relinquish(vm, page).unwrap();
                    }
                    _ => {
                        while core.donate(vm, block, start, Size::Block, &mut Budget::new(600)) != Ok(Progress::Done) {}
                        assert!(!sees(block) && !sees(block.offset(511)), "the guest's alone");
                        (0..512).for_each(|page| core.relinquish(vm, start.offset(page)).unwrap());
                    }
                }
            }
        }
    };
    let others = w.block(6);
    let host = || {
        for round in 0..ROUNDS * 10 {
            let frame = others.offset(round % 512);
            let level = core.machine.walk(root, frame.get()).map(|(.., level)| level);
            assert!(matches!(level, None | Some(1 | 2)), "{level:?}");
            assert!(level.is_some() || core.host_fault(frame.addr()) == HostFault::Retry);
        }
    };
    together(&[&cpu(0), &cpu(1), &cpu(2), &host]);
    assert!(w.is_gib_leaf(GIB.start), "all is the host's again");
    w.check(&[&vms[0], &vms[1], &vms[2]]);
    vms.iter().for_each(|vm| w.end(vm));
    w.check(&[]);
}
