//! The frame database: which frames there are, and their records.

use crate::block::Block;
use crate::gib::{GIB_BLOCKS, GIB_FRAMES, Gib, gibs_within};
use crate::lock::{self, FrameList, Rank};
use crate::motion::{Cut, Flushed};
use crate::record::{LOCK, Record, State};
use crate::sync::{AtomicU64, Ordering};
use crate::table::Near;
use crate::tally::Tally;
use crate::{BLOCK_FRAMES, BootError, GFN_END, Machine, Pfn, Refusal};
use core::ops::Range;

/// Most regions of RAM that the database can be built from.
pub const MAX_REGIONS: usize = 64;

/// Pool frames that only [`Core::topup`] may use: what it takes to split the block of the frame that is coming.
pub(crate) const POOL_RESERVE: u64 = 2;

/// Counters of [`Core::stats`].
pub(crate) mod counter {
    pub const WIPES: usize = 0;
    pub const SPLITS: usize = 1;
    pub const MERGES: usize = 2;
    pub const FLUSHES: usize = 3;
}

/// Consecutive blocks with RAM in them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// First block number (frame number / 512).
    pub first: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Where their summaries begin.
    pub base: usize,
    /// Where the words of the GiBs among them begin.
    pub gib_base: usize,
}

/// What Postern has done and holds, since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames wiped.
    pub wipes: u64,
    /// Blocks split into frame records.
    pub splits: u64,
    /// Blocks merged again.
    pub merges: u64,
    /// TLB flushes.
    pub flushes: u64,
    /// Free frames in Postern's pool.
    pub pool_free: u64,
    /// Frames that are Postern's own, the pool included.
    pub postern_frames: u64,
    /// GiBs of RAM that the host's table maps in one piece.
    pub gib_leaves: u64,
}

/// The ownership core.
pub struct Core<M: Machine> {
    /// The machine under it.
    pub machine: M,
    regions: [(u64, u64); MAX_REGIONS],
    region_count: usize,
    /// The largest of the regions: a table walk asks about RAM at every step, and nearly always it is this.
    main: (u64, u64),
    spans: [Span; MAX_REGIONS],
    span_count: usize,
    summaries: &'static [AtomicU64],
    pub(crate) pool: FrameList,
    /// Frame number of the host's root table; 0 until it is built.
    pub(crate) host_root: AtomicU64,
    /// Of the host's table.
    pub(crate) host_near: Near,
    pub(crate) postern_frames: AtomicU64,
    pub(crate) gib_leaves: AtomicU64,
    pub(crate) tally: Tally,
}

impl<M: Machine> Core<M> {
    /// A database in which all RAM is the host's.
    ///
    /// `regions` is RAM, sorted, without overlaps, at any 4 KiB alignment. `summaries` is storage for
    /// [`Core::summaries_needed`] records of 8 bytes; its content does not matter.
    ///
    /// # Errors
    /// When the regions or the storage do not fit these rules.
    pub fn new(machine: M, regions: &[Range<Pfn>], summaries: &'static [AtomicU64]) -> Result<Self, BootError> {
        let mut core = Self {
            machine,
            regions: [(0, 0); MAX_REGIONS],
            region_count: regions.len(),
            main: (0, 0),
            spans: [Span::default(); MAX_REGIONS],
            span_count: 0,
            summaries,
            pool: FrameList::new(),
            host_root: AtomicU64::new(0),
            host_near: Near::new(),
            postern_frames: AtomicU64::new(0),
            gib_leaves: AtomicU64::new(0),
            tally: Tally::new(),
        };
        core.take_regions(regions)?;
        let needed = Self::summaries_needed(regions);
        let records = summaries.get(..needed).ok_or(BootError::SummariesTooSmall)?;
        let blocks = core.spans().first().map_or(0, |span| span.gib_base);
        for (index, record) in records.iter().enumerate() {
            let word = if index < blocks { Record::plain(State::Host).pack() } else { 0 };
            record.store(word, Ordering::Relaxed);
        }
        Ok(core)
    }

    /// A copy over a copied machine. The summaries are leaked.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn fork(&self, machine: M) -> Self {
        let copy = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
        let summaries: Vec<_> = self.summaries.iter().map(copy).collect();
        Self {
            machine,
            regions: self.regions,
            region_count: self.region_count,
            main: self.main,
            spans: self.spans,
            span_count: self.span_count,
            summaries: summaries.leak(),
            pool: self.pool.fork(),
            host_root: copy(&self.host_root),
            host_near: self.host_near.fork(),
            postern_frames: copy(&self.postern_frames),
            gib_leaves: copy(&self.gib_leaves),
            tally: self.tally.fork(),
        }
    }

    fn take_regions(&mut self, regions: &[Range<Pfn>]) -> Result<(), BootError> {
        if regions.is_empty() {
            return Err(BootError::NoMemory);
        }
        if regions.len() > MAX_REGIONS {
            return Err(BootError::TooManyRegions);
        }
        let mut end = 0;
        for (slot, region) in self.regions.iter_mut().zip(regions) {
            if region.start.get() < end || region.start >= region.end {
                return Err(BootError::BadRegions);
            }
            end = region.end.get();
            *slot = (region.start.get(), end);
            if end - region.start.get() > self.main.1 - self.main.0 {
                self.main = *slot;
            }
        }
        // Records and marks name frames with as many bits as guest frames; block arithmetic needs room above.
        if end > GFN_END {
            return Err(BootError::AddressTooLarge);
        }
        let mut base = 0;
        for region in regions {
            let (mut first, end) = blocks_of(region);
            if let Some(last) = self.spans[..self.span_count].last_mut()
                && first <= last.first + last.blocks
            {
                first = last.first + last.blocks;
                let more = end.saturating_sub(first);
                last.blocks += more;
                base += more as usize;
                continue;
            }
            self.spans[self.span_count] = Span { first, blocks: end - first, base, gib_base: 0 };
            self.span_count += 1;
            base += (end - first) as usize;
        }
        for span in &mut self.spans[..self.span_count] {
            span.gib_base = base;
            base += span.gibs().count();
        }
        Ok(())
    }

    /// Number of summary records for these regions: one for each 2 MiB block that holds RAM, and one for each GiB of such
    /// blocks.
    pub const fn summaries_needed(regions: &[Range<Pfn>]) -> usize {
        let mut needed = 0;
        let (mut start, mut past) = (0, 0);
        let mut index = 0;
        while index < regions.len() {
            let (first, end) = blocks_of(&regions[index]);
            if first > past {
                needed += blocks_and_gibs(start, past);
                (start, past) = (first, first);
            }
            past = if end > past { end } else { past };
            index += 1;
        }
        (needed + blocks_and_gibs(start, past)) as usize
    }

    /// The regions the database was built from.
    pub(crate) fn regions(&self) -> &[(u64, u64)] {
        &self.regions[..self.region_count]
    }

    /// The blocks that have summaries.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans[..self.span_count]
    }

    /// Whether a frame is RAM that the database covers.
    #[inline(always)]
    pub fn is_ram(&self, frame: Pfn) -> bool {
        (self.main.0..self.main.1).contains(&frame.get()) || self.is_ram_elsewhere(frame)
    }

    #[cold]
    fn is_ram_elsewhere(&self, frame: Pfn) -> bool {
        self.regions().iter().any(|&(start, end)| (start..end).contains(&frame.get()))
    }

    /// Whether all frames from `start` on are RAM.
    pub(crate) fn is_all_ram(&self, start: Pfn, frames: u64) -> bool {
        let end = start.get().saturating_add(frames);
        let mut at = start.get();
        for &(first, past) in self.regions() {
            if (first..past).contains(&at) {
                at = past;
            }
        }
        at >= end
    }

    /// The summary of the block that holds a frame. Machines have a handful of spans, and nearly all memory in the first.
    #[inline(always)]
    fn summary(&self, frame: Pfn) -> Option<&'static AtomicU64> {
        let block = frame.get() / BLOCK_FRAMES;
        let first = block.wrapping_sub(self.spans[0].first);
        if first < self.spans[0].blocks { self.summaries.get(first as usize) } else { self.summary_elsewhere(block) }
    }

    #[cold]
    fn summary_elsewhere(&self, block: u64) -> Option<&'static AtomicU64> {
        let span = self.spans().iter().find(|span| block.wrapping_sub(span.first) < span.blocks)?;
        self.summaries.get(span.base + (block - span.first) as usize)
    }

    /// The GiB around a frame, if all its blocks have summaries.
    pub(crate) fn gib(&self, frame: Pfn) -> Option<Gib<'_>> {
        let (block, gib) = (frame.get() / BLOCK_FRAMES, frame.get() / GIB_FRAMES);
        let span = self.spans().iter().find(|span| block.wrapping_sub(span.first) < span.blocks)?;
        let within = span.gibs();
        if !within.contains(&gib) {
            return None;
        }
        let word = self.summaries.get(span.gib_base + (gib - within.start) as usize)?;
        let first = span.base + (gib * GIB_BLOCKS - span.first) as usize;
        Some(Gib { word, blocks: self.summaries.get(first..first + GIB_BLOCKS as usize)? })
    }

    /// Locks the block that holds `frame`. This and the three below are the only ways to lock one, and no operation holds two,
    /// so there is no order among blocks to get wrong.
    #[inline]
    pub(crate) fn lock(&self, frame: Pfn) -> Result<Block<'_, M>, Refusal> {
        let cell = self.summary(frame).ok_or(Refusal::NotRam)?;
        let word = lock::acquire(cell, LOCK, Rank::Block);
        Ok(Block::locked(self, cell, word, frame.block_start()))
    }

    /// As [`Core::lock`], for guests' calls: answers [`Refusal::Busy`] when another CPU keeps the lock for long.
    #[inline]
    pub(crate) fn try_lock(&self, frame: Pfn) -> Result<Block<'_, M>, Refusal> {
        let (cell, word) = self.try_lock_cell(frame)?;
        Ok(Block::locked(self, cell, word, frame.block_start()))
    }

    /// The lock of [`Core::try_lock`] as it comes; the caller makes a [`Block`] of it at once.
    #[inline(always)]
    pub(crate) fn try_lock_cell(&self, frame: Pfn) -> Result<(&AtomicU64, u64), Refusal> {
        let cell = self.summary(frame).ok_or(Refusal::NotRam)?;
        let word = lock::try_acquire(cell, LOCK, Rank::Block).ok_or(Refusal::Busy)?;
        Ok((cell, word))
    }

    /// [`Core::try_lock_cell`] without waiting: none when another CPU has the lock.
    #[inline(always)]
    pub(crate) fn lock_cell_at_once(&self, frame: Pfn) -> Option<(&AtomicU64, u64)> {
        let cell = self.summary(frame)?;
        Some((cell, lock::acquire_at_once(cell, LOCK, Rank::Block)?))
    }

    /// What the database says of a frame; [`State::Absent`] when it is not RAM.
    pub fn lookup(&self, frame: Pfn) -> Record {
        match self.lock(frame) {
            Ok(block) if self.is_ram(frame) => block.record(frame),
            _ => Record::plain(State::Absent),
        }
    }

    /// Flushes what was cut, and counts it.
    #[inline(always)]
    pub(crate) fn flush(&self, cut: Cut, place: Pfn) -> Flushed {
        self.tally.add(counter::FLUSHES, place.get() / BLOCK_FRAMES, cut.flushes());
        cut.flush(&self.machine)
    }

    /// Counts wiped frames.
    #[inline]
    pub(crate) fn count_wipes(&self, place: Pfn, frames: u64) {
        self.tally.add(counter::WIPES, place.get() / BLOCK_FRAMES, frames);
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            wipes: self.tally.sum(counter::WIPES),
            splits: self.tally.sum(counter::SPLITS),
            merges: self.tally.sum(counter::MERGES),
            flushes: self.tally.sum(counter::FLUSHES),
            pool_free: self.pool.len(),
            postern_frames: self.postern_frames.load(Ordering::Relaxed),
            gib_leaves: self.gib_leaves.load(Ordering::Relaxed),
        }
    }
}

/// Summary records of the blocks from one to past another.
const fn blocks_and_gibs(start: u64, past: u64) -> u64 {
    let gibs = gibs_within(start, past - start);
    past - start + gibs.end - gibs.start
}

/// Block numbers that a region touches, from the first to past the last.
const fn blocks_of(region: &Range<Pfn>) -> (u64, u64) {
    (region.start.get() / BLOCK_FRAMES, region.end.get().div_ceil(BLOCK_FRAMES))
}
