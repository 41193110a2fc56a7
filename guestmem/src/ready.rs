//! The quick ways of what guests do by the thousand, one page at a time: when the page has a record and an entry of its own, all
//! is there that the operation needs, and nothing is in the way. Nearly every page that a guest converts on its own is the
//! neighbour of one that it has converted before, so it is nearly always so.
//!
//! One look at the record as it is stored tells: it has to be that of this guest's page, unpinned, in one of the states from which
//! the transition table leads to the one that is wanted. Whatever else is found changes nothing and gives no reason. The long
//! ways find it again.

use crate::block::Block;
use crate::guest::{Guest, counter};
use crate::record::{Record, State};
use crate::sync::{AtomicU64, Ordering, Word};
use crate::table::{BLOCK_LEVEL, PAGE_LEVEL, Slot};
use crate::transition::{Event, sources};
use crate::{Core, Gfn, Machine, Pfn, Visibility};

/// What [`Core::find_ready`] has found.
struct Found<'a> {
    /// The 2 MiB entry, and what it said.
    over: &'a Word,
    seen: u64,
    /// The page's entry in the private half.
    private: &'a Word,
    frame: Pfn,
    /// The block's lock, and its value.
    cell: &'a AtomicU64,
    word: u64,
}

impl Found<'_> {
    /// Whether it is all still so under the lock, and the page has a record of its own, is in one of these states, a bit each,
    /// and not pinned. Until then the page could move, the table become another's, and the VM end.
    #[inline(always)]
    fn is_ready<M: Machine>(&self, vm: &Guest, gfn: Gfn, block: &Block<'_, M>, states: u16) -> bool {
        self.over.load(Ordering::Acquire) == self.seen
            && vm.check_live().is_ok()
            && block.holds(self.frame, Record::identity(vm.id(), gfn), states)
    }
}

impl<M: Machine> Core<M> {
    /// Converts one page of a guest that has a shared half. False, and nothing changed, where it is not ready for that or is as
    /// wanted already: [`Core::convert`] finds out.
    #[inline(always)]
    pub fn convert_ready(&self, vm: &Guest, gfn: Gfn, to: Visibility) -> bool {
        match to {
            Visibility::Shared => self.share_ready(vm, gfn),
            Visibility::Private => self.unshare_ready(vm, gfn),
        }
    }

    #[inline(never)]
    fn share_ready(&self, vm: &Guest, gfn: Gfn) -> bool {
        const FROM: u16 = sources(Event::Share, State::Shared);
        self.turn_ready(vm, gfn, Visibility::Shared, FROM, State::Shared).is_some()
    }

    #[inline(never)]
    fn unshare_ready(&self, vm: &Guest, gfn: Gfn) -> bool {
        const FROM: u16 = sources(Event::Unshare, State::Private);
        const { assert!(sources(Event::Defer, State::Pending) == 1 << State::Private as u16) }
        let state = if vm.layout().accepts { State::Pending } else { State::Private };
        self.turn_ready(vm, gfn, Visibility::Private, FROM, state).is_some()
    }

    /// Accepts one page that waits for it. False, and nothing changed, where none does: [`Core::accept`] finds out.
    #[inline(never)]
    pub fn accept_ready(&self, vm: &Guest, gfn: Gfn) -> bool {
        let Some(found) = self.find_ready(vm, gfn) else { return false };
        let mut block = Block::locked(self, found.cell, found.word, found.frame.block_start());
        let state = State::Private;
        if !found.is_ready(vm, gfn, &block, const { sources(Event::Accept, State::Private) }) {
            return false;
        }
        found.private.store(Self::guest_leaf(found.frame, PAGE_LEVEL, Visibility::Private), Ordering::Release);
        self.machine.publish();
        // It was wiped when it was taken back.
        block.set(found.frame, Record { state, owner: Some(vm.id()), gfn, count: 0, wiped: true });
        true
    }

    /// Turns a page `to` shared or private: from one of the states in `sources`, a bit each, to `state`.
    #[inline(always)]
    fn turn_ready(&self, vm: &Guest, gfn: Gfn, to: Visibility, sources: u16, state: State) -> Option<()> {
        let found = self.find_ready(vm, gfn)?;
        let mut block = Block::locked(self, found.cell, found.word, found.frame.block_start());
        if !found.is_ready(vm, gfn, &block, sources) {
            return None;
        }
        let alias = vm.alias(gfn)?;
        let shared = self.page_in(self.over_alive(vm, Visibility::Shared, alias)?, gfn)?;
        let wish = self.wish_alive(vm, gfn)?;
        let record = Record { state, owner: Some(vm.id()), gfn, count: 0, wiped: true };
        self.exchange(vm, &mut block, found.frame, record, to, (found.private, gfn.get()), (shared, alias));
        wish.set(to);
        let counter = if to == Visibility::Shared { counter::SHARES } else { counter::UNSHARES };
        vm.count(counter, found.frame, 1);
        Some(())
    }

    /// The page of a guest that has an entry of its own in the private half, and its block's lock as it comes. The caller
    /// makes a [`Block`] of it at once, and asks [`Found::is_ready`]. None where there is more to it.
    #[inline(always)]
    fn find_ready(&self, vm: &Guest, gfn: Gfn) -> Option<Found<'_>> {
        if !vm.layout().ram.contains(&gfn) {
            return None;
        }
        let over = self.over(vm, Visibility::Private, gfn)?;
        let seen = over.load(Ordering::Acquire);
        let Slot::Table(table) = Self::read(seen, BLOCK_LEVEL) else { return None };
        let private = self.entry(table, gfn.get())?;
        let frame = Self::frame_in(private)?;
        let (cell, word) = self.lock_cell_at_once(frame)?;
        Some(Found { over, seen, private, frame, cell, word })
    }
}
