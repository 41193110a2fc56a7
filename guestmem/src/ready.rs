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
use crate::sync::{Ordering, Word};
use crate::table::{BLOCK_LEVEL, PAGE_LEVEL, Slot};
use crate::transition::{Event, sources};
use crate::{Core, Gfn, Machine, Pfn, Visibility};

/// A page that is ready, with its block's lock held.
struct Ready<'a, M: Machine> {
    block: Block<'a, M>,
    frame: Pfn,
    /// Its entry in the private half.
    private: &'a Word,
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
        const FROM: u16 = sources(Event::Accept, State::Private);
        let Some(Ready { mut block, frame, private }) = self.lock_ready(vm, gfn, FROM) else { return false };
        private.store(Self::guest_leaf(frame, PAGE_LEVEL, Visibility::Private), Ordering::Release);
        self.machine.publish();
        // It was wiped when it was taken back.
        block.set(frame, Record { state: State::Private, owner: Some(vm.id()), gfn, count: 0, wiped: true });
        true
    }

    /// Turns a page `to` shared or private: from one of the states in `sources`, a bit each, to `state`.
    #[inline(always)]
    fn turn_ready(&self, vm: &Guest, gfn: Gfn, to: Visibility, sources: u16, state: State) -> Option<()> {
        let Ready { mut block, frame, private } = self.lock_ready(vm, gfn, sources)?;
        let alias = vm.alias(gfn)?;
        let shared = self.page_in(self.over_alive(vm, Visibility::Shared, alias)?, gfn)?;
        let wish = self.wish_alive(vm, gfn)?;
        let record = Record { state, owner: Some(vm.id()), gfn, count: 0, wiped: true };
        self.exchange(vm, &mut block, frame, record, to, (private, gfn.get()), (shared, alias));
        wish.set(to);
        let counter = if to == Visibility::Shared { counter::SHARES } else { counter::UNSHARES };
        vm.count(counter, frame, 1);
        Some(())
    }

    /// The page of a guest that has a record and an entry of its own, is in one of these states, a bit each, and not pinned. None
    /// where there is more to it, or another CPU has the block's lock.
    #[inline(always)]
    fn lock_ready(&self, vm: &Guest, gfn: Gfn, states: u16) -> Option<Ready<'_, M>> {
        if !vm.layout().ram.contains(&gfn) {
            return None;
        }
        let over = self.over(vm, Visibility::Private, gfn)?;
        let seen = over.load(Ordering::Acquire);
        let Slot::Table(table) = Self::read(seen, BLOCK_LEVEL) else { return None };
        let private = self.entry(table, gfn.get())?;
        let frame = Self::frame_in(private)?;
        let (cell, word) = self.lock_cell_at_once(frame)?;
        let block = Block::locked(self, cell, word, frame.block_start());
        // Until now the page could move, the table be put aside, and the VM end.
        let same = over.load(Ordering::Acquire) == seen && vm.check_live().is_ok();
        if same && block.holds(frame, Record::identity(vm.id(), gfn), states) {
            Some(Ready { block, frame, private })
        } else {
            None
        }
    }
}
