//! Pages and VMs that come to an end: relinquished, reclaimed, poisoned; and metadata for vCPUs.

use crate::block::Block;
use crate::convert::Lack;
use crate::guest::{Guest, Life, VmLock, counter};
use crate::motion::{Cut, Flushed};
use crate::record::{Record, State};
use crate::sync::Ordering;
use crate::transition::{Event, permit};
use crate::{BLOCK_FRAMES, Budget, Core, Gfn, Machine, Pfn, Progress, Refusal, Size, TableFormat};

/// Cost of a look at 512 frame records, in units of [`Budget`].
const LEAF_UNITS: u64 = 64;

impl<M: Machine> Core<M> {
    /// Gives a guest's page back to the host: wiped if it was private. Pins of a shared page stay, as the host's.
    ///
    /// # Errors
    /// [`Refusal::OutOfRange`], [`Refusal::Absent`], [`Refusal::Busy`], [`Refusal::NoPool`], [`Refusal::NoMeta`],
    /// [`Refusal::Poisoned`], [`Refusal::Dying`].
    pub fn relinquish(&self, vm: &Guest, gfn: Gfn) -> Result<(), Refusal> {
        match self.relinquish_with(vm, gfn, None) {
            Ok(()) => Ok(()),
            Err(Lack::Refused(refusal)) => Err(refusal),
            Err(Lack::Structure) => match self.relinquish_with(vm, gfn, Some(&vm.try_lock()?)) {
                Ok(()) => Ok(()),
                Err(Lack::Refused(refusal)) => Err(refusal),
                Err(Lack::Structure) => Err(Refusal::Busy),
            },
        }
    }

    fn relinquish_with(&self, vm: &Guest, gfn: Gfn, structure: Option<&VmLock<'_>>) -> Result<(), Lack> {
        let (mut block, frame, record) = self.resolve(vm, gfn)?;
        let state = permit(record, Event::Relinquish, Some(vm.id()))?;
        let alias = if record.state == State::Shared { vm.alias(gfn) } else { None };
        self.check_structure(vm, gfn, alias, false, structure)?;
        let reserve = block.reserve()?;

        block.split(reserve);
        let slots = self.page_slots(vm, gfn, alias, false, structure).ok_or(Lack::Refused(Refusal::Busy))?;
        let flushed = self.flush(slots.cut(self, vm, frame, Cut::new(frame, Size::Page)), frame);
        self.count_out(vm, frame, record.state, 1);
        slots.private.0.store(0, Ordering::Release);
        self.hand_back(&mut block, frame, record, state, flushed);
        block.merge(frame);
        Ok(())
    }

    /// Makes a page the host's: `state` follows from what happened to it, by way of [`State::Returning`] when it has to be
    /// wiped. What was shared is not, and keeps its pins.
    fn hand_back(&self, block: &mut Block<'_, M>, frame: Pfn, record: Record, state: State, flushed: Flushed) {
        let host = Record { count: record.pins(), ..Record::plain(State::Host) };
        if record.state == State::Shared {
            block.assign(flushed.seen(), host);
            return;
        }
        let returning = Record { state, count: 0, ..record };
        if state == State::Returning && permit(returning, Event::Return, record.owner) != Ok(State::Host) {
            return;
        }
        let clean = flushed.wipe(&self.machine);
        self.count_wipes(frame, 1);
        block.map_host(&clean);
        self.machine.publish();
        block.assign(clean, Record { wiped: true, ..host });
    }

    /// Notes that frames left a VM.
    fn count_out(&self, vm: &Guest, frame: Pfn, from: State, frames: u64) {
        match from {
            State::Private | State::Pending | State::Opening => vm.count(counter::PRIVATE_OUT, frame, frames),
            State::Shared | State::Closing => vm.count(counter::SHARED_OUT, frame, frames),
            _ => {}
        }
    }

    /// The VM gets nothing more and converts nothing more.
    pub fn kill(&self, vm: &Guest) {
        let structure = vm.lock();
        if vm.life() < Life::Dying {
            vm.set_life(&structure, Life::Dying);
        }
    }

    /// Takes back what a VM has: first its frames, wiped unless the host could see them, then its metadata. Repeat until
    /// it is done; every call gets further. None of the VM's vCPUs may run any more; the first call cuts its root table
    /// and flushes its translations, so none could reach its memory either.
    pub fn reclaim(&self, vm: &Guest, budget: &mut Budget) -> Progress {
        budget.begin();
        self.kill(vm);
        let structure = vm.lock();
        if vm.life() == Life::Dying {
            self.cut_root(vm);
            vm.set_life(&structure, Life::Frames);
        }
        if vm.life() == Life::Frames {
            if self.sweep(vm, budget, Self::reclaim_frames) == Progress::More {
                return Progress::More;
            }
            // Every operation on the VM's tables holds the lock of a block in which the VM has a frame, and there is
            // none left: nobody uses the tables any more.
            vm.forget_lists();
            vm.bitmap.store(0, Ordering::Release);
            vm.set_life(&structure, Life::Meta);
        }
        if vm.life() == Life::Meta {
            if self.sweep(vm, budget, Self::reclaim_meta) == Progress::More {
                return Progress::More;
            }
            vm.set_life(&structure, Life::Gone);
        }
        Progress::Done
    }

    /// Empties the root table as far as it was given, and flushes everything that was translated through it.
    fn cut_root(&self, vm: &Guest) {
        for frame in (0..M::Format::ROOT_FRAMES).map(|index| vm.root().offset(index)) {
            let record = self.lookup(frame);
            if (record.state, record.owner) == (State::Meta, Some(vm.id())) {
                self.machine.wipe(frame);
            }
        }
        self.machine.publish();
        self.machine.flush_all(vm.space());
        self.tally.add(crate::database::counter::FLUSHES, 0, 1);
    }

    /// Passes every block of RAM to `step`, from where the last call stopped.
    fn sweep(
        &self,
        vm: &Guest,
        budget: &mut Budget,
        step: fn(&Self, &Guest, &mut Block<'_, M>, &mut Budget) -> Progress,
    ) -> Progress {
        let mut cursor = vm.cursor.load(Ordering::Relaxed);
        let mut before = 0;
        for span in self.spans() {
            while cursor - before < span.blocks {
                if !budget.look(&self.machine, 1) {
                    return Progress::More;
                }
                let first = Pfn::new((span.first + cursor - before) * BLOCK_FRAMES);
                if let Ok(mut block) = self.lock(first)
                    && step(self, vm, &mut block, budget) == Progress::More
                {
                    return Progress::More;
                }
                cursor += 1;
                vm.cursor.store(cursor, Ordering::Relaxed);
            }
            before += span.blocks;
        }
        vm.cursor.store(0, Ordering::Relaxed);
        Progress::Done
    }

    /// Returns the VM's frames in one block. A block that is wiped in several calls is found as it was left.
    fn reclaim_frames(&self, vm: &Guest, block: &mut Block<'_, M>, budget: &mut Budget) -> Progress {
        let first = block.first();
        if let Some(record) = block.whole() {
            if record.owner != Some(vm.id()) {
                return Progress::Done;
            }
            match permit(record, Event::Reclaim, Some(vm.id())) {
                Ok(State::Host) => {
                    self.count_out(vm, first, record.state, BLOCK_FRAMES);
                    block.set_whole(Record::plain(State::Host));
                    return Progress::Done;
                }
                Ok(state) => {
                    self.count_out(vm, first, record.state, BLOCK_FRAMES);
                    block.set_whole(Record { state, count: 0, ..record });
                }
                Err(_) => {}
            }
            return self.push_on(vm, block, budget);
        }
        budget.charge(LEAF_UNITS);
        let (mut next, mut last) = (first, None);
        while let Some(frame) = block.next_of(vm.id(), next) {
            next = frame.offset(1);
            let record = block.record(frame);
            if record.state == State::Meta {
                continue;
            }
            if !budget.frame(&self.machine) {
                return Progress::More;
            }
            self.reclaim_frame(vm, block, frame, record);
            last = Some(frame);
        }
        if let Some(last) = last {
            block.merge(last);
        }
        Progress::Done
    }

    fn reclaim_frame(&self, vm: &Guest, block: &mut Block<'_, M>, frame: Pfn, record: Record) {
        let Ok(state) = permit(record, Event::Reclaim, Some(vm.id())) else { return };
        if state == State::Poisoned {
            block.set(frame, Record::plain(state));
            return;
        }
        if record.state == State::Moving && !record.wiped {
            vm.loading.fetch_sub(1, Ordering::Relaxed);
        }
        self.count_out(vm, frame, record.state, 1);
        // Cut and flushed with the whole VM, in `cut_root`, or before in the case of a frame in motion.
        let flushed = self.flush(Cut::new(frame, Size::Page), frame);
        self.hand_back(block, frame, record, state, flushed);
    }

    /// Returns the VM's metadata in one block.
    fn reclaim_meta(&self, vm: &Guest, block: &mut Block<'_, M>, budget: &mut Budget) -> Progress {
        if block.whole().is_some() {
            return Progress::Done;
        }
        budget.charge(LEAF_UNITS);
        let (mut next, mut last) = (block.first(), None);
        while let Some(frame) = block.next_of(vm.id(), next) {
            next = frame.offset(1);
            let record = block.record(frame);
            let Ok(state) = permit(record, Event::ReturnMeta, Some(vm.id())) else { continue };
            if !budget.frame(&self.machine) {
                return Progress::More;
            }
            self.return_meta(vm, block, frame, record, state);
            last = Some(frame);
        }
        if let Some(last) = last {
            block.merge(last);
        }
        Progress::Done
    }

    /// Takes a frame of metadata back from a VM that has been killed and never had anything else: it is in no table, and
    /// no vCPU ever used one. For a creation that fails half way.
    ///
    /// # Errors
    /// [`Refusal::Busy`] when the VM was not killed, or is being reclaimed; [`Refusal::NotOwner`] when the frame is not its
    /// metadata.
    pub fn withdraw_meta(&self, vm: &Guest, frame: Pfn) -> Result<(), Refusal> {
        let _structure = vm.lock();
        if vm.life() != Life::Dying {
            return Err(Refusal::Busy);
        }
        vm.forget_lists();
        let mut block = self.lock(frame)?;
        let record = block.record(frame);
        let state = permit(record, Event::ReturnMeta, Some(vm.id()))?;
        self.return_meta(vm, &mut block, frame, record, state);
        block.merge(frame);
        Ok(())
    }

    fn return_meta(&self, vm: &Guest, block: &mut Block<'_, M>, frame: Pfn, record: Record, state: State) {
        let flushed = self.flush(Cut::new(frame, Size::Page), frame);
        self.hand_back(block, frame, record, state, flushed);
        vm.uncount_meta();
    }

    /// Takes a zeroed frame of the VM's metadata, for vCPU state.
    ///
    /// # Errors
    /// [`Refusal::NoMeta`], [`Refusal::Dying`].
    pub fn alloc_meta(&self, vm: &Guest) -> Result<Pfn, Refusal> {
        let structure = vm.lock();
        vm.check_live()?;
        let frame = vm.take_meta(&self.machine, &structure).ok_or(Refusal::NoMeta)?;
        let mut block = self.lock(frame)?;
        let record = block.record(frame);
        block.set(frame, Record { count: 1, ..record });
        Ok(frame)
    }

    /// Puts back a frame of [`Core::alloc_meta`], wiped.
    ///
    /// # Errors
    /// [`Refusal::NotOwner`] when it is not a frame of this VM's metadata, [`Refusal::Underflow`] when it is not in use
    /// as such, [`Refusal::Dying`].
    pub fn free_meta(&self, vm: &Guest, frame: Pfn) -> Result<(), Refusal> {
        let _structure = vm.lock();
        vm.check_live()?;
        let mut block = self.lock(frame)?;
        let record = block.record(frame);
        if (record.state, record.owner) != (State::Meta, Some(vm.id())) {
            return Err(Refusal::NotOwner(record.state));
        }
        if record.count == 0 {
            return Err(Refusal::Underflow);
        }
        self.machine.wipe(frame);
        block.set(frame, Record { count: 0, ..record });
        vm.meta.push(&self.machine, frame);
        Ok(())
    }

    /// Takes a frame that failed in hardware out of all tables, for good. `vm` is the owner in the frame's record, if it
    /// has one.
    ///
    /// # Errors
    /// [`Refusal::NotOwner`] when the frame is Postern's or metadata (there is no going on without it) or `vm` is not its
    /// owner; [`Refusal::Busy`] while its block is in motion; [`Refusal::NoPool`]; [`Refusal::NoMeta`].
    pub fn poison(&self, frame: Pfn, vm: Option<&Guest>) -> Result<(), Refusal> {
        let structure = vm.map(Guest::lock);
        let mut block = self.lock(frame)?;
        let record = block.record(frame);
        let state = permit(record, Event::Poison, None)?;
        if record.state == State::Poisoned {
            return Ok(());
        }
        if record.owner != vm.map(Guest::id) {
            return Err(Refusal::NotOwner(record.state));
        }
        if record.state == State::Moving && block.whole().is_some() {
            return Err(Refusal::Busy);
        }
        let alias = vm.filter(|_| record.state == State::Shared).and_then(|vm| vm.alias(record.gfn));
        let live = vm.filter(|vm| vm.check_live().is_ok());
        if let Some(vm) = live {
            match self.check_structure(vm, record.gfn, alias, false, structure.as_ref()) {
                Ok(()) => {}
                Err(Lack::Refused(refusal)) => return Err(refusal),
                Err(Lack::Structure) => return Err(Refusal::Busy),
            }
        }
        let reserve = block.reserve()?;

        block.split(reserve);
        let mut cut = if record.host_may_access() { block.cut_page(frame) } else { Cut::new(frame, Size::Page) };
        if let Some(vm) = live
            && let Some(slots) = self.page_slots(vm, record.gfn, alias, false, structure.as_ref())
        {
            cut = slots.cut(self, vm, frame, cut);
        }
        let _never_used_again = self.flush(cut, frame);
        if let Some(vm) = vm {
            self.count_out(vm, frame, record.state, 1);
            if record.state == State::Moving && !record.wiped {
                vm.loading.fetch_sub(1, Ordering::Relaxed);
            }
        }
        block.set(frame, Record { state, count: 0, ..record });
        Ok(())
    }

    /// Whether `gfn` has something in it.
    pub fn is_populated(&self, vm: &Guest, gfn: Gfn) -> bool {
        vm.check_range(gfn, 1).is_ok() && self.frame_at(vm, gfn).is_some()
    }
}
