//! Conversion of whole guest blocks, and of ranges.
//!
//! A block that is in one piece in the database is converted in one piece: its mapping goes, its frames are wiped a
//! budget at a time, and then it appears in the other half, never having been split.

use crate::block::Block;
use crate::guest::{Guest, counter};
use crate::motion::{Clean, Cut, Flushed};
use crate::record::{Record, State};
use crate::sync::Ordering;
use crate::table::{BLOCK_LEVEL, Slot};
use crate::transition::{Event, permit};
use crate::{BLOCK_FRAMES, Budget, Core, Gfn, Machine, Progress, Refusal, Size, Visibility};
use core::ops::Range;

/// Cost of a look at a block's records or bits, in units of [`Budget`].
const BLOCK_UNITS: u64 = 8;

impl<M: Machine> Core<M> {
    /// Continues to wipe a whole block in motion, and completes its motion when all is wiped.
    pub(crate) fn push_on(&self, vm: &Guest, block: &mut Block<'_, M>, budget: &mut Budget) -> Progress {
        let Some(record) = block.whole() else { return Progress::Done };
        let Some(flushed) = Flushed::resumed(block.first(), Size::Block, record) else { return Progress::Done };
        let before = u64::from(record.count);
        match flushed.wipe_some(&self.machine, budget) {
            Err(done) => {
                self.count_wipes(block.first(), done - before);
                block.set_whole(Record { count: done as u16, ..record });
                Progress::More
            }
            Ok(clean) => {
                self.count_wipes(block.first(), BLOCK_FRAMES - before);
                self.arrive(vm, block, clean, record);
                Progress::Done
            }
        }
    }

    fn arrive(&self, vm: &Guest, block: &mut Block<'_, M>, clean: Clean, record: Record) {
        let aliased = vm.layout().alias.is_some();
        let (event, counter) = match record.state {
            State::Opening => (Event::Opened, counter::SHARES),
            State::Closing => (Event::Closed, counter::UNSHARES),
            State::Returning => (Event::Return, counter::PRIVATE_OUT),
            _ if aliased && self.wanted(vm, record.gfn) == Visibility::Shared => {
                (Event::ArriveShared, counter::SHARED_IN)
            }
            _ => (Event::Arrive, counter::PRIVATE_IN),
        };
        let Ok(state) = permit(record, event, Some(vm.id())) else { return };
        // What the host gives never waits to be accepted; only what was taken back from it does.
        let taken = if event == Event::Closed { self.taken_back(vm, record, state) } else { Ok(state) };
        let Ok(state) = taken else { return };
        if state == State::Host {
            block.map_host(&clean);
            block.assign(clean, Record { wiped: true, ..Record::plain(state) });
            self.machine.publish();
            return;
        }
        if state != State::Pending
            && let Some(entries) = self.block_slots(vm, record.gfn)
        {
            entries.map(self, block.first(), state);
        }
        if state == State::Shared {
            block.map_host(&clean);
        }
        block.assign(clean, Record { state, count: 0, wiped: true, ..record });
        self.machine.publish();
        vm.count(counter, block.first(), BLOCK_FRAMES);
    }

    /// Turns a range of a guest's RAM private or shared. What is so already keeps its content; the rest is wiped, or
    /// will arrive so when it is not populated yet. Returns the first guest frame that is not done, which is further on
    /// than `gfns.start`: repeat from there. A block that is only partly done is accessible to nobody until it is
    /// complete, whether by this call or by a fault.
    ///
    /// # Errors
    /// When nothing could be done, as [`Core::share`] and [`Core::unshare`] at `gfns.start`.
    pub fn convert(&self, vm: &Guest, gfns: Range<Gfn>, to: Visibility, budget: &mut Budget) -> Result<Gfn, Refusal> {
        if gfns.end.since(gfns.start) == 1 {
            match self.convert_page(vm, gfns.start, to) {
                Ok(()) => return Ok(gfns.end),
                // If its block is in motion, that has had its share of this call.
                Err(Refusal::Busy) => return Err(Refusal::Busy),
                Err(_) => {}
            }
        }
        self.convert_range(vm, gfns, to, budget)
    }

    /// Converts one page if it is not as wanted.
    fn convert_page(&self, vm: &Guest, gfn: Gfn, to: Visibility) -> Result<(), Refusal> {
        let done = match to {
            Visibility::Shared => self.share(vm, gfn),
            Visibility::Private => self.unshare(vm, gfn),
        };
        if done == Err(Refusal::WrongVisibility) { Ok(()) } else { done }
    }

    fn convert_range(&self, vm: &Guest, gfns: Range<Gfn>, to: Visibility, budget: &mut Budget) -> Result<Gfn, Refusal> {
        let frames = gfns.end.since(gfns.start);
        if frames == 0 {
            return Err(Refusal::OutOfRange);
        }
        vm.check_range(gfns.start, frames)?;
        vm.check_live()?;
        budget.begin();
        let mut at = gfns.start;
        while at < gfns.end {
            match self.convert_part(vm, at..gfns.end, to, budget) {
                Ok(next) if next > at => at = next,
                Err(refusal) if at == gfns.start => return Err(refusal),
                _ => break,
            }
        }
        Ok(at)
    }

    /// Converts up to the end of one block, or skips a run that is as wanted. Returns the start when the budget is used
    /// up.
    fn convert_part(&self, vm: &Guest, gfns: Range<Gfn>, to: Visibility, budget: &mut Budget) -> Result<Gfn, Refusal> {
        if !budget.look(&self.machine, BLOCK_UNITS) {
            return Ok(gfns.start);
        }
        if vm.layout().alias.is_none() {
            return self.convert_pages(vm, gfns, to, budget);
        }
        let start = gfns.start.block_start();
        let past = start.offset(BLOCK_FRAMES);
        let slot = self.over(vm, Visibility::Private, start);
        let slot = slot.map_or(Slot::Empty, |slot| Self::read(slot.load(Ordering::Acquire), BLOCK_LEVEL));
        if let Slot::Marked(_) = slot
            && let Some(done) = self.meet_motion(vm, start, to, budget)?
        {
            // Somebody asks for more than is done: it was not this caller who began. All answers say progress.
            return if done > gfns.start { Ok(done.min(gfns.end)) } else { Err(Refusal::Busy) };
        }
        let (wanted, same) = self.wanted_run(vm, gfns.clone());
        if wanted == to {
            return Ok(same);
        }
        let part = gfns.start..past.min(gfns.end);
        if slot == Slot::Empty {
            return self.convert_absent(vm, part, to);
        }
        if part.end.since(part.start) == BLOCK_FRAMES
            && let Some(done) = self.turn_block(vm, start, to, budget)?
        {
            return Ok(done);
        }
        self.convert_pages(vm, part, to, budget)
    }

    /// Pushes on a block that is being converted already. Returns how far it is if that was towards `to`, nothing if it
    /// is at rest now.
    fn meet_motion(&self, vm: &Guest, start: Gfn, to: Visibility, budget: &mut Budget) -> Result<Option<Gfn>, Refusal> {
        let Some(first) = self.frame_at(vm, start) else { return Ok(None) };
        let mut block = self.try_lock(first)?;
        let Some(record) = block.whole() else { return Ok(None) };
        if record.owner != Some(vm.id()) || record.gfn != start {
            return Ok(None);
        }
        vm.check_live()?;
        let towards = match record.state {
            State::Opening => Visibility::Shared,
            State::Closing => Visibility::Private,
            State::Moving => return Err(Refusal::Busy),
            _ => return Ok(None),
        };
        match (self.push_on(vm, &mut block, budget), towards == to) {
            (Progress::Done, true) => Ok(Some(start.offset(BLOCK_FRAMES))),
            (Progress::Done, false) => Ok(None),
            (Progress::More, true) => Ok(block.whole().map(|record| start.offset(u64::from(record.count)))),
            (Progress::More, false) => Err(Refusal::Busy),
        }
    }

    /// Notes what the guest wants of part of a block that is not populated at all.
    fn convert_absent(&self, vm: &Guest, part: Range<Gfn>, to: Visibility) -> Result<Gfn, Refusal> {
        let structure = vm.try_lock()?;
        vm.check_live()?;
        let slot = self.over(vm, Visibility::Private, part.start);
        if slot.is_some_and(|slot| slot.load(Ordering::Acquire) != 0) {
            return Err(Refusal::Busy);
        }
        self.check_wish(vm, to)?;
        if to == Visibility::Shared {
            self.wanted_extend(vm, &structure, part.start)?;
        }
        self.set_wanted(vm, part.clone(), to);
        Ok(part.end)
    }

    fn convert_pages(&self, vm: &Guest, part: Range<Gfn>, to: Visibility, budget: &mut Budget) -> Result<Gfn, Refusal> {
        let aliased = vm.layout().alias.is_some();
        let mut at = part.start;
        while at < part.end {
            if !(aliased && self.wanted(vm, at) == to) {
                if !budget.frame(&self.machine) {
                    break;
                }
                let done = match to {
                    Visibility::Shared => self.share(vm, at),
                    Visibility::Private => self.unshare(vm, at),
                };
                match done {
                    Ok(()) | Err(Refusal::WrongVisibility) => {}
                    Err(refusal) if at == part.start => return Err(refusal),
                    Err(_) => break,
                }
            }
            at = at.offset(1);
        }
        Ok(at)
    }

    /// Begins to convert a block of guest addresses in one piece, if it is one piece of memory. Returns how far it got.
    fn turn_block(&self, vm: &Guest, start: Gfn, to: Visibility, budget: &mut Budget) -> Result<Option<Gfn>, Refusal> {
        let structure = vm.try_lock()?;
        vm.check_live()?;
        let Some(first) = self.frame_at(vm, start).filter(|first| first.is_aligned(Size::Block)) else {
            return Ok(None);
        };
        let mut block = self.try_lock(first)?;
        if !block.merge(first) {
            return Ok(None);
        }
        let Some(record) = block.whole().filter(|it| (it.owner, it.gfn) == (Some(vm.id()), start)) else {
            return Ok(None);
        };
        let event = match to {
            Visibility::Shared => Event::Open,
            Visibility::Private => Event::Close,
        };
        let state = permit(record, event, Some(vm.id()))?;
        let alias = vm.alias(start).ok_or(Refusal::OutOfRange)?;
        let pages = if to == Visibility::Shared { self.wanted_missing(vm, start) } else { 0 };
        vm.check_meta(&structure, self.missing(vm.root(), alias, BLOCK_LEVEL), pages)?;
        self.extend(vm, &structure, Visibility::Shared, start, BLOCK_LEVEL)?;
        if to == Visibility::Shared {
            self.wanted_extend(vm, &structure, start)?;
        }
        let entries = self.block_slots(vm, start).ok_or(Refusal::Busy)?;

        let cut = match to {
            Visibility::Shared => Cut::new(first, Size::Block),
            Visibility::Private => block.cut_whole(),
        };
        let (cut, tables) = entries.detach(self, vm, first, cut);
        let _resumed_by_push_on = self.flush(cut, first);
        vm.put_tables(&self.machine, tables);
        self.set_wanted(vm, start..start.offset(BLOCK_FRAMES), to);
        block.set_whole(Record { state, count: 0, ..record });
        drop(structure);
        match self.push_on(vm, &mut block, budget) {
            Progress::Done => Ok(Some(start.offset(BLOCK_FRAMES))),
            Progress::More => Ok(block.whole().map(|record| start.offset(u64::from(record.count)))),
        }
    }
}
