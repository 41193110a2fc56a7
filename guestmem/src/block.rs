//! The records of one locked 2 MiB block, and the host's mapping of it.
//!
//! While all 512 frames agree there is only the summary, and the host's table maps the block by one leaf or not at all.
//! Otherwise the records are in a page of their own and the host's table has a table of its own: both are attached and
//! dropped together.

use crate::database::{POOL_RESERVE, counter};
use crate::lock::{self, Rank};
use crate::motion::{Clean, Cut};
use crate::record::{
    LOCK, Record, State, WIPED, is_one_of, is_whole_host, leaf_of, owned_by, split, word_host_may_access,
};
use crate::sync::{AtomicU64, Ordering, Word};
use crate::table::{BLOCK_LEVEL, PAGE_LEVEL, Slot};
use crate::{Attrs, BLOCK_FRAMES, Core, FRAME_SIZE, Machine, OwnerId, Pfn, Refusal, Size, Space, TableFormat};

/// Two pool frames with which a block can be split: record page and host table.
#[must_use]
pub(crate) struct Reserve([Pfn; 2]);

/// A locked block; unlocked when dropped.
pub(crate) struct Block<'a, M: Machine> {
    core: &'a Core<M>,
    cell: &'a AtomicU64,
    word: u64,
    first: Pfn,
}

impl<M: Machine> Drop for Block<'_, M> {
    #[inline]
    fn drop(&mut self) {
        lock::release(self.cell, self.word, LOCK, Rank::Block);
    }
}

impl<'a, M: Machine> Block<'a, M> {
    #[inline]
    pub fn locked(core: &'a Core<M>, cell: &'a AtomicU64, word: u64, first: Pfn) -> Self {
        Self { core, cell, word, first }
    }

    /// First frame of the block.
    pub fn first(&self) -> Pfn {
        self.first
    }

    #[inline]
    fn leaf(&self) -> Option<&'a [Word; 512]> {
        leaf_of(self.word).map(|leaf| self.core.machine.words(Pfn::new(leaf)))
    }

    /// The record of a frame of the block.
    #[inline(always)]
    pub fn record(&self, frame: Pfn) -> Record {
        let index = frame.in_block();
        match self.leaf() {
            Some(leaf) => Record::unpack(leaf[index].load(Ordering::Relaxed)),
            None => Record::unpack(self.word).at(index as u64),
        }
    }

    /// Whether the block is split, and the record of a frame of it has this [`Record::identity`] and one of these states, a
    /// bit each.
    #[inline(always)]
    pub fn holds(&self, frame: Pfn, identity: u64, states: u16) -> bool {
        self.leaf().is_some_and(|leaf| is_one_of(leaf[frame.in_block()].load(Ordering::Relaxed), identity, states))
    }

    /// The first frame from `from` on, within a split block, that `owner` has in any way.
    pub fn next_of(&self, owner: OwnerId, from: Pfn) -> Option<Pfn> {
        let start = if from.block_start() == self.first { from.in_block() } else { return None };
        let is_owners = |word: &Word| owned_by(word.load(Ordering::Relaxed), owner);
        let index = self.leaf()?[start..].iter().position(is_owners)?;
        Some(self.first.offset((start + index) as u64))
    }

    /// The summary, while all frames agree.
    #[inline]
    pub fn whole(&self) -> Option<Record> {
        if leaf_of(self.word).is_none() { Some(Record::unpack(self.word)) } else { None }
    }

    /// Changes the record of one frame without changing whose it is; the block has been split.
    #[inline(always)]
    pub fn set(&mut self, frame: Pfn, record: Record) {
        debug_assert!(self.leaf().is_some(), "a frame's record was set in a whole block");
        if let Some(leaf) = self.leaf() {
            leaf[frame.in_block()].store(record.pack(), Ordering::Relaxed);
        }
    }

    /// Changes the summary of a whole block, whose entry in the host's table says so already.
    pub fn set_whole(&mut self, record: Record) {
        debug_assert!(self.leaf().is_none(), "a summary was set in a split block");
        let was_host = is_whole_host(self.word);
        self.word = record.pack();
        if !was_host && is_whole_host(self.word) {
            self.core.rejoin_gib(self.first);
        }
    }

    /// Records the next owner of what has been made clean for it.
    #[inline]
    pub fn assign(&mut self, clean: Clean, record: Record) {
        match clean.size() {
            Size::Page => self.set(clean.frame(), record),
            Size::Block => self.set_whole(record),
        }
    }

    /// Takes what it needs to split the block, nothing if it is split already.
    ///
    /// # Errors
    /// [`Refusal::NoPool`]
    #[inline(always)]
    pub fn reserve(&self) -> Result<Option<Reserve>, Refusal> {
        if leaf_of(self.word).is_some() { Ok(None) } else { self.reserve_keeping(POOL_RESERVE) }
    }

    /// As [`Block::reserve`], leaving `keep` frames in the pool.
    pub fn reserve_keeping(&self, keep: u64) -> Result<Option<Reserve>, Refusal> {
        match leaf_of(self.word) {
            Some(_) => Ok(None),
            None => {
                let frames = self.core.pool.take(&self.core.machine, keep).ok_or(Refusal::NoPool)?;
                Ok(Some(Reserve(frames)))
            }
        }
    }

    /// Gives every frame a record of its own, and the host's table an entry for each.
    #[inline(always)]
    pub fn split(&mut self, reserve: Option<Reserve>) {
        if let Some(reserve) = reserve {
            self.split_with(reserve);
        }
    }

    #[cold]
    fn split_with(&mut self, Reserve([leaf, table]): Reserve) {
        let core = self.core;
        let summary = Record::unpack(self.word);
        if is_whole_host(self.word) {
            core.leave_gib(self.first);
        }
        let (mut word, step) = summary.series();
        for record in core.machine.words(leaf) {
            record.store(word, Ordering::Relaxed);
            word = word.wrapping_add(step);
        }
        self.word = split(leaf.get());
        if !core.is_all_ram(self.first, BLOCK_FRAMES) {
            self.cut_edge();
        }
        match self.host_slot() {
            Some(slot) => self.hang_table(slot, table),
            None => core.pool.push(&core.machine, table),
        }
        core.tally.add(counter::SPLITS, self.first.get() / BLOCK_FRAMES, 1);
    }

    /// Blocks at the edge of RAM are split at boot, and whole never again.
    #[cold]
    fn cut_edge(&mut self) {
        let first = self.first;
        for frame in (0..BLOCK_FRAMES).map(|index| first.offset(index)) {
            if !self.core.is_ram(frame) {
                self.set(frame, Record::plain(State::Absent));
            }
        }
    }

    /// Puts a table under the host's entry of the block, as the frame records say.
    pub fn hang_table(&self, slot: &Word, table: Pfn) {
        let core = self.core;
        let Some(leaf) = self.leaf() else { return };
        let mut mapped = Self::host_leaf(self.first, PAGE_LEVEL);
        for (entry, record) in core.machine.words(table).iter().zip(leaf) {
            let open = word_host_may_access(record.load(Ordering::Relaxed));
            entry.store(if open { mapped } else { 0 }, Ordering::Relaxed);
            // The address is a plain field of a leaf in every format, so the next frame's leaf is one frame further.
            mapped += FRAME_SIZE;
        }
        core.machine.publish();
        // Break before make (Arm ARM D8.16.1): no TLB may hold the block's leaf together with a page's.
        if slot.swap(0, Ordering::Release) != 0 {
            let cut = Cut::new(self.first, Size::Block).at(Space::Host, self.first.addr(), Size::Block);
            let _same_owner = core.flush(cut, self.first);
        }
        slot.store(M::Format::table(table.addr()), Ordering::Release);
        core.machine.publish();
    }

    /// The summary that all frames agree on, if they do. `hint` is a frame that has just changed: its neighbours are the
    /// likeliest to differ.
    fn agreed(&self, hint: Pfn) -> Option<Record> {
        let leaf = self.leaf()?;
        let mut summary = Record::unpack(leaf[0].load(Ordering::Relaxed));
        let mergeable = matches!(summary.state, State::Host | State::Private | State::Shared);
        if !mergeable || summary.count != 0 || (summary.owner.is_some() && !summary.gfn.is_aligned(Size::Block)) {
            return None;
        }
        let (first, step) = summary.series();
        let differs = |index: usize| {
            let expected = first.wrapping_add(step.wrapping_mul(index as u64));
            (leaf[index].load(Ordering::Relaxed) ^ expected) & !WIPED != 0
        };
        let near = hint.in_block();
        if [near.saturating_sub(1), near, (near + 1).min(511), 511].into_iter().any(differs) || (1..512).any(differs) {
            return None;
        }
        summary.wiped = leaf.iter().all(|word| word.load(Ordering::Relaxed) & WIPED != 0);
        Some(summary)
    }

    /// Drops the frame records and the host's table of the block if all frames agree. True if the block is whole now.
    pub fn merge(&mut self, hint: Pfn) -> bool {
        if self.leaf().is_none() {
            return true;
        }
        let (Some(summary), Some(leaf)) = (self.agreed(hint), leaf_of(self.word)) else { return false };
        let core = self.core;
        if let Some(slot) = self.host_slot() {
            if let Slot::Table(table) = Core::<M>::read(slot.load(Ordering::Relaxed), BLOCK_LEVEL) {
                slot.store(0, Ordering::Release);
                // Pages of the block, and the table itself, may be cached under any of its addresses.
                let _same_owner = core.flush(Cut::new(self.first, Size::Block).everywhere(Space::Host), self.first);
                core.pool.push(&core.machine, table);
            }
            if summary.host_may_access() {
                slot.store(Self::host_leaf(self.first, BLOCK_LEVEL), Ordering::Release);
                core.machine.publish();
            }
        }
        self.word = summary.pack();
        if is_whole_host(self.word) {
            core.rejoin_gib(self.first);
        }
        core.pool.push(&core.machine, Pfn::new(leaf));
        core.tally.add(counter::MERGES, self.first.get() / BLOCK_FRAMES, 1);
        true
    }

    #[inline]
    fn host_leaf(frame: Pfn, level: u32) -> u64 {
        M::Format::leaf(frame.addr(), level, Attrs::Ram)
    }

    /// The host's 2 MiB entry for the block; none before its table is built, and while a leaf of 1 GiB stands for it.
    #[inline(always)]
    pub fn host_slot(&self) -> Option<&'a Word> {
        match self.core.host_root.load(Ordering::Relaxed) {
            0 => None,
            root => self.core.slot(Pfn::new(root), self.first.get(), BLOCK_LEVEL),
        }
    }

    /// The host's entry for a frame of a split block.
    #[inline(always)]
    pub fn host_page(&self, frame: Pfn) -> Option<&'a Word> {
        let root = || Some(self.core.host_root()).filter(|root| root.get() != 0);
        let slot = self.core.slot_near(&self.core.host_near, root, frame.get())?;
        match Core::<M>::read(slot.load(Ordering::Relaxed), BLOCK_LEVEL) {
            Slot::Table(table) => Some(&self.core.machine.words(table)[frame.in_block()]),
            _ => None,
        }
    }

    /// Removes the host's mapping of one frame.
    #[inline(always)]
    pub fn cut_page(&mut self, frame: Pfn) -> Cut {
        if let Some(slot) = self.host_page(frame) {
            slot.store(0, Ordering::Release);
        }
        Cut::new(frame, Size::Page).at(Space::Host, frame.addr(), Size::Page)
    }

    /// Removes the host's mapping of a whole block.
    pub fn cut_whole(&mut self) -> Cut {
        if is_whole_host(self.word) {
            self.core.leave_gib(self.first);
        }
        let cut = Cut::new(self.first, Size::Block);
        match self.host_slot() {
            Some(slot) => {
                slot.store(0, Ordering::Release);
                cut.at(Space::Host, self.first.addr(), Size::Block)
            }
            None => cut,
        }
    }

    /// Lets the host access what is clean.
    #[inline(always)]
    pub fn map_host(&mut self, clean: &Clean) {
        let (slot, level) = match clean.size() {
            Size::Page => (self.host_page(clean.frame()), PAGE_LEVEL),
            Size::Block => (self.host_slot(), BLOCK_LEVEL),
        };
        if let Some(slot) = slot {
            slot.store(Self::host_leaf(clean.frame(), level), Ordering::Release);
        }
    }
}
