//! The invariants, checked: host tables, guest tables and maps of shared pages against the frame database.
//!
//! The cursor goes over all blocks of RAM first, then over the host's table, then over each VM's tables. Every frame's
//! record says what all tables have to hold for it; every leaf in a table has to be justified by a record.

use ::core::ops::Range;

use crate::block::Block;
use crate::gib::GIB_FRAMES;
use crate::guest::Guest;
use crate::record::{Record, State};
use crate::sync::{Ordering, Word};
use crate::table::{BLOCK_LEVEL, GIB_LEVEL, PAGE_LEVEL, Slot, level_shift};
use crate::{Attrs, BLOCK_FRAMES, Budget, Core, Gfn, Machine, OwnerId, Pfn, TableFormat, Visibility};

/// A broken invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The host's table maps a frame that it may not, or otherwise than it may, or does not map one that it may
    /// (invariant 2).
    Host(Pfn),
    /// The tables of the frame's owner do not hold what the frame's record says (invariant 3).
    Guest(Pfn),
    /// A VM's tables hold something that no record justifies, at this frame number of its address space (invariants 1
    /// and 3).
    Stray(OwnerId, u64),
    /// What the guest last said it wants of the page is not what the page is.
    Wanted(OwnerId, Gfn),
    /// The record makes no sense: it names a VM that there is not, or a state that a block cannot be in (invariant 1).
    Record(Pfn),
    /// A table hangs in a frame that is not Postern's, or not the VM's (invariant 1).
    Table(Pfn),
}

/// What a part of the audit found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Where to go on; nothing when all has been looked at.
    pub next: Option<u64>,
    /// Number of violations found.
    pub violations: u64,
    /// The first of them.
    pub first: [Option<Violation>; 8],
}

impl Audit {
    fn note(&mut self, violation: Violation) {
        if let Some(free) = self.first.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(violation);
        }
        self.violations += 1;
    }

    fn check(&mut self, holds: bool, violation: Violation) {
        if !holds {
            self.note(violation);
        }
    }
}

/// Frames, or table entries, that are looked at in one piece, so that no call takes long.
const PIECE: u64 = 16;
const PIECES: u64 = BLOCK_FRAMES / PIECE;
/// Cost of a look at a piece, in units of [`Budget`].
const PIECE_UNITS: u64 = 64;

const PHASE_SHIFT: u32 = 60;
const OWNER_SHIFT: u32 = 48;
const BLOCKS: u64 = 0;
const HOST: u64 = 1;
const GUESTS: u64 = 2;

/// What a table has to hold for a frame.
#[derive(Clone, Copy)]
enum Expected {
    Nothing,
    Mark,
    Leaf(Attrs),
}

type Vms<'a, 'g> = &'a dyn Fn(OwnerId) -> Option<&'g Guest>;

impl<M: Machine> Core<M> {
    /// Checks a part of the invariants, from `cursor` (first 0, then [`Audit::next`]) until the budget is used up. `vms`
    /// finds a VM by its owner number. What is being changed by another CPU meanwhile may be reported as a violation.
    pub fn audit<'g>(&self, vms: Vms<'_, 'g>, cursor: u64, budget: &mut Budget) -> Audit {
        let mut audit = Audit::default();
        let mut next = Some(cursor);
        budget.begin();
        while let Some(cursor) = next {
            if !budget.look(&self.machine, PIECE_UNITS) {
                break;
            }
            next = self.audit_at(vms, cursor, &mut audit);
        }
        audit.next = next;
        audit
    }

    fn audit_at(&self, vms: Vms<'_, '_>, cursor: u64, audit: &mut Audit) -> Option<u64> {
        let (phase, owner) = (cursor >> PHASE_SHIFT, cursor >> OWNER_SHIFT & 0xfff);
        let at = cursor & ((1 << OWNER_SHIFT) - 1);
        // Nobody vouches for the cursor: pieces begin where pieces begin.
        let at = if phase == BLOCKS { at } else { at / PIECE * PIECE };
        match phase {
            BLOCKS => match self.nth_block(at / PIECES) {
                Some(first) => {
                    let pieces = self.audit_block(vms, first, at % PIECES, audit);
                    Some(cursor + pieces)
                }
                None => Some(HOST << PHASE_SHIFT),
            },
            HOST if at < Self::REACH => Some(HOST << PHASE_SHIFT | self.audit_host(at, audit)),
            HOST => Some(GUESTS << PHASE_SHIFT | 1 << OWNER_SHIFT),
            GUESTS => {
                let id = OwnerId::new(u16::try_from(owner).ok()?)?;
                let number = vms(id).and_then(|vm| self.audit_guest(vm, at, audit));
                match number {
                    Some(number) => Some(GUESTS << PHASE_SHIFT | owner << OWNER_SHIFT | number),
                    None if owner < u64::from(OwnerId::MAX) => Some(GUESTS << PHASE_SHIFT | (owner + 1) << OWNER_SHIFT),
                    None => None,
                }
            }
            _ => None,
        }
    }

    fn nth_block(&self, mut at: u64) -> Option<Pfn> {
        for span in self.spans() {
            if at < span.blocks {
                return Some(Pfn::new((span.first + at) * BLOCK_FRAMES));
            }
            at -= span.blocks;
        }
        None
    }

    /// A piece of a block's frames. Returns how many pieces that was: all that are left of a block that is whole.
    fn audit_block(&self, vms: Vms<'_, '_>, first: Pfn, piece: u64, audit: &mut Audit) -> u64 {
        let Ok(block) = self.lock(first) else { return 1 };
        let piece_frames = piece * PIECE..(piece + 1) * PIECE;
        self.audit_host_block(&block, piece_frames.clone(), audit);
        match block.whole() {
            Some(record) => {
                let impossible = matches!(record.state, State::Absent | State::Meta | State::Poisoned);
                let gaps = !self.is_all_ram(first, BLOCK_FRAMES);
                let pins = record.pins() != 0;
                audit.check(!impossible && !gaps && !pins, Violation::Record(first));
                self.audit_owned(vms, first, BLOCK_FRAMES, record, audit);
                PIECES - piece
            }
            None => {
                for frame in piece_frames.map(|index| first.offset(index)) {
                    let record = block.record(frame);
                    let absent = record.state == State::Absent;
                    audit.check(absent != self.is_ram(frame), Violation::Record(frame));
                    self.audit_owned(vms, frame, 1, record, audit);
                }
                1
            }
        }
    }

    /// Host entries of some of a block's frames against their records.
    fn audit_host_block(&self, block: &Block<'_, M>, frames: Range<u64>, audit: &mut Audit) {
        let first = block.first();
        let Some(slot) = self.host_entry(first) else { return };
        let entry = slot.load(Ordering::Acquire);
        match (block.whole(), Self::read(entry, BLOCK_LEVEL)) {
            (Some(record), _) => {
                let expected = if record.host_may_access() { Expected::Leaf(Attrs::Ram) } else { Expected::Nothing };
                audit.check(entry == Self::expected(expected, first, BLOCK_LEVEL), Violation::Host(first));
            }
            (None, Slot::Table(table)) => {
                for index in frames {
                    let entry = self.machine.words(table)[index as usize].load(Ordering::Acquire);
                    let frame = first.offset(index);
                    let is = |expected| entry == Self::expected(expected, frame, PAGE_LEVEL);
                    let fits = match block.record(frame) {
                        Record { state: State::Absent, .. } => {
                            is(Expected::Nothing) || is(Expected::Leaf(Attrs::Device))
                        }
                        record if record.host_may_access() => is(Expected::Leaf(Attrs::Ram)),
                        _ => is(Expected::Nothing),
                    };
                    audit.check(fits, Violation::Host(frame));
                }
            }
            (None, _) => audit.note(Violation::Host(first)),
        }
    }

    /// The tables of a frame's owner against its record; the same for the `frames` of a whole block.
    fn audit_owned(&self, vms: Vms<'_, '_>, frame: Pfn, frames: u64, record: Record, audit: &mut Audit) {
        let Some(owner) = record.owner else {
            let ownerless =
                matches!(record.state, State::Absent | State::Host | State::Lent | State::Postern | State::Poisoned);
            audit.check(ownerless, Violation::Record(frame));
            return;
        };
        let Some(vm) = vms(owner) else { return audit.note(Violation::Record(frame)) };
        // A dying VM has no tables any more, only records.
        if record.state == State::Meta || vm.check_live().is_err() {
            return;
        }
        let (in_private, in_alias) = match (record.state, vm.layout().alias) {
            (State::Private, _) | (State::Shared, None) => (Expected::Leaf(Attrs::Ram), Expected::Nothing),
            (State::Shared, Some(_)) => (Expected::Mark, Expected::Leaf(Attrs::SharedRam)),
            _ => (Expected::Mark, Expected::Nothing),
        };
        let gfn = record.gfn;
        audit.check(self.holds(vm, gfn.get(), frame, frames, in_private), Violation::Guest(frame));
        let Some(alias) = vm.alias(gfn) else { return };
        audit.check(self.holds(vm, alias, frame, frames, in_alias), Violation::Guest(frame));
        let wanted = match record.state {
            State::Private | State::Pending | State::Closing => Visibility::Private,
            State::Shared | State::Opening => Visibility::Shared,
            _ => return,
        };
        let as_wanted = (0..frames).all(|index| self.wanted(vm, gfn.offset(index)) == wanted);
        audit.check(as_wanted, Violation::Wanted(owner, gfn));
    }

    /// The entry that stands for what is expected of `frame`. Whole entries are compared, not what they decode to.
    fn expected(expected: Expected, frame: Pfn, level: u32) -> u64 {
        match expected {
            Expected::Nothing => 0,
            Expected::Mark => Self::mark(frame),
            Expected::Leaf(attrs) => M::Format::leaf(frame.addr(), level, attrs),
        }
    }

    /// Whether a VM's tables hold what is expected of `frames` frames at `number` of its address space.
    fn holds(&self, vm: &Guest, number: u64, frame: Pfn, frames: u64, expected: Expected) -> bool {
        let slot = self.slot(vm.root(), number, BLOCK_LEVEL);
        let entry = slot.map_or(0, |slot| slot.load(Ordering::Acquire));
        match Self::read(entry, BLOCK_LEVEL) {
            Slot::Table(table) => (0..frames).all(|index| {
                let entry = self.entry(table, number + index).map_or(0, |entry| entry.load(Ordering::Acquire));
                entry == Self::expected(expected, frame.offset(index), PAGE_LEVEL)
            }),
            // One entry for the block that the frame is part of.
            _ => {
                let first = Pfn::new(frame.get().wrapping_sub(number % BLOCK_FRAMES));
                entry == Self::expected(expected, first, BLOCK_LEVEL)
            }
        }
    }

    /// A piece of the host's table from frame `number` on: nothing but identity, RAM only where there are records, tables
    /// only in Postern's frames. Returns where the next piece begins.
    fn audit_host(&self, number: u64, audit: &mut Audit) -> u64 {
        let (root, gib) = (self.host_root(), GIB_FRAMES);
        let past = (number / gib + 1) * gib;
        if root.get() == 0 {
            return Self::REACH;
        }
        let Some(slot) = self.slot(root, number, GIB_LEVEL) else {
            // The table above has nothing there: far too much to go through it by the GiB.
            let span = 1 << level_shift(0);
            return (number / span + 1) * span;
        };
        let first = Pfn::new(past - gib);
        if number == first.get() {
            audit.check(self.gib_agrees(first), Violation::Host(first));
        }
        let table = match (self.gib_table(first), Self::read(slot.load(Ordering::Acquire), GIB_LEVEL)) {
            (Some(table), _) | (None, Slot::Table(table)) => table,
            (None, Slot::Empty) => return past,
            (None, _) => {
                self.audit_device(slot, GIB_LEVEL, first, audit);
                return past;
            }
        };
        audit.check(self.lookup(table).state == State::Postern, Violation::Table(table));
        let mut at = number;
        for _ in 0..PIECE {
            at = self.audit_host_entry(table, at, audit);
            // In the middle of a page table, or at the end of the GiB.
            if !at.is_multiple_of(BLOCK_FRAMES) || at == past {
                break;
            }
        }
        at
    }

    /// The entry of the block that frame `at` is in, or a piece of the page table it points to. Returns what is next.
    fn audit_host_entry(&self, table: Pfn, at: u64, audit: &mut Audit) -> u64 {
        let (block, past) = (at / BLOCK_FRAMES, (at / BLOCK_FRAMES + 1) * BLOCK_FRAMES);
        let Some(entry) = self.entry(table, block) else { return past };
        let slot = Self::read(entry.load(Ordering::Acquire), BLOCK_LEVEL);
        if let Slot::Table(pages) = slot {
            audit.check(self.lookup(pages).state == State::Postern, Violation::Table(pages));
        }
        if self.spans().iter().any(|span| block.wrapping_sub(span.first) < span.blocks) {
            return past; // checked against its records
        }
        match slot {
            Slot::Empty => past,
            Slot::Table(pages) => {
                let end = past.min(at + 4 * PIECE);
                for page in at..end {
                    let Some(entry) = self.entry(pages, page) else { return past };
                    if entry.load(Ordering::Acquire) != 0 {
                        self.audit_device(entry, PAGE_LEVEL, Pfn::new(page), audit);
                    }
                }
                end
            }
            _ => {
                self.audit_device(entry, BLOCK_LEVEL, Pfn::new(block * BLOCK_FRAMES), audit);
                past
            }
        }
    }

    fn audit_device(&self, entry: &Word, level: u32, frame: Pfn, audit: &mut Audit) {
        let end = frame.get() + (1 << level_shift(level));
        let ram = self.regions().iter().any(|&(first, past)| frame.get() < past && first < end);
        let device = Self::expected(Expected::Leaf(Attrs::Device), frame, level);
        audit.check(entry.load(Ordering::Acquire) == device && !ram, Violation::Host(frame));
    }

    /// A piece of a 2 MiB block of a VM's address space, in either half. Returns where the next one is.
    fn audit_guest(&self, vm: &Guest, number: u64, audit: &mut Audit) -> Option<u64> {
        if number >= Self::REACH || vm.check_live().is_err() {
            return None;
        }
        for level in M::Format::ROOT_LEVEL..BLOCK_LEVEL {
            let slot = self.slot(vm.root(), number, level)?;
            match Self::read(slot.load(Ordering::Acquire), level) {
                Slot::Table(table) => self.audit_table(vm, table, audit),
                Slot::Empty => return Some(((number >> level_shift(level)) + 1) << level_shift(level)),
                _ => {
                    audit.note(Violation::Stray(vm.id(), number));
                    return Some(((number >> level_shift(level)) + 1) << level_shift(level));
                }
            }
        }
        match self.slot(vm.root(), number, BLOCK_LEVEL).map(|slot| (slot, slot.load(Ordering::Acquire))) {
            None => {}
            Some((slot, entry)) => match Self::read(entry, BLOCK_LEVEL) {
                Slot::Empty => {}
                Slot::Table(table) => {
                    self.audit_table(vm, table, audit);
                    for number in number..number + PIECE {
                        let Some(slot) = self.entry(table, number) else { break };
                        self.audit_leaf(vm, slot, PAGE_LEVEL, number, audit);
                    }
                    return Some(number + PIECE);
                }
                _ => self.audit_leaf(vm, slot, BLOCK_LEVEL, number, audit),
            },
        }
        Some((number / BLOCK_FRAMES + 1) * BLOCK_FRAMES)
    }

    fn audit_table(&self, vm: &Guest, table: Pfn, audit: &mut Audit) {
        let record = self.lookup(table);
        audit.check((record.state, record.owner) == (State::Meta, Some(vm.id())), Violation::Table(table));
    }

    /// An entry of a VM's tables: the record of what it maps or marks has to name this VM and this address.
    fn audit_leaf(&self, vm: &Guest, slot: &Word, level: u32, number: u64, audit: &mut Audit) {
        let (Slot::Leaf(base, _) | Slot::Marked(base)) = Self::read(slot.load(Ordering::Acquire), level) else {
            return;
        };
        let half = vm.alias(Gfn::new(0)).unwrap_or(0);
        let gfn = Gfn::new(number & !half);
        let frames = 1 << level_shift(level);
        let step = match self.lock(base) {
            Ok(block) if block.whole().is_some() => frames,
            _ => 1,
        };
        for index in (0..frames).step_by(step as usize) {
            let record = self.lookup(base.offset(index));
            let justified = (record.owner, record.gfn) == (Some(vm.id()), gfn.offset(index));
            audit.check(justified, Violation::Stray(vm.id(), number + index));
        }
    }
}
