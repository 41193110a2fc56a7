//! Exhaustive search of small worlds: three frames of RAM, alone or in a GiB of the host's, two guests (one without an alias, one with, accepting or not), one host, every
//! event in every state that can be reached.
//!
//! In each new state everybody writes what it may write, so that after the next event each can be checked for what it sees:
//! nothing that another wrote where the reader had no access. A refused event leaves the state as it was.

use guestmem::fake::{self, Concatenated, Fake, GIB, RAM_START};
use guestmem::*;
use std::collections::{HashSet, VecDeque};
use std::ops::Range;

type Machine = Fake<Concatenated>;

const FRAMES: u64 = 3;
const ALIAS: u32 = 38;
/// Where the three frames are.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Alone in their block, so it is always split.
    Alone,
    /// In a GiB of which all else is the host's: their block, and the GiB, come apart and go together.
    Gib,
}
/// How far a search goes.
#[derive(Clone, Copy, PartialEq)]
enum Depth {
    /// Far enough to find what is badly wrong.
    Near,
    /// To its end, which takes a minute.
    Whole,
}

impl Depth {
    /// Most pins of a frame: for "one", and "more than one".
    fn pins(self) -> u16 {
        if self == Depth::Whole { 2 } else { 1 }
    }
}

struct State {
    core: Core<Machine>,
    vms: Vec<Guest>,
    /// The guest with an alias accepts what it takes back.
    accepts: bool,
    place: Place,
    depth: Depth,
}

/// What tells states apart. Frames are interchangeable, so their records are sorted.
type Key = (Vec<Record>, Vec<(bool, Vec<Visibility>)>);

#[derive(Clone, Copy, Debug)]
enum Event {
    Donate(usize, u64, u64),
    Load(usize, u64, u64),
    DonateMeta(usize, u64),
    Share(usize, u64),
    Unshare(usize, u64),
    Accept(usize, u64),
    Convert(usize, Visibility),
    Relinquish(usize, u64),
    Pin(u64, guestmem::State),
    Unpin(u64),
    Poison(u64),
    Topup(u64),
    Lend(u64),
    EndLend(u64),
    EndAndBegin(usize),
    HalfEnd(usize),
}

/// The plain guest has one page of RAM, the other two.
fn pages(vm: usize) -> u64 {
    1 + vm as u64
}

fn layout(vm: usize, accepts: bool) -> Layout {
    let ram: Range<Gfn> = Gfn::new(0x200)..Gfn::new(0x200 + pages(vm));
    let aliased = vm == 1;
    Layout { ram, alias: aliased.then_some(ALIAS), accepts: aliased && accepts }
}

fn gfn(index: u64) -> Gfn {
    Gfn::new(0x200 + index)
}

fn meta(vm: usize) -> Range<Pfn> {
    let start = RAM_START + 64 + 16 * vm as u64;
    Pfn::new(start)..Pfn::new(start + 10)
}

fn begin(accepts: bool, place: Place, depth: Depth) -> State {
    let block = |first: u64, frames: u64| Pfn::new(first)..Pfn::new(first + frames);
    let frames = if place == Place::Gib { GIB } else { block(place.first(), FRAMES) };
    let core = fake::boot(&[block(RAM_START, 96), frames], 16);
    let vms = (0..2).map(|vm| fake::guest(&core, vm as u16 + 1, layout(vm, accepts), meta(vm))).collect();
    State { core, vms, accepts, place, depth }
}

impl Place {
    fn first(self) -> u64 {
        match self {
            Self::Alone => RAM_START + 1024,
            Self::Gib => GIB.start.get() + 1024,
        }
    }
}

fn events() -> Vec<Event> {
    use Event::*;
    let mut all = Vec::new();
    for f in 0..FRAMES {
        all.extend([
            Pin(f, guestmem::State::Host),
            Pin(f, guestmem::State::Shared),
            Unpin(f),
            Topup(f),
            Lend(f),
            EndLend(f),
            Poison(f),
        ]);
        for vm in 0..2 {
            all.push(DonateMeta(vm, f));
            for page in 0..pages(vm) {
                all.extend([Donate(vm, f, page), Load(vm, f, page)]);
            }
        }
    }
    for vm in 0..2 {
        for page in 0..pages(vm) {
            all.extend([Share(vm, page), Unshare(vm, page), Accept(vm, page), Relinquish(vm, page)]);
        }
        all.extend([Convert(vm, Visibility::Shared), Convert(vm, Visibility::Private), EndAndBegin(vm), HalfEnd(vm)]);
    }
    all
}

impl State {
    fn fork(&self) -> Self {
        let (core, vms) = fake::fork(&self.core, &self.vms.iter().collect::<Vec<_>>());
        Self { core, vms, ..*self }
    }

    fn frame(&self, index: u64) -> Pfn {
        Pfn::new(self.place.first() + index)
    }

    fn key(&self) -> Key {
        let mut records: Vec<_> = (0..FRAMES).map(|f| self.core.lookup(self.frame(f))).collect();
        records.sort_by_key(|it| (it.state, it.owner, it.gfn, it.count, it.wiped));
        let wish = |vm: usize| (0..pages(vm)).map(|page| self.core.visibility(&self.vms[vm], gfn(page))).collect();
        (records, (0..2).map(|vm| (self.vms[vm].is_dying(), wish(vm))).collect())
    }

    /// Applies an event; false when it was refused.
    fn apply(&mut self, event: Event) -> bool {
        use Event::*;
        let Self { core, vms, accepts, place, depth } = self;
        let frame = |index: u64| Pfn::new(place.first() + index);
        let all = &mut Budget::unlimited();
        let done = match event {
            Donate(vm, f, page) => core.donate(&vms[vm], frame(f), gfn(page), Size::Page, all).map(drop),
            Load(vm, f, page) => core.load(&vms[vm], frame(f), gfn(page), 2, &mut |_, _| ()).map(drop),
            DonateMeta(vm, f) => core.donate_meta(&vms[vm], frame(f)),
            Share(vm, page) => core.share(&vms[vm], gfn(page)),
            Unshare(vm, page) => core.unshare(&vms[vm], gfn(page)),
            Accept(vm, page) => match core.accept(&vms[vm], gfn(page), Size::Page) {
                Ok(Acceptance::Accepted) => Ok(()),
                // As good as refused: nothing may have changed.
                Ok(_) => Err(Refusal::Occupied),
                Err(refusal) => Err(refusal),
            },
            Convert(vm, to) => {
                let before = vms[vm].shares() + vms[vm].unshares();
                let wish = core.visibility_run(&vms[vm], gfn(0), gfn(pages(vm)));
                let done = core.convert(&vms[vm], gfn(0)..gfn(pages(vm)), to, all);
                let changed = before != vms[vm].shares() + vms[vm].unshares()
                    || wish != core.visibility_run(&vms[vm], gfn(0), gfn(pages(vm)));
                assert!(done.is_ok() || !changed, "refused, but something was converted");
                done.map(drop)
            }
            Relinquish(vm, page) => core.relinquish(&vms[vm], gfn(page)),
            Pin(f, state) if core.lookup(frame(f)).pins() < depth.pins() => core.pin(frame(f), state),
            Pin(..) => Err(Refusal::Overflow),
            Unpin(f) => core.unpin(frame(f)),
            Poison(f) => {
                let owner = core.lookup(frame(f)).owner;
                core.poison(frame(f), vms.iter().find(|vm| Some(vm.id()) == owner))
            }
            Topup(f) => core.topup(frame(f)),
            Lend(f) => core.lend(frame(f)),
            EndLend(f) => core.end_lend(frame(f)),
            HalfEnd(vm) if vms[vm].is_dying() => Err(Refusal::Dying),
            HalfEnd(vm) => {
                let _ = core.reclaim(&vms[vm], &mut Budget::new(1));
                Ok(())
            }
            EndAndBegin(vm) => {
                while core.reclaim(&vms[vm], &mut Budget::new(1)) == Progress::More {}
                vms[vm] = fake::guest(core, vm as u16 + 1, layout(vm, *accepts), meta(vm));
                Ok(())
            }
        };
        done.is_ok()
    }

    fn access(&self, reader: Reader, f: u64) -> Option<(Space, Pfn, u64)> {
        match reader {
            None => Some((Space::Host, self.core.host_root(), self.frame(f).addr())),
            Some(vm) => {
                // A dying VM's CPUs have stopped.
                let (vm, record) = (&self.vms[vm], self.core.lookup(self.frame(f)));
                let half =
                    vm.layout().alias.filter(|_| record.state == guestmem::State::Shared).map_or(0, |bit| 1 << bit);
                let address = record.gfn.addr() | half;
                (record.owner == Some(vm.id()) && !vm.is_dying()).then_some((Space::Guest(vm.id()), vm.root(), address))
            }
        }
    }

    /// Everybody writes its mark wherever it can, and has the translations in its TLB from then on.
    fn scribble(&self) {
        for f in 0..FRAMES {
            let shared = self.core.lookup(self.frame(f)).state == guestmem::State::Shared;
            for (word, reader) in READERS.into_iter().enumerate() {
                if let Some((space, root, address)) = self.access(reader, f) {
                    let mark = if shared { OPEN } else { SECRET };
                    self.core.machine.store(space, root, address + 8 * (1 + word as u64), mark);
                }
            }
        }
    }

    /// Nobody sees a secret of another. What a guest was launched with, the host knew.
    fn check_secrets(&self, event: Event) {
        for f in 0..FRAMES {
            let record = self.core.lookup(self.frame(f));
            for (me, reader) in READERS.into_iter().enumerate() {
                let Some((space, root, address)) = self.access(reader, f) else { continue };
                for (other, writer) in READERS.into_iter().enumerate().filter(|(other, _)| *other != me) {
                    let seen = self.core.machine.load(space, root, address + 8 * (1 + other as u64));
                    let launched = writer.is_none() && !record.wiped && reader.is_some();
                    let allowed = match seen {
                        None | Some(0) => true,
                        // What was open stays readable where it stays open, and for the host when it gets it back.
                        Some(OPEN) => record.state == guestmem::State::Shared || reader.is_none(),
                        _ => launched,
                    };
                    assert!(allowed, "{event:?}: {reader:?} sees {seen:x?} of {writer:?} in frame {f}: {record:?}");
                }
            }
        }
    }

    fn check(&self) {
        let live: Vec<&Guest> = self.vms.iter().collect();
        fake::audit(&self.core, &live);
        let regions = [self.frame(0)..self.frame(FRAMES)];
        for vm in &self.vms {
            assert_eq!((vm.private_frames(), vm.shared_frames()), fake::count(&self.core, &regions, vm.id()));
        }
        let whole = (0..FRAMES).all(|f| {
            let record = self.core.lookup(self.frame(f));
            (record.state, record.count) == (guestmem::State::Host, 0)
        });
        assert_eq!(self.core.stats().gib_leaves, u64::from(whole && self.place == Place::Gib));
    }
}

/// The host or a guest.
type Reader = Option<usize>;
const READERS: [Reader; 3] = [None, Some(0), Some(1)];
const SECRET: u64 = 0x5ec2e7;
const OPEN: u64 = 0x0be2;

#[test]
fn every_event_in_near_states_keeps_the_invariants() {
    search(false, Place::Alone, Depth::Near);
}

#[test]
#[ignore = "takes a minute: cargo xtask test --only worlds"]
fn every_event_in_every_reachable_state_keeps_the_invariants() {
    search(false, Place::Alone, Depth::Whole);
}

#[test]
#[ignore = "takes a minute: cargo xtask test --only worlds"]
fn every_event_in_every_reachable_state_of_guests_that_accept_keeps_the_invariants() {
    search(true, Place::Alone, Depth::Whole);
}

#[test]
#[ignore = "takes a minute: cargo xtask test --only worlds"]
fn every_event_in_every_reachable_state_of_a_gib_keeps_the_invariants() {
    search(false, Place::Gib, Depth::Whole);
}

fn search(accepts: bool, place: Place, depth: Depth) {
    let events = events();
    let mut seen = HashSet::new();
    let mut queue = VecDeque::new();
    let first = begin(accepts, place, depth);
    seen.insert(first.key());
    queue.push_back(first);
    let (mut tried, mut done) = (0_u64, 0_u64);
    // In a GiB a copy keeps 4 KiB of records for good, and what differs there is found with all kinds of events in the states
    // that are near.
    let most = match (place, depth) {
        (Place::Alone, Depth::Near) => 2000,
        (Place::Alone, Depth::Whole) => usize::MAX,
        (Place::Gib, _) => 4000,
    };
    while let Some(state) = queue.pop_front() {
        state.scribble();
        let key = state.key();
        let mut next = state.fork();
        for &event in &events {
            tried += 1;
            if !next.apply(event) {
                assert_eq!(next.key(), key, "{event:?} was refused but changed something");
                continue;
            }
            done += 1;
            next.check_secrets(event);
            let new = next.key();
            if seen.len() < most && seen.insert(new) {
                next.check();
                queue.push_back(next);
            }
            next = state.fork();
        }
    }
    println!("{} states, {tried} events tried, {done} legal", seen.len());
    assert!(seen.len() >= 400, "the world has become too small: {}", seen.len());
}
