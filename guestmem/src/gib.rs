//! GiBs of RAM. While all 512 blocks of one are whole and the host's, the host's table maps it by a single leaf. Its table
//! of blocks is kept up to date meanwhile, and takes the leaf's place before the first of them becomes anything else.
//!
//! Each GiB that has RAM in all its blocks has a word: a lock, how many of its blocks are anything but whole host memory, and
//! where its table of blocks is. The word is 0 until the host's table is built.

use crate::database::{Span, counter};
use crate::lock::{self, Rank};
use crate::record::{self, is_whole_host};
use crate::sync::{AtomicU64, Ordering, Word};
use crate::table::{BLOCK_LEVEL, GIB_LEVEL, Slot};
use crate::{Attrs, BLOCK_FRAMES, Core, Machine, Pfn, Refusal, Space, TableFormat};
use core::ops::Range;

/// Blocks of 2 MiB in a GiB.
pub(crate) const GIB_BLOCKS: u64 = 512;
/// Frames of 4 KiB in a GiB.
pub(crate) const GIB_FRAMES: u64 = GIB_BLOCKS * BLOCK_FRAMES;

/// Lock bit of a GiB's word.
const LOCK: u64 = 1;
/// What one block counts; with all 512 of them it stays below the table's address.
const ONE: u64 = 1 << 1;
const COUNT: u64 = 0x7fe;
const TABLE: u64 = !0xfff;

/// Numbers of the GiBs that lie within a run of blocks from one end to the other.
pub(crate) const fn gibs_within(first: u64, blocks: u64) -> Range<u64> {
    let (start, end) = (first.div_ceil(GIB_BLOCKS), (first + blocks) / GIB_BLOCKS);
    start..if end < start { start } else { end }
}

/// A GiB of which all blocks have RAM in them.
pub(crate) struct Gib<'a> {
    /// Its word.
    pub word: &'a AtomicU64,
    /// Summaries of its blocks.
    pub blocks: &'a [AtomicU64],
}

impl Gib<'_> {
    /// Number of blocks that are anything but whole host memory, as their summaries say.
    fn blocks_apart(&self) -> u64 {
        self.blocks.iter().filter(|summary| !is_whole_host(summary.load(Ordering::Relaxed))).count() as u64
    }
}

impl<M: Machine> Core<M> {
    /// The table of blocks of the GiB around a frame, whether walkers get there at present or not; none where it has no
    /// word.
    pub(crate) fn gib_table(&self, frame: Pfn) -> Option<Pfn> {
        let table = self.gib(frame)?.word.load(Ordering::Relaxed) & TABLE;
        if table == 0 { None } else { Some(Pfn::from_addr(table)) }
    }

    /// The host's 2 MiB entry for a block, whether walkers get there at present or not.
    pub(crate) fn host_entry(&self, first: Pfn) -> Option<&Word> {
        match (self.gib_table(first), self.host_root()) {
            (Some(table), _) => self.entry(table, first.get() / BLOCK_FRAMES),
            (None, root) if root.get() == 0 => None,
            (None, root) => self.slot(root, first.get(), BLOCK_LEVEL),
        }
    }

    /// A block, locked by the caller, is about to be anything but whole host memory: from here on its own entry counts.
    pub(crate) fn leave_gib(&self, first: Pfn) {
        let Some(Gib { word, .. }) = self.gib(first) else { return };
        let state = lock::acquire(word, LOCK, Rank::Gib);
        let now = if state & TABLE == 0 { state } else { state + ONE };
        if now != state && state & COUNT == 0 {
            self.exchange_gib(first, M::Format::table(state & TABLE));
            self.gib_leaves.fetch_sub(1, Ordering::Relaxed);
        }
        lock::release(word, now, LOCK, Rank::Gib);
    }

    /// A block, locked by the caller, is whole host memory again, and its entry says so.
    pub(crate) fn rejoin_gib(&self, first: Pfn) {
        let Some(Gib { word, .. }) = self.gib(first) else { return };
        let state = lock::acquire(word, LOCK, Rank::Gib);
        debug_assert!(state == 0 || state & COUNT != 0, "a block came back that had not left");
        let now = if state & COUNT == 0 { state } else { state - ONE };
        if now != state && now & COUNT == 0 {
            self.exchange_gib(first, Self::gib_leaf(first));
            self.gib_leaves.fetch_add(1, Ordering::Relaxed);
        }
        lock::release(word, now, LOCK, Rank::Gib);
    }

    /// Break before make (Arm ARM D8.16.1), which also keeps a CPU from ever seeing one address through two sizes of page.
    /// What is flushed is the whole space: a TLB may hold a GiB in pieces, as a Cortex-A53 does, or as its many blocks,
    /// and a flush by address only promises one translation.
    fn exchange_gib(&self, first: Pfn, entry: u64) {
        let Some(slot) = self.slot(self.host_root(), first.get(), GIB_LEVEL) else { return };
        slot.store(0, Ordering::Release);
        self.machine.flush_all(Space::Host);
        self.tally.add(counter::FLUSHES, first.get() / BLOCK_FRAMES, 1);
        slot.store(entry, Ordering::Release);
        self.machine.publish();
    }

    /// Boot: the host's table at `root` has all its blocks, and nobody uses it yet. Maps each GiB that it can by a leaf.
    pub(crate) fn found_gibs(&self, root: Pfn) -> Result<(), Refusal> {
        for span in self.spans() {
            for first in span.gibs().map(|gib| Pfn::new(gib * GIB_FRAMES)) {
                let Some(gib) = self.gib(first) else { continue };
                let slot = self.slot(root, first.get(), GIB_LEVEL).ok_or(Refusal::OutOfRange)?;
                let Slot::Table(table) = Self::read(slot.load(Ordering::Relaxed), GIB_LEVEL) else {
                    return Err(Refusal::Occupied);
                };
                let apart = gib.blocks_apart();
                if apart == 0 {
                    slot.store(Self::gib_leaf(first), Ordering::Relaxed);
                    self.gib_leaves.fetch_add(1, Ordering::Relaxed);
                }
                gib.word.store(table.addr() + apart * ONE, Ordering::Release);
            }
        }
        Ok(())
    }

    /// For the audit: whether a GiB's blocks, its word and its entry say the same. True where it has no word.
    pub(crate) fn gib_agrees(&self, first: Pfn) -> bool {
        let Some(gib) = self.gib(first) else { return true };
        let state = lock::acquire(gib.word, LOCK, Rank::Gib);
        let entry = self.slot(self.host_root(), first.get(), GIB_LEVEL).map_or(0, |slot| slot.load(Ordering::Acquire));
        // A block that somebody works on is counted before its summary says so.
        let (mut apart, mut moving) = (0, 0);
        for summary in gib.blocks.iter().map(|summary| summary.load(Ordering::Relaxed)) {
            if summary & record::LOCK != 0 {
                moving += 1;
            } else if !is_whole_host(summary) {
                apart += 1;
            }
        }
        lock::release(gib.word, state, LOCK, Rank::Gib);
        let count = (state & COUNT) / ONE;
        let expected = if count == 0 { Self::gib_leaf(first) } else { M::Format::table(state & TABLE) };
        (apart..=apart + moving).contains(&count) && entry == expected
    }

    fn gib_leaf(first: Pfn) -> u64 {
        M::Format::leaf(first.addr() & !(GIB_FRAMES * crate::FRAME_SIZE - 1), GIB_LEVEL, Attrs::Ram)
    }
}

impl Span {
    /// Numbers of the GiBs of which all blocks are in this span.
    pub(crate) const fn gibs(&self) -> Range<u64> {
        gibs_within(self.first, self.blocks)
    }
}
