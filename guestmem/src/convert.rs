//! Pages that a guest shares with the host and takes back.

use crate::block::Block;
use crate::entries::At;
use crate::guest::{Guest, VmLock, counter};
use crate::motion::{Cut, Flushed};
use crate::record::{Record, State};
use crate::sync::{AtomicU64, Ordering};
use crate::table::PAGE_LEVEL;
use crate::transition::{Event, permit};
use crate::{Budget, Core, FRAME_SHIFT, Gfn, Machine, Pfn, Refusal, Size, Visibility};

/// Frames that a call which meets a block in motion wipes on its behalf.
const PUSH_FRAMES: u64 = 32;

/// What a page operation found lacking when it ran without the structure lock.
pub(crate) enum Lack {
    /// Tables or bitmap pages: try again with the lock.
    Structure,
    /// It cannot be done.
    Refused(Refusal),
}

impl From<Refusal> for Lack {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<M: Machine> Core<M> {
    /// Finds the frame at a guest address and locks its block. The record has been checked: it is this VM's, and this
    /// address is its. A block in motion is pushed on, and answered with [`Refusal::Busy`].
    pub(crate) fn resolve(&self, vm: &Guest, gfn: Gfn) -> Result<(Block<'_, M>, Pfn, Record), Refusal> {
        let (frame, cell, word) = self.find(vm, gfn)?;
        let mut block = Block::locked(self, cell, word, frame.block_start());
        let record = block.record(frame);
        self.admit(vm, gfn, &record, &mut block)?;
        Ok((block, frame, record))
    }

    /// First half of [`Core::resolve`]: the frame, and its block's lock as it comes. Split off because moving a [`Block`] out of
    /// a result costs more than the look-up, and [`Core::turn_in_place`] has to be fast.
    #[inline(always)]
    fn find(&self, vm: &Guest, gfn: Gfn) -> Result<(Pfn, &AtomicU64, u64), Refusal> {
        vm.check_range(gfn, 1)?;
        let Some(frame) = self.frame_at(vm, gfn) else {
            return Err(vm.check_live().err().unwrap_or(Refusal::Absent));
        };
        let (cell, word) = self.try_lock_cell(frame)?;
        Ok((frame, cell, word))
    }

    /// Second half of [`Core::resolve`].
    #[inline(always)]
    fn admit(&self, vm: &Guest, gfn: Gfn, record: &Record, block: &mut Block<'_, M>) -> Result<(), Refusal> {
        if record.owner != Some(vm.id()) || record.gfn != gfn {
            // The page moved between the walk and the lock: whoever asked looks again.
            return Err(Refusal::Busy);
        }
        vm.check_live()?;
        if matches!(record.state, State::Opening | State::Closing) {
            let _ = self.push_on(vm, block, &mut Budget::new(PUSH_FRAMES));
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// Lets the host access a page of the guest, wiped. With an alias it moves to the shared half; a page that is not
    /// populated yet will arrive there. Without one the guest's mapping stays as it is.
    ///
    /// # Errors
    /// [`Refusal::OutOfRange`], [`Refusal::Absent`] (no alias and not populated), [`Refusal::WrongVisibility`] when it is
    /// shared already, [`Refusal::Busy`], [`Refusal::NoPool`], [`Refusal::NoMeta`], [`Refusal::Poisoned`],
    /// [`Refusal::Dying`].
    #[inline(never)]
    pub fn share(&self, vm: &Guest, gfn: Gfn) -> Result<(), Refusal> {
        self.turn(vm, gfn, Visibility::Shared)
    }

    /// Takes a page back from the host: cut from its tables and flushed, then wiped, then private. A guest that accepts
    /// pages finds nothing there before it has: see [`Core::accept`].
    ///
    /// # Errors
    /// As [`Core::share`]; [`Refusal::WrongVisibility`] when it is private already, [`Refusal::Pinned`];
    /// [`Refusal::Absent`] when the guest accepts pages, and only a page that is there can wait to be accepted.
    #[inline(never)]
    pub fn unshare(&self, vm: &Guest, gfn: Gfn) -> Result<(), Refusal> {
        self.turn(vm, gfn, Visibility::Private)
    }

    // Inlined: the direction is a constant.
    #[inline(always)]
    fn turn(&self, vm: &Guest, gfn: Gfn, to: Visibility) -> Result<(), Refusal> {
        vm.check_range(gfn, 1)?;
        let Some(alias) = vm.alias(gfn) else { return self.turn_in_place(vm, gfn, to) };
        if self.convert_ready(vm, gfn, to) {
            return Ok(());
        }
        match self.turn_aliased(vm, gfn, alias, to, None) {
            Ok(()) => Ok(()),
            Err(Lack::Refused(Refusal::Absent)) => self.turn_absent(vm, gfn, to),
            Err(Lack::Refused(refusal)) => Err(refusal),
            Err(Lack::Structure) => self.turn_with_structure(vm, gfn, to),
        }
    }

    /// Sharing where one address is private and shared: only the host's mapping changes, and nothing is split for it.
    #[inline(always)]
    fn turn_in_place(&self, vm: &Guest, gfn: Gfn, to: Visibility) -> Result<(), Refusal> {
        let (frame, cell, word) = self.find(vm, gfn)?;
        let mut block = Block::locked(self, cell, word, frame.block_start());
        let record = block.record(frame);
        self.admit(vm, gfn, &record, &mut block)?;
        let (event, counter) = match to {
            Visibility::Shared => (Event::Share, counter::SHARES),
            Visibility::Private => (Event::Unshare, counter::UNSHARES),
        };
        let state = permit(record, event, Some(vm.id()))?;
        let reserve = block.reserve()?;

        block.split(reserve);
        let flushed = match to {
            Visibility::Shared => Flushed::stays(frame),
            Visibility::Private => self.flush(block.cut_page(frame), frame),
        };
        let clean = flushed.wipe(&self.machine);
        self.count_wipes(frame, 1);
        if to == Visibility::Shared {
            block.map_host(&clean);
            self.machine.publish();
        }
        block.assign(clean, Record { state, wiped: true, ..record });
        vm.count(counter, frame, 1);
        Ok(())
    }

    #[cold]
    fn turn_with_structure(&self, vm: &Guest, gfn: Gfn, to: Visibility) -> Result<(), Refusal> {
        let alias = vm.alias(gfn).ok_or(Refusal::OutOfRange)?;
        let structure = vm.try_lock()?;
        match self.turn_aliased(vm, gfn, alias, to, Some(&structure)) {
            Ok(()) => Ok(()),
            Err(Lack::Refused(refusal)) => Err(refusal),
            Err(Lack::Structure) => Err(Refusal::Busy),
        }
    }

    /// Notes what the guest wants of a page that is not populated.
    #[cold]
    fn turn_absent(&self, vm: &Guest, gfn: Gfn, to: Visibility) -> Result<(), Refusal> {
        let structure = vm.try_lock()?;
        vm.check_live()?;
        if self.frame_at(vm, gfn).is_some() {
            return Err(Refusal::Busy);
        }
        if self.wanted(vm, gfn) == to {
            return Err(Refusal::WrongVisibility);
        }
        self.check_wish(vm, to)?;
        if to == Visibility::Shared {
            self.wanted_extend(vm, &structure, gfn)?;
        }
        self.set_wanted(vm, gfn..gfn.offset(1), to);
        Ok(())
    }

    /// Refuses a wish that only a page which is there can remember: to be private, but not accepted yet.
    pub(crate) fn check_wish(&self, vm: &Guest, to: Visibility) -> Result<(), Refusal> {
        if vm.layout().accepts && to == Visibility::Private { Err(Refusal::Absent) } else { Ok(()) }
    }

    /// The state of what `vm` has taken back: private, or pending where it has to be accepted.
    #[inline]
    pub(crate) fn taken_back(&self, vm: &Guest, record: Record, state: State) -> Result<State, Refusal> {
        if vm.layout().accepts && state == State::Private {
            return permit(Record { state, count: 0, ..record }, Event::Defer, Some(vm.id()));
        }
        Ok(state)
    }

    /// Sharing with an alias: the page's entry in one half goes and the one in the other comes.
    #[cold]
    fn turn_aliased(
        &self,
        vm: &Guest,
        gfn: Gfn,
        alias: u64,
        to: Visibility,
        structure: Option<&VmLock<'_>>,
    ) -> Result<(), Lack> {
        let (frame, cell, word) = self.find(vm, gfn)?;
        let mut block = Block::locked(self, cell, word, frame.block_start());
        let record = block.record(frame);
        self.admit(vm, gfn, &record, &mut block)?;
        let (event, counter) = match to {
            Visibility::Shared => (Event::Share, counter::SHARES),
            Visibility::Private => (Event::Unshare, counter::UNSHARES),
        };
        let state = self.taken_back(vm, record, permit(record, event, Some(vm.id()))?)?;
        let bit = to == Visibility::Shared;
        self.check_structure(vm, gfn, Some(alias), bit, structure)?;
        let reserve = block.reserve()?;

        block.split(reserve);
        let slots = self.page_slots(vm, gfn, Some(alias), bit, structure).ok_or(Lack::Refused(Refusal::Busy))?;
        let shared = slots.alias.ok_or(Lack::Refused(Refusal::Busy))?;
        self.exchange(vm, &mut block, frame, Record { state, ..record }, to, slots.private, shared);
        self.set_wanted(vm, gfn..gfn.offset(1), to);
        vm.count(counter, frame, 1);
        Ok(())
    }

    /// Moves a page from the half that maps it, if one does, to the other, wiped. Its block has been split.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn exchange(
        &self,
        vm: &Guest,
        block: &mut Block<'_, M>,
        frame: Pfn,
        record: Record,
        to: Visibility,
        (private, gfn): At<'_>,
        (shared, alias): At<'_>,
    ) {
        // What a page that waits to be accepted does not have is flushed with the rest: to look would cost all others more.
        let cut = match to {
            Visibility::Shared => {
                private.store(Self::mark(frame), Ordering::Release);
                Cut::new(frame, Size::Page).at(vm.space(), gfn << FRAME_SHIFT, Size::Page)
            }
            Visibility::Private => {
                shared.store(0, Ordering::Release);
                block.cut_page(frame).at(vm.space(), alias << FRAME_SHIFT, Size::Page)
            }
        };
        let clean = self.flush(cut, frame).wipe(&self.machine);
        self.count_wipes(frame, 1);
        if to == Visibility::Shared {
            shared.store(Self::guest_leaf(frame, PAGE_LEVEL, Visibility::Shared), Ordering::Release);
            block.map_host(&clean);
        } else if record.state != State::Pending {
            private.store(Self::guest_leaf(frame, PAGE_LEVEL, Visibility::Private), Ordering::Release);
        }
        self.machine.publish();
        block.assign(clean, Record { wiped: true, ..record });
    }
}
