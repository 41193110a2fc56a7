//! Frames that the host gives away.

use crate::block::Block;
use crate::entries::BlockSlots;
use crate::guest::{Guest, VmLock, counter};
use crate::motion::{Clean, Cut, Flushed};
use crate::record::{COUNT_MAX, Record, State};
use crate::sync::{Ordering, Word};
use crate::table::{BLOCK_LEVEL, PAGE_LEVEL, Slot};
use crate::transition::{Event, permit};
use crate::{BLOCK_FRAMES, Budget, Core, Gfn, Machine, Pfn, Progress, Refusal, Size, Visibility};

impl<M: Machine> Core<M> {
    /// Takes a frame of the host into Postern's pool. Frames of a block that is split already cost nothing else; the
    /// first one of a block uses up two.
    ///
    /// # Errors
    /// [`Refusal::NotRam`], [`Refusal::NotOwner`], [`Refusal::Pinned`], [`Refusal::NoPool`] when the pool lacks the two
    /// frames to split the block (any frame of a split block will do then).
    pub fn topup(&self, frame: Pfn) -> Result<(), Refusal> {
        let mut block = self.lock(frame)?;
        let state = permit(block.record(frame), Event::Topup, None)?;
        let reserve = block.reserve_keeping(0)?;
        block.split(reserve);
        let clean = self.take_from_host(&mut block, frame);
        block.assign(clean, Record { wiped: true, ..Record::plain(state) });
        self.postern_frames.fetch_add(1, Ordering::Relaxed);
        self.pool.push(&self.machine, frame);
        Ok(())
    }

    /// Takes a frame of the host as metadata of a VM: into its root table where it belongs there, else into its pool.
    ///
    /// # Errors
    /// [`Refusal::NotRam`], [`Refusal::NotOwner`], [`Refusal::Pinned`], [`Refusal::NoPool`], [`Refusal::Dying`];
    /// [`Refusal::OutOfRange`] when the VM's layout or root alignment does not fit the machine's tables.
    pub fn donate_meta(&self, vm: &Guest, frame: Pfn) -> Result<(), Refusal> {
        if !vm.layout_fits::<M>() {
            return Err(Refusal::OutOfRange);
        }
        let structure = vm.lock();
        if vm.is_dying() {
            return Err(Refusal::Dying);
        }
        let mut block = self.lock(frame)?;
        let state = permit(block.record(frame), Event::DonateMeta, None)?;
        let reserve = block.reserve()?;
        block.split(reserve);
        let clean = self.take_from_host(&mut block, frame);
        block.assign(clean, Record { owner: Some(vm.id()), wiped: true, ..Record::plain(state) });
        vm.count_meta();
        if vm.is_root::<M>(frame) {
            vm.count_root::<M>(&structure);
        } else {
            vm.meta.push(&self.machine, frame);
        }
        Ok(())
    }

    /// Gives a frame or a block of the host to a guest, at `gfn`. It arrives zeroed, and shared if that is what the guest
    /// said it wants there. A block that answers [`Progress::More`] is being wiped: repeat with the same arguments.
    ///
    /// # Errors
    /// [`Refusal::NotRam`], [`Refusal::Unaligned`], [`Refusal::OutOfRange`], [`Refusal::NotOwner`],
    /// [`Refusal::Pinned`], [`Refusal::Occupied`], [`Refusal::NoPool`], [`Refusal::NoMeta`], [`Refusal::Dying`];
    /// [`Refusal::WrongVisibility`] when the guest wants part of the block shared and part private.
    pub fn donate(
        &self,
        vm: &Guest,
        frame: Pfn,
        gfn: Gfn,
        size: Size,
        budget: &mut Budget,
    ) -> Result<Progress, Refusal> {
        match size {
            Size::Page => self.donate_pages(vm, frame, gfn, 1).map(|_| Progress::Done),
            Size::Block => {
                vm.check_range(gfn, size.frames())?;
                budget.begin();
                self.donate_block(vm, frame, gfn, budget)
            }
        }
    }

    /// Gives consecutive frames of the host to a guest, at consecutive addresses from `gfn` on, as [`Core::donate`] gives
    /// one. Returns how many: it ends at the first that is refused, and where the frames' 2 MiB block ends. `count` is
    /// taken to be small enough for one call.
    ///
    /// # Errors
    /// As [`Core::donate`], when the first one is refused.
    pub fn donate_pages(&self, vm: &Guest, frame: Pfn, gfn: Gfn, count: u64) -> Result<u64, Refusal> {
        vm.check_range(gfn, 1)?;
        let structure = vm.lock();
        vm.check_live()?;
        let mut block = self.lock(frame)?;
        self.donate_page(vm, &structure, &mut block, frame, gfn)?;
        let mut given = 1;
        let last = BLOCK_FRAMES - frame.in_block() as u64;
        while given < count.min(last) {
            let next = gfn.offset(given);
            let given_too = vm
                .check_range(next, 1)
                .and_then(|()| self.donate_page(vm, &structure, &mut block, frame.offset(given), next));
            if given_too.is_err() {
                break;
            }
            given += 1;
        }
        self.settle(vm, &mut block, frame.offset(given - 1));
        Ok(given)
    }

    /// Cuts a frame of a split block from the host, and wipes it.
    fn take_from_host(&self, block: &mut Block<'_, M>, frame: Pfn) -> Clean {
        let cut = block.cut_page(frame);
        let clean = self.flush(cut, frame).wipe(&self.machine);
        self.count_wipes(frame, 1);
        clean
    }

    /// The empty page entry of `gfn`, with tables down to it.
    fn vacant_page(&self, vm: &Guest, structure: &VmLock<'_>, gfn: Gfn) -> Result<&Word, Refusal> {
        let slot = self.extend(vm, structure, Visibility::Private, gfn, PAGE_LEVEL)?;
        if slot.load(Ordering::Acquire) == 0 { Ok(slot) } else { Err(Refusal::Occupied) }
    }

    /// One page, whose frame is in the locked block.
    #[inline]
    fn donate_page(
        &self,
        vm: &Guest,
        structure: &VmLock<'_>,
        block: &mut Block<'_, M>,
        frame: Pfn,
        gfn: Gfn,
    ) -> Result<(), Refusal> {
        let moving = permit(block.record(frame), Event::Donate, None)?;
        let wanted = self.wanted(vm, gfn);
        let slot = self.vacant_page(vm, structure, gfn)?;
        let alias = match (wanted, vm.alias(gfn)) {
            (Visibility::Shared, Some(_)) => Some(self.extend(vm, structure, wanted, gfn, PAGE_LEVEL)?),
            _ => None,
        };
        let arrival = if alias.is_some() { Event::ArriveShared } else { Event::Arrive };
        let record = Record { state: moving, owner: Some(vm.id()), gfn, count: 0, wiped: true };
        let record = Record { state: permit(record, arrival, record.owner)?, ..record };
        let reserve = block.reserve()?;

        block.split(reserve);
        let clean = self.take_from_host(block, frame);
        match alias {
            None => slot.store(Self::guest_leaf(frame, PAGE_LEVEL, Visibility::Private), Ordering::Release),
            Some(alias) => {
                slot.store(Self::mark(frame), Ordering::Release);
                alias.store(Self::guest_leaf(frame, PAGE_LEVEL, Visibility::Shared), Ordering::Release);
                block.map_host(&clean);
            }
        }
        block.assign(clean, record);
        self.machine.publish();
        let counter = if alias.is_some() { counter::SHARED_IN } else { counter::PRIVATE_IN };
        vm.count(counter, frame, 1);
        Ok(())
    }

    /// After the host gave the last page of a block: makes it one again, in the database and in the guest's tables.
    fn settle(&self, vm: &Guest, block: &mut Block<'_, M>, frame: Pfn) {
        if !block.merge(frame) {
            return;
        }
        let Some(record) = block.whole() else { return };
        let Some(entries) = self.block_slots(vm, record.gfn) else { return };
        let (cut, tables) = entries.detach(self, vm, block.first(), Cut::new(block.first(), Size::Block));
        let _same_owner = self.flush(cut, frame);
        vm.put_tables(&self.machine, tables);
        entries.map(self, block.first(), record.state);
        self.machine.publish();
    }

    fn donate_block(&self, vm: &Guest, frame: Pfn, gfn: Gfn, budget: &mut Budget) -> Result<Progress, Refusal> {
        if !frame.is_aligned(Size::Block) || !gfn.is_aligned(Size::Block) {
            return Err(Refusal::Unaligned);
        }
        {
            let mut block = self.lock(frame)?;
            let ours =
                |record: &Record| (record.state, record.owner, record.gfn) == (State::Moving, Some(vm.id()), gfn);
            if block.whole().is_some_and(|record| ours(&record)) {
                vm.check_live()?;
                return Ok(self.push_on(vm, &mut block, budget));
            }
        }
        let structure = vm.lock();
        vm.check_live()?;
        let mut block = self.lock(frame)?;
        let state = self.permit_block(&block)?;
        let wanted = self.wanted_block(vm, gfn).ok_or(Refusal::WrongVisibility)?;
        let slot = self.extend(vm, &structure, Visibility::Private, gfn, BLOCK_LEVEL)?;
        let vacant = match Self::read(slot.load(Ordering::Acquire), BLOCK_LEVEL) {
            Slot::Empty => true,
            Slot::Table(table) => self.is_vacant(table),
            _ => false,
        };
        if !vacant {
            return Err(Refusal::Occupied);
        }
        // Nothing can fail when the block arrives, so its entry in the shared half is provided now.
        let alias = match (wanted, vm.alias(gfn)) {
            (Visibility::Shared, Some(number)) => {
                Some((self.extend(vm, &structure, wanted, gfn, BLOCK_LEVEL)?, number))
            }
            (_, Some(number)) => self.over(vm, Visibility::Shared, gfn).map(|slot| (slot, number)),
            _ => None,
        };

        let entries = BlockSlots { private: (slot, gfn.get()), alias };
        let (cut, tables) = entries.detach(self, vm, frame, block.cut_whole());
        let _resumed_by_push_on = self.flush(cut, frame);
        vm.put_tables(&self.machine, tables);
        block.set_whole(Record { state, owner: Some(vm.id()), gfn, count: 0, wiped: true });
        drop(structure);
        Ok(self.push_on(vm, &mut block, budget))
    }

    /// Whether the whole block may be given away; if not, the answer for the first frame that may not.
    fn permit_block(&self, block: &Block<'_, M>) -> Result<State, Refusal> {
        if !self.is_all_ram(block.first(), BLOCK_FRAMES) {
            return Err(Refusal::NotRam);
        }
        if let Some(record) = block.whole() {
            return permit(record, Event::Donate, None);
        }
        for index in 0..BLOCK_FRAMES {
            permit(block.record(block.first().offset(index)), Event::Donate, None)?;
        }
        // All are the host's and free: a block that only waits to be merged, which the host's own calls do at once.
        Err(Refusal::Busy)
    }

    /// Gives a frame of the host to a guest with its content. Each call passes one of `chunks` parts of the frame, which
    /// is out of the host's reach by then, to `measure`; after the last one the page is mapped private. Whether the VM
    /// may still be loaded is for the caller to know, and that `chunks` is always the same.
    ///
    /// # Errors
    /// As [`Core::donate`]; [`Refusal::OutOfRange`] when `chunks` is 0 or too large; [`Refusal::WrongVisibility`] when
    /// the guest wants the page shared.
    pub fn load(
        &self,
        vm: &Guest,
        frame: Pfn,
        gfn: Gfn,
        chunks: u64,
        measure: &mut dyn FnMut(&[Word; 512], u64),
    ) -> Result<Progress, Refusal> {
        vm.check_range(gfn, 1)?;
        if chunks == 0 || chunks > u64::from(COUNT_MAX) {
            return Err(Refusal::OutOfRange);
        }
        let structure = vm.lock();
        vm.check_live()?;
        let mut block = self.lock(frame)?;
        let record = block.record(frame);
        let moving = (record.state, record.owner, record.gfn) == (State::Moving, Some(vm.id()), gfn);
        if moving && !record.wiped {
            return Ok(self.load_chunk(vm, &mut block, frame, chunks, measure));
        }
        let state = permit(record, Event::Load, None)?;
        if self.wanted(vm, gfn) == Visibility::Shared {
            return Err(Refusal::WrongVisibility);
        }
        let slot = self.vacant_page(vm, &structure, gfn)?;
        let reserve = block.reserve()?;

        block.split(reserve);
        let cut = block.cut_page(frame);
        let _resumed_by_load_chunk = self.flush(cut, frame);
        // Before the first piece is measured: the measured bytes have to be those that the guest will execute.
        self.machine.settle(frame);
        slot.store(Self::mark(frame), Ordering::Release);
        block.set(frame, Record { state, owner: Some(vm.id()), gfn, count: 0, wiped: false });
        vm.loading.fetch_add(1, Ordering::Relaxed);
        Ok(self.load_chunk(vm, &mut block, frame, chunks, measure))
    }

    fn load_chunk(
        &self,
        vm: &Guest,
        block: &mut Block<'_, M>,
        frame: Pfn,
        chunks: u64,
        measure: &mut dyn FnMut(&[Word; 512], u64),
    ) -> Progress {
        let record = block.record(frame);
        let chunk = u64::from(record.count);
        if chunk < chunks {
            measure(self.machine.words(frame), chunk);
        }
        let arrived = permit(record, Event::Arrive, Some(vm.id()));
        let (Some(flushed), Ok(state)) = (Flushed::resumed(frame, Size::Page, record), arrived) else {
            return Progress::More;
        };
        if chunk + 1 < chunks {
            block.set(frame, Record { count: record.count + 1, ..record });
            return Progress::More;
        }
        let clean = flushed.measured();
        if let Some(slot) = self.page_entry(vm, Visibility::Private, record.gfn) {
            slot.store(Self::guest_leaf(frame, PAGE_LEVEL, Visibility::Private), Ordering::Release);
        }
        block.assign(clean, Record { state, count: 0, ..record });
        self.machine.publish();
        vm.loading.fetch_sub(1, Ordering::Relaxed);
        vm.count(counter::PRIVATE_IN, frame, 1);
        self.settle(vm, block, frame);
        Progress::Done
    }
}
