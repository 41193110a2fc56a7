//! Random sequences of calls: against a naive model that predicts every answer, and, with the strangest arguments and
//! operations left half done, against the invariants.

use crate::common::*;
use guestmem::fake::{Concatenated, GIB};
use guestmem::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

type W = World<Concatenated>;

/// What the naive model knows of a frame that is not simply the host's: one entry for each frame, no blocks, no tables.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Host { pins: u16 },
    Private(usize, u64),
    Shared(usize, u64, u16),
    Poisoned,
}

#[derive(Default)]
struct Model {
    frames: HashMap<u64, Owner>,
    /// Of the guest with an alias.
    wishes: HashMap<u64, bool>,
    content: HashMap<u64, u64>,
}

#[derive(Clone, Debug)]
enum Call {
    Donate(usize, u64, u64),
    DonateBlock(usize, u64, u64),
    Turn(usize, u64, bool),
    Convert(usize, u64, u64, bool),
    Relinquish(usize, u64),
    Pin(u64),
    Unpin(u64),
    Poison(u64),
    Write(usize, u64, u64),
}

const PLAIN: usize = 0;
const ALIASED: usize = 1;
/// Pages that calls name: the first few of each block, so that they meet.
fn page() -> impl Strategy<Value = u64> {
    (0..4_u64, prop_oneof![0..3_u64, 509..512_u64]).prop_map(|(block, page)| block * 512 + page)
}

fn call() -> impl Strategy<Value = Call> {
    let vm = || 0..2_usize;
    prop_oneof![
        4 => (vm(), page(), page()).prop_map(|(vm, frame, gfn)| Call::Donate(vm, frame, gfn)),
        3 => (vm(), 0..4_u64, 0..4_u64).prop_map(|(vm, frame, gfn)| Call::DonateBlock(vm, frame * 512, gfn * 512)),
        6 => (vm(), page(), any::<bool>()).prop_map(|(vm, gfn, open)| Call::Turn(vm, gfn, open)),
        4 => (vm(), page(), page(), any::<bool>()).prop_map(|(vm, a, b, open)| Call::Convert(vm, a.min(b), a.max(b) + 1, open)),
        2 => (vm(), 0..4_u64, 1..3_u64, any::<bool>())
            .prop_map(|(vm, block, blocks, open)| Call::Convert(vm, block * 512, (block + blocks) * 512, open)),
        2 => (vm(), page()).prop_map(|(vm, gfn)| Call::Relinquish(vm, gfn)),
        1 => page().prop_map(Call::Pin),
        1 => page().prop_map(Call::Unpin),
        1 => page().prop_map(Call::Poison),
        3 => (vm(), page(), 1..u64::MAX).prop_map(|(vm, gfn, value)| Call::Write(vm, gfn, value)),
    ]
}

impl Model {
    fn owner(&self, frame: u64) -> Owner {
        *self.frames.get(&frame).unwrap_or(&Owner::Host { pins: 0 })
    }

    fn frame_of(&self, vm: usize, gfn: u64) -> Option<u64> {
        let has = |owner: &Owner| match *owner {
            Owner::Private(it, at) | Owner::Shared(it, at, _) => (it, at) == (vm, gfn),
            _ => false,
        };
        self.frames.iter().find(|(_, owner)| has(owner)).map(|(frame, _)| *frame)
    }

    fn wish(&self, gfn: u64) -> bool {
        self.wishes.get(&gfn).copied().unwrap_or(false)
    }

    fn give(&self, frame: u64) -> Result<(), Refusal> {
        match self.owner(frame) {
            Owner::Host { pins: 0 } => Ok(()),
            Owner::Host { .. } => Err(Refusal::Pinned),
            Owner::Private(..) => Err(Refusal::NotOwner(State::Private)),
            Owner::Shared(..) => Err(Refusal::NotOwner(State::Shared)),
            Owner::Poisoned => Err(Refusal::Poisoned),
        }
    }

    fn arrive(&mut self, vm: usize, frame: u64, gfn: u64) {
        let open = vm == ALIASED && self.wish(gfn);
        self.frames.insert(frame, if open { Owner::Shared(vm, gfn, 0) } else { Owner::Private(vm, gfn) });
        self.content.insert(frame, 0);
    }

    fn donate(&mut self, vm: usize, frame: u64, gfn: u64) -> Result<(), Refusal> {
        self.give(frame)?;
        if self.frame_of(vm, gfn).is_some() {
            return Err(Refusal::Occupied);
        }
        self.arrive(vm, frame, gfn);
        Ok(())
    }

    fn donate_block(&mut self, vm: usize, frame: u64, gfn: u64) -> Result<(), Refusal> {
        (0..512).try_for_each(|index| self.give(frame + index))?;
        if vm == ALIASED && (1..512).any(|index| self.wish(gfn + index) != self.wish(gfn)) {
            return Err(Refusal::WrongVisibility);
        }
        let range = gfn..gfn + 512;
        let there = |owner: &Owner| match owner {
            Owner::Private(it, at) | Owner::Shared(it, at, _) => *it == vm && range.contains(at),
            _ => false,
        };
        if self.frames.values().any(there) {
            return Err(Refusal::Occupied);
        }
        (0..512).for_each(|index| self.arrive(vm, frame + index, gfn + index));
        Ok(())
    }

    fn turn(&mut self, vm: usize, gfn: u64, open: bool) -> Result<(), Refusal> {
        let Some(frame) = self.frame_of(vm, gfn) else {
            return match vm {
                PLAIN => Err(Refusal::Absent),
                _ if self.wish(gfn) == open => Err(Refusal::WrongVisibility),
                _ => {
                    self.wishes.insert(gfn, open);
                    Ok(())
                }
            };
        };
        let next = match (self.owner(frame), open) {
            (Owner::Private(..), true) => Owner::Shared(vm, gfn, 0),
            (Owner::Shared(_, _, 0), false) => Owner::Private(vm, gfn),
            (Owner::Shared(..), false) => return Err(Refusal::Pinned),
            _ => return Err(Refusal::WrongVisibility),
        };
        self.frames.insert(frame, next);
        self.content.insert(frame, 0);
        if vm == ALIASED {
            self.wishes.insert(gfn, open);
        }
        Ok(())
    }

    /// As the core's, page by page: what is so already is passed over, the first page that cannot be turned ends it.
    fn convert(&mut self, vm: usize, from: u64, to: u64, open: bool) -> Result<u64, Refusal> {
        for gfn in from..to {
            match self.turn(vm, gfn, open) {
                Ok(()) | Err(Refusal::WrongVisibility) => {}
                Err(refusal) if gfn == from => return Err(refusal),
                Err(_) => return Ok(gfn),
            }
        }
        Ok(to)
    }

    fn relinquish(&mut self, vm: usize, gfn: u64) -> Result<(), Refusal> {
        let frame = self.frame_of(vm, gfn).ok_or(Refusal::Absent)?;
        let (pins, wiped) = match self.owner(frame) {
            Owner::Shared(_, _, pins) => (pins, false),
            _ => (0, true),
        };
        self.frames.insert(frame, Owner::Host { pins });
        if wiped {
            self.content.insert(frame, 0);
        }
        Ok(())
    }
}

fn run_model(w: &W, calls: Vec<Call>) -> Result<(), TestCaseError> {
    let vms = [w.plain(1), w.aliased(2)];
    let mut model = Model::default();
    // Frames and guest frames in the model count from block 2 and from the start of guest RAM.
    let frame = |index: u64| w.block(2).offset(index);
    // A poisoned page stays in its guest's address space, which the model does not know: no more calls about it.
    let mut lost: Vec<(usize, u64)> = Vec::new();
    for (number, call) in calls.into_iter().enumerate() {
        let touches = |vm: usize, from: u64, to: u64| lost.iter().any(|&(it, at)| it == vm && (from..to).contains(&at));
        match call {
            Call::Donate(vm, f, g) if !touches(vm, g, g + 1) => {
                prop_assert_eq!(w.donate(&vms[vm], frame(f), w.gfn(g)), model.donate(vm, f, g), "{}", number);
            }
            Call::DonateBlock(vm, f, g) if !touches(vm, g, g + 512) => {
                let done = w.donate_block(&vms[vm], frame(f), w.gfn(g));
                prop_assert_eq!(done, model.donate_block(vm, f, g), "{}", number);
            }
            Call::Turn(vm, g, open) if !touches(vm, g, g + 1) => {
                let turn = if open { Core::share } else { Core::unshare };
                prop_assert_eq!(turn(&w.core, &vms[vm], w.gfn(g)), model.turn(vm, g, open), "{}", number);
            }
            Call::Convert(vm, from, to, open) if !touches(vm, from, to) => {
                let to_what = if open { Visibility::Shared } else { Visibility::Private };
                let mut at = w.gfn(from);
                let mut refusal = None;
                while at < w.gfn(to) && refusal.is_none() {
                    match w.core.convert(&vms[vm], at..w.gfn(to), to_what, &mut Budget::new(100)) {
                        Ok(next) => {
                            prop_assert!(next > at);
                            at = next;
                        }
                        Err(error) => refusal = Some(error),
                    }
                }
                let done = model.convert(vm, from, to, open);
                let expected = done.map_or(from, |reached| reached);
                prop_assert_eq!(at, w.gfn(expected), "{} {:?}", number, refusal);
                if let Err(expected) = done {
                    prop_assert_eq!(refusal, Some(expected));
                }
            }
            Call::Relinquish(vm, g) if !touches(vm, g, g + 1) => {
                prop_assert_eq!(w.core.relinquish(&vms[vm], w.gfn(g)), model.relinquish(vm, g), "{}", number);
            }
            Call::Pin(f) => {
                let (state, next) = match model.owner(f) {
                    Owner::Host { pins } => (State::Host, Owner::Host { pins: pins + 1 }),
                    Owner::Shared(vm, g, pins) => (State::Shared, Owner::Shared(vm, g, pins + 1)),
                    _ => continue,
                };
                prop_assert_eq!(w.core.pin(frame(f), state), Ok(()));
                model.frames.insert(f, next);
            }
            Call::Unpin(f) => {
                let (next, expected) = match model.owner(f) {
                    it @ (Owner::Host { pins: 0 } | Owner::Shared(_, _, 0)) => (it, Err(Refusal::Underflow)),
                    Owner::Host { pins } => (Owner::Host { pins: pins - 1 }, Ok(())),
                    Owner::Shared(vm, g, pins) => (Owner::Shared(vm, g, pins - 1), Ok(())),
                    it @ Owner::Private(..) => (it, Err(Refusal::NotOwner(State::Private))),
                    Owner::Poisoned => (Owner::Poisoned, Err(Refusal::Poisoned)),
                };
                prop_assert_eq!(w.core.unpin(frame(f)), expected);
                model.frames.insert(f, next);
            }
            Call::Poison(f) => {
                let vm = match model.owner(f) {
                    Owner::Private(vm, g) | Owner::Shared(vm, g, _) => {
                        lost.push((vm, g));
                        Some(&vms[vm])
                    }
                    _ => None,
                };
                prop_assert_eq!(w.core.poison(frame(f), vm), Ok(()));
                model.frames.insert(f, Owner::Poisoned);
            }
            Call::Write(vm, g, value) => {
                let f = model.frame_of(vm, g);
                let through_alias = vm == ALIASED && f.is_some_and(|f| matches!(model.owner(f), Owner::Shared(..)));
                let written = if through_alias {
                    w.alias_writes(&vms[vm], w.gfn(g), value)
                } else {
                    w.guest_writes(&vms[vm], w.gfn(g), value)
                };
                prop_assert_eq!(written, f.is_some());
                if let Some(f) = f {
                    model.content.insert(f, value);
                }
            }
            _ => {}
        }
    }
    w.check(&[&vms[0], &vms[1]]);
    compare(w, &vms, &model)?;
    prop_assert_eq!(w.is_gib_leaf(GIB.start), w.has_gib() && w.is_all_host());
    vms.iter().for_each(|vm| w.end(vm));
    w.check(&[]);
    prop_assert_eq!(w.is_gib_leaf(GIB.start), w.has_gib() && w.is_all_host());
    Ok(())
}

fn compare(w: &W, vms: &[Guest; 2], model: &Model) -> Result<(), TestCaseError> {
    for f in 0..4 * 512 {
        let (frame, owner) = (w.block(2).offset(f), model.owner(f));
        let record = w.core.lookup(frame);
        let id = |vm: usize| Some(vms[vm].id());
        let content = model.content.get(&f).copied().unwrap_or(0);
        match owner {
            Owner::Host { pins } => prop_assert_eq!((record.state, record.count), (State::Host, pins)),
            Owner::Private(vm, g) => {
                prop_assert_eq!((record.state, record.owner, record.gfn), (State::Private, id(vm), w.gfn(g)));
                prop_assert_eq!(w.guest_reads(&vms[vm], w.gfn(g)), Some(content));
            }
            Owner::Shared(vm, g, pins) => {
                prop_assert_eq!((record.state, record.owner, record.gfn), (State::Shared, id(vm), w.gfn(g)));
                prop_assert_eq!(record.count, pins);
            }
            Owner::Poisoned => prop_assert_eq!(record.state, State::Poisoned),
        }
        let host = matches!(owner, Owner::Host { .. } | Owner::Shared(..)).then_some(content);
        prop_assert_eq!(w.host_reads(frame), host);
    }
    Ok(())
}

/// Any number, but often one that means something.
fn number() -> impl Strategy<Value = u64> {
    let ram = prop_oneof![0..2048_u64, Just(511), Just(512), 4000..4096_u64];
    prop_oneof![
        6 => ram.clone().prop_map(|index| guestmem::fake::RAM_START + index),
        2 => ram.prop_map(|index| GIB.start.get() + index),
        1 => any::<u64>(),
        1 => (0..64_u32).prop_map(|bit| 1 << bit),
        1 => Just(u64::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_core_does_what_a_naive_model_does(
        in_gib in any::<bool>(),
        calls in proptest::collection::vec(call(), 1..60)
    ) {
        let w = if in_gib { W::in_gib(150) } else { W::with_pool(150) };
        run_model(&w, calls)?;
    }

    /// Whatever is called with whatever: nothing panics, and the invariants hold.
    #[test]
    fn nothing_that_host_or_guest_say_breaks_an_invariant(
        in_gib in any::<bool>(),
        calls in proptest::collection::vec((0..23_u8, 0..3_usize, number(), number(), 1..600_u64), 1..50)
    ) {
        let w = if in_gib { W::in_gib(40) } else { W::with_pool(40) };
        let vms = [w.guest(1, None, 12), w.guest(2, Some(ALIAS), 12), w.accepting(3)];
        for (what, vm, a, b, budget) in calls {
            let (core, vm) = (&w.core, &vms[vm]);
            let (frame, gfn, other) = (Pfn::new(a), Gfn::new(b), Gfn::new(a));
            let budget = &mut Budget::new(budget);
            core.machine.interrupt.store(a % 5 == 0, Relaxed);
            match what {
                0 => drop(core.donate(vm, frame, gfn, Size::Page, budget)),
                1 => drop(core.donate_pages(vm, frame, gfn, 1 + b % 8)),
                2 | 3 => drop(core.donate(vm, frame.block_start(), gfn.block_start(), Size::Block, budget)),
                4 => drop(core.donate(vm, frame, gfn, Size::Block, budget)),
                5 => drop(core.share(vm, gfn)),
                6 => drop(core.unshare(vm, gfn)),
                7 => drop(core.convert(vm, gfn..other, Visibility::Shared, budget)),
                8 => drop(core.convert(vm, gfn..other, Visibility::Private, budget)),
                9 => drop(core.convert(vm, gfn.block_start()..gfn.block_start().offset(512), Visibility::Shared, budget)),
                10 => drop(core.relinquish(vm, gfn)),
                11 => drop(core.load(vm, frame, gfn, 1 + b % 3, &mut |_, _| ())),
                12 => drop(core.pin(frame, if b % 2 == 0 { State::Host } else { State::Shared })),
                13 => drop(core.unpin(frame)),
                14 => drop((core.fault(vm, gfn, Visibility::Shared), core.fault(vm, gfn, Visibility::Private))),
                15 => drop((core.visibility_run(vm, gfn, other), core.host_fault(a), core.with_host_page(frame, |_| ()))),
                16 => drop((core.donate_meta(vm, frame), core.topup(Pfn::new(b)))),
                17 => drop(core.accept(vm, gfn, Size::Page)),
                18 => drop(core.accept(vm, gfn.block_start(), Size::Block)),
                19 => drop(core.lend(frame)),
                20 => drop(core.end_lend(frame)),
                21 => drop(core.convert(vm, gfn.block_start()..gfn.block_start().offset(512), Visibility::Private, budget)),
                _ => {
                    let owner = core.lookup(frame).owner;
                    let _ = core.poison(frame, vms.iter().find(|vm| Some(vm.id()) == owner));
                }
            }
            for frame in [frame, Pfn::new(b)] {
                let _ = (w.host_reads(frame), w.guest_reads(vm, gfn), w.core.with_page(vm, gfn, |_| ()));
            }
        }
        w.core.machine.interrupt.store(false, Relaxed);
        w.check(&[&vms[0], &vms[1], &vms[2]]);
        vms.iter().for_each(|vm| w.end(vm));
        w.check(&[]);
        prop_assert_eq!(w.is_gib_leaf(GIB.start), w.has_gib() && w.is_all_host());
    }
}
