//! Setting up: Postern's own frames, and the host's table.

use crate::record::{Record, State};
use crate::sync::Ordering;
use crate::table::{BLOCK_LEVEL, PAGE_LEVEL, Slot, level_shift};
use crate::transition::{Event, permit};
use crate::{Attrs, BLOCK_FRAMES, Core, FRAME_SIZE, Machine, Pfn, Refusal, TableFormat};
use core::ops::Range;

impl<M: Machine> Core<M> {
    /// Boot: makes frames Postern's own (image, heap, tables). Frames that are so already stay so. Blocks that are only
    /// partly Postern's take two frames each from the pool, so the pool comes first: see [`Core::add_pool`].
    ///
    /// # Errors
    /// [`Refusal::NotRam`], [`Refusal::NotOwner`], [`Refusal::Pinned`], [`Refusal::NoPool`]. Frames before the one that is
    /// refused have been claimed.
    pub fn claim(&self, range: Range<Pfn>) -> Result<(), Refusal> {
        let mut at = range.start;
        while at < range.end {
            let past = at.block_start().offset(BLOCK_FRAMES).min(range.end);
            self.claim_in_block(at..past)?;
            at = past;
        }
        Ok(())
    }

    fn claim_in_block(&self, range: Range<Pfn>) -> Result<(), Refusal> {
        if !self.is_all_ram(range.start, range.end.since(range.start)) {
            return Err(Refusal::NotRam);
        }
        let mut block = self.lock(range.start)?;
        if block.whole().is_some_and(|record| record.state == State::Postern) {
            return Ok(());
        }
        // A summary cannot say "Postern's" of a whole block and be merged back from anything, so whole blocks need no
        // pages, and that is all there is to it: nobody ever takes a frame away from Postern.
        let frames = range.end.since(range.start);
        if let (Some(record), BLOCK_FRAMES) = (block.whole(), frames) {
            let state = permit(record, Event::Claim, None)?;
            let _never_handed_on = self.flush(block.cut_whole(), range.start);
            block.set_whole(Record::plain(state));
            self.postern_frames.fetch_add(frames, Ordering::Relaxed);
            return Ok(());
        }
        let reserve = block.reserve_keeping(0)?;
        block.split(reserve);
        for frame in (range.start.get()..range.end.get()).map(Pfn::new) {
            let record = block.record(frame);
            let state = permit(record, Event::Claim, None)?;
            if record.state != state {
                let _never_handed_on = self.flush(block.cut_page(frame), frame);
                block.set(frame, Record::plain(state));
                self.postern_frames.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Boot: claims frames and puts them into Postern's pool, from which record pages and host tables are made. The
    /// frames pay for their own claim. Nothing else may use them, before or after.
    ///
    /// # Errors
    /// As [`Core::claim`].
    pub fn add_pool(&self, range: Range<Pfn>) -> Result<(), Refusal> {
        if !self.is_all_ram(range.start, range.end.since(range.start)) {
            return Err(Refusal::NotRam);
        }
        for frame in (range.start.get()..range.end.get()).map(Pfn::new) {
            self.pool.push(&self.machine, frame);
        }
        self.claim(range)
    }

    /// Boot: builds the host's identity table in the frames from `root` on, which Postern has claimed. RAM that is the
    /// host's and devices are mapped in the largest leaves that fit, Postern's frames not at all. `devices` are byte ranges outside RAM, rounded outwards to 4 KiB.
    ///
    /// # Errors
    /// [`Refusal::NotOwner`] when the root is not Postern's, [`Refusal::Unaligned`] when it is not aligned to its size,
    /// [`Refusal::OutOfRange`] when RAM or a device is out of the table's reach, [`Refusal::Occupied`] when a device
    /// overlaps RAM, [`Refusal::NoPool`].
    pub fn build_host_table(&self, root: Pfn, devices: &[Range<u64>]) -> Result<(), Refusal> {
        if !root.get().is_multiple_of(M::Format::ROOT_FRAMES) {
            return Err(Refusal::Unaligned);
        }
        for frame in (0..M::Format::ROOT_FRAMES).map(|index| root.offset(index)) {
            let state = self.lookup(frame).state;
            if state != State::Postern {
                return Err(Refusal::NotOwner(state));
            }
            self.machine.wipe(frame);
        }
        for span in self.spans() {
            for first in (span.first..span.first + span.blocks).map(|block| Pfn::new(block * BLOCK_FRAMES)) {
                self.map_host_block(root, first)?;
            }
        }
        for device in devices {
            self.map_device(root, device)?;
        }
        self.found_gibs(root)?;
        self.machine.publish();
        self.host_root.store(root.get(), Ordering::Release);
        Ok(())
    }

    /// First frame of the host's root table; 0 before it is built.
    pub fn host_root(&self) -> Pfn {
        Pfn::new(self.host_root.load(Ordering::Acquire))
    }

    fn map_host_block(&self, root: Pfn, first: Pfn) -> Result<(), Refusal> {
        if first.get() >= Self::REACH {
            return Err(Refusal::OutOfRange);
        }
        let slot = self.extend_host(root, first.get(), BLOCK_LEVEL)?;
        let mut block = self.lock(first)?;
        let edge = !self.is_all_ram(first, BLOCK_FRAMES);
        if edge {
            let reserve = block.reserve_keeping(0)?;
            block.split(reserve);
        }
        match block.whole() {
            Some(record) if record.host_may_access() => {
                slot.store(M::Format::leaf(first.addr(), BLOCK_LEVEL, Attrs::Ram), Ordering::Relaxed);
            }
            Some(_) => {}
            None => {
                let table = self.pool.pop(&self.machine).ok_or(Refusal::NoPool)?;
                block.hang_table(slot, table);
            }
        }
        Ok(())
    }

    /// As `extend` for guests, with tables from the pool.
    fn extend_host(&self, root: Pfn, number: u64, level: u32) -> Result<&crate::sync::Word, Refusal> {
        for at in M::Format::ROOT_LEVEL..level {
            let slot = self.slot(root, number, at).ok_or(Refusal::OutOfRange)?;
            match Self::read(slot.load(Ordering::Relaxed), at) {
                Slot::Table(_) => {}
                Slot::Empty => {
                    let table = self.pool.pop(&self.machine).ok_or(Refusal::NoPool)?;
                    self.machine.wipe(table);
                    slot.store(M::Format::table(table.addr()), Ordering::Release);
                }
                _ => return Err(Refusal::Occupied),
            }
        }
        self.slot(root, number, level).ok_or(Refusal::OutOfRange)
    }

    fn map_device(&self, root: Pfn, device: &Range<u64>) -> Result<(), Refusal> {
        let mut at = device.start / FRAME_SIZE;
        let end = device.end.div_ceil(FRAME_SIZE);
        if end > Self::REACH {
            return Err(Refusal::OutOfRange);
        }
        if self.regions().iter().any(|&(first, past)| at < past && first < end) {
            return Err(Refusal::Occupied);
        }
        while at < end {
            let level = (1..=PAGE_LEVEL).find(|&level| self.device_fits(root, at, end, level)).unwrap_or(PAGE_LEVEL);
            let slot = self.extend_host(root, at, level)?;
            slot.store(M::Format::leaf(Pfn::new(at).addr(), level, Attrs::Device), Ordering::Relaxed);
            at += 1 << level_shift(level);
        }
        Ok(())
    }

    /// Whether a leaf at `level` fits into `at..end` and there is nothing but empty entries in its way.
    fn device_fits(&self, root: Pfn, at: u64, end: u64, level: u32) -> bool {
        let frames = 1_u64 << level_shift(level);
        let empty = |slot: &crate::sync::Word| slot.load(Ordering::Relaxed) == 0;
        at.is_multiple_of(frames) && end - at >= frames && self.slot(root, at, level).is_none_or(empty)
    }
}
