//! Every interleaving of a few calls on two CPUs, with loom's atomics in place of the real ones:
//! `RUSTFLAGS="--cfg loom" cargo test -p guestmem --test loom`.
#![cfg(loom)]

use guestmem::fake::{self, Concatenated, Fake, GIB, RAM_START};
use guestmem::lock::{self, FrameList, Rank};
use guestmem::sync::{AtomicU64, Ordering};
use guestmem::*;
use loom::sync::Arc;
use loom::thread;

/// Runs a scenario in all interleavings with at most three forced switches, which is where such bugs are. There are at
/// least `least` of them, or the scenario does not race at all.
fn explore(least: usize, scenario: impl Fn() + Sync + Send + 'static) {
    explore_to(3, least, scenario);
}

/// With at most so many preemptions.
fn explore_to(preemptions: usize, least: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 1_000_000;
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = runs.clone();
    model.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        scenario();
    });
    let runs = runs.load(std::sync::atomic::Ordering::Relaxed);
    println!("{runs} interleavings");
    assert!(runs >= least, "only {runs} interleavings");
}

const BIT: u64 = 1 << 4;

#[test]
fn the_lock_bit_excludes_and_carries_what_was_written() {
    explore(10, || {
        let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let add = |shared: &(AtomicU64, AtomicU64)| {
            let word = lock::acquire(&shared.0, BIT, Rank::Block);
            // Not atomic as a whole: two holders at a time would lose a step.
            let value = shared.1.load(Ordering::Relaxed);
            shared.1.store(value + 1, Ordering::Relaxed);
            lock::release(&shared.0, word + (1 << 8), BIT, Rank::Block);
        };
        let other = shared.clone();
        let cpu = thread::spawn(move || add(&other));
        add(&shared);
        cpu.join().unwrap();
        let word = lock::acquire(&shared.0, BIT, Rank::Block);
        assert_eq!((word, shared.1.load(Ordering::Relaxed)), (2 << 8, 2));
    });
}

fn machine(frames: u64) -> Fake<Concatenated> {
    Fake::new(&[Pfn::new(1)..Pfn::new(1 + frames)])
}

#[test]
fn a_free_frame_goes_to_one_cpu_only() {
    explore(10, || {
        let shared = Arc::new((machine(3), FrameList::new()));
        (1..4).for_each(|frame| shared.1.push(&shared.0, Pfn::new(frame)));
        let other = shared.clone();
        let cpu = thread::spawn(move || {
            let mine = other.1.pop(&other.0).unwrap();
            other.1.push(&other.0, mine);
            other.1.pop(&other.0).unwrap()
        });
        let mine = shared.1.take::<2>(&shared.0, 0).unwrap();
        let other = cpu.join().unwrap();
        assert!(mine[0] != mine[1] && !mine.contains(&other));
        assert!(shared.1.is_empty() && shared.1.pop(&shared.0).is_none());
    });
}

/// A database with one guest that has one page, at its first address; the page's block is split already. `ready`: the page has
/// been converted and back, so that all is there that a conversion needs.
fn world(alias: Option<u32>, ready: bool) -> (Core<Fake<Concatenated>>, Guest, Pfn, Gfn) {
    let core = fake::boot::<Concatenated>(&[Pfn::new(RAM_START)..Pfn::new(RAM_START + 512)], 12);
    core.machine.caches.store(false, std::sync::atomic::Ordering::Relaxed);
    let gfn = Gfn::new(512);
    let layout = Layout { ram: gfn..gfn.offset(2), alias, accepts: false };
    let meta = Pfn::new(RAM_START + 16);
    let vm = fake::guest(&core, 1, layout, meta..meta.offset(12));
    let frame = Pfn::new(RAM_START + 100);
    assert_eq!(core.donate(&vm, frame, gfn, Size::Page, &mut Budget::new(1)), Ok(Progress::Done));
    if ready {
        core.share(&vm, gfn).unwrap();
        core.unshare(&vm, gfn).unwrap();
    }
    (core, vm, frame, gfn)
}

fn check(core: &Core<Fake<Concatenated>>, vm: &Guest) {
    let find = |_| Some(vm);
    let mut cursor = Some(0);
    while let Some(at) = cursor.filter(|at| at >> 60 == 0) {
        let audit = core.audit(&find, at, &mut Budget::new(1));
        assert_eq!(audit.violations, 0, "{:?}", audit.first);
        cursor = audit.next;
    }
}

#[test]
fn d2_a_pin_and_an_unshare_cannot_both_succeed() {
    for alias in [None, Some(38)] {
        explore(10, move || {
            let (core, vm, frame, gfn) = world(alias, false);
            core.share(&vm, gfn).unwrap();
            let shared = Arc::new((core, vm));
            let other = shared.clone();
            let guest = thread::spawn(move || other.0.unshare(&other.1, gfn));
            let pinned = shared.0.pin(frame, State::Shared);
            let unshared = guest.join().unwrap();
            let record = shared.0.lookup(frame);
            match (pinned, unshared) {
                (Ok(()), Err(Refusal::Pinned | Refusal::Busy)) => {
                    assert_eq!((record.state, record.pins()), (State::Shared, 1))
                }
                (Err(Refusal::NotOwner(State::Private)), Ok(())) => assert_eq!(record.state, State::Private),
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn a3_one_frame_is_donated_once() {
    explore(10, || {
        let (core, vm, frame, gfn) = world(None, false);
        let shared = Arc::new((core, vm));
        let other = shared.clone();
        let give = move |shared: &(Core<Fake<Concatenated>>, Guest), frame: Pfn| {
            shared.0.donate(&shared.1, frame, gfn.offset(1), Size::Page, &mut Budget::new(1))
        };
        // The same frame on one CPU, another one on the other, to the same address.
        let cpu = thread::spawn(move || give(&other, frame.offset(2)));
        let first = give(&shared, frame.offset(1));
        let second = cpu.join().unwrap();
        assert!(matches!((first, second), (Ok(_), Err(Refusal::Occupied)) | (Err(Refusal::Occupied), Ok(_))));
    });
}

/// The worlds of calls that convert: with one half, with two, and with two and ready.
const WORLDS: [(Option<u32>, bool); 3] = [(None, false), (Some(38), false), (Some(38), true)];

/// Both CPUs pass here first. Lookups in tables are no business of the checker, so a call that finds nothing there would
/// seem to it to depend on nobody, and be tried in one order only.
fn meet(start: &AtomicU64) {
    start.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn b3_the_end_of_a_vm_and_its_own_call() {
    for (alias, ready) in WORLDS {
        explore(5, move || {
            let (core, vm, frame, gfn) = world(alias, ready);
            let shared = Arc::new((core, vm, AtomicU64::new(0)));
            let other = shared.clone();
            let guest = thread::spawn(move || {
                meet(&other.2);
                other.0.share(&other.1, gfn)
            });
            meet(&shared.2);
            shared.0.kill(&shared.1);
            let done = guest.join().unwrap();
            let state = shared.0.lookup(frame).state;
            match done {
                Ok(()) => assert_eq!(state, State::Shared),
                Err(Refusal::Dying | Refusal::Busy) => assert_eq!(state, State::Private),
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn a_call_and_the_reclaim_of_its_page() {
    for (alias, ready) in WORLDS {
        explore(5, move || {
            let (core, vm, frame, gfn) = world(alias, ready);
            let shared = Arc::new((core, vm, AtomicU64::new(0)));
            let other = shared.clone();
            let guest = thread::spawn(move || {
                meet(&other.2);
                other.0.share(&other.1, gfn)
            });
            meet(&shared.2);
            while shared.0.reclaim(&shared.1, &mut Budget::unlimited()) == Progress::More {}
            let done = guest.join().unwrap();
            assert!(matches!(done, Ok(()) | Err(Refusal::Dying | Refusal::Busy | Refusal::Absent)), "{done:?}");
            assert_eq!(shared.0.lookup(frame).state, State::Host);
            assert_eq!((shared.1.private_frames(), shared.1.shared_frames()), (0, 0));
            check(&shared.0, &shared.1);
        });
    }
}

#[test]
fn two_guest_calls_on_one_page_leave_it_consistent() {
    for (alias, ready) in WORLDS {
        explore(10, move || {
            let (core, vm, frame, gfn) = world(alias, ready);
            let shared = Arc::new((core, vm, AtomicU64::new(0)));
            let other = shared.clone();
            let cpu = thread::spawn(move || {
                meet(&other.2);
                other.0.share(&other.1, gfn)
            });
            meet(&shared.2);
            let gone = shared.0.relinquish(&shared.1, gfn);
            let opened = cpu.join().unwrap();
            let state = shared.0.lookup(frame).state;
            match (gone, opened) {
                // With an alias the wish is noted even where no page is any more.
                (Ok(()), Ok(()) | Err(Refusal::Absent | Refusal::Busy)) => assert_eq!(state, State::Host),
                (Err(Refusal::Busy), Ok(())) => assert_eq!(state, State::Shared),
                other => panic!("{other:?}"),
            }
            check(&shared.0, &shared.1);
        });
    }
}

/// Two blocks of one GiB come apart and go together on two CPUs. While a CPU holds one of its frames there is no leaf, for
/// whatever the other does; in the end there is.
#[test]
fn a_gib_comes_apart_for_the_first_and_goes_together_for_the_last() {
    // A GiB takes long to make, each time.
    explore_to(1, 10, || {
        let core = fake::boot::<Concatenated>(&[Pfn::new(RAM_START)..Pfn::new(RAM_START + 32), GIB], 12);
        core.machine.caches.store(false, std::sync::atomic::Ordering::Relaxed);
        let shared = Arc::new(core);
        let level = |core: &Core<Fake<Concatenated>>, frame: Pfn| {
            core.machine.walk(core.host_root(), frame.get()).map(|(.., level)| level)
        };
        let hold = move |core: &Core<Fake<Concatenated>>, frame: Pfn| {
            core.pin(frame, State::Host).unwrap();
            assert_eq!(level(core, frame), Some(3), "the CPU's own page");
            core.unpin(frame).unwrap();
        };
        let (first, second) = (GIB.start, GIB.start.offset(512));
        assert_eq!(level(&shared, first), Some(1));
        let other = shared.clone();
        let cpu = thread::spawn(move || hold(&other, second));
        hold(&shared, first);
        cpu.join().unwrap();
        assert_eq!((level(&shared, first), level(&shared, second)), (Some(1), Some(1)));
        assert_eq!(shared.stats().gib_leaves, 1);
    });
}
