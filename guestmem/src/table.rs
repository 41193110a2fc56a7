//! Reading and extending translation tables, the host's and the guests'.
//!
//! A guest's table of the private half is also the map from guest frames to frames: where a frame belongs to an address
//! but is not mapped there (shared through the alias, in motion, poisoned), the entry holds a mark with its number.

use crate::guest::{Guest, VmLock};
use crate::sync::{Ordering, Word};
use crate::{Attrs, BLOCK_FRAMES, Core, Entry, GFN_END, Gfn, Machine, Pfn, Refusal, TableFormat, Visibility};

/// Bits of a mark that hold the frame's address.
const MARK_ADDRESS: u64 = ((1 << 48) - 1) & !0xfff;

/// What an entry means to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Empty,
    Leaf(Pfn, Attrs),
    Marked(Pfn),
    Table(Pfn),
}

/// Level of entries that map 1 GiB.
pub(crate) const GIB_LEVEL: u32 = 1;
/// Level of entries that map 2 MiB.
pub(crate) const BLOCK_LEVEL: u32 = 2;
/// Level of entries that map 4 KiB.
pub(crate) const PAGE_LEVEL: u32 = 3;

/// Where the table is that holds the 2 MiB entries of the GiB that was looked at last: a table that entries of 2 MiB are in
/// stays where it is for as long as its root is used, and the next look is nearly always at the same GiB.
#[derive(Debug)]
pub(crate) struct Near(Word);

impl Near {
    /// Set in all that is remembered, above the number of the GiB.
    const VALID: u64 = 1 << 19;
    /// Above that is the table's frame number.
    const TABLE: u32 = 20;

    pub const fn new() -> Self {
        const { assert!(GFN_END >> level_shift(GIB_LEVEL) <= Self::VALID && GFN_END <= u64::MAX >> Self::TABLE) };
        Self(Word::new(0))
    }

    #[inline(always)]
    fn get(&self, number: u64) -> Option<Pfn> {
        let seen = self.0.load(Ordering::Acquire);
        let wanted = number >> level_shift(GIB_LEVEL) | Self::VALID;
        let same = (seen ^ wanted) & ((1 << Self::TABLE) - 1) == 0;
        if same { Some(Pfn::new(seen >> Self::TABLE)) } else { None }
    }

    fn set(&self, number: u64, table: Pfn) {
        let gib = number >> level_shift(GIB_LEVEL) | Self::VALID;
        self.0.store(table.get() << Self::TABLE | gib, Ordering::Release);
    }

    #[cfg(any(test, feature = "fake"))]
    pub fn fork(&self) -> Self {
        Self(Word::new(self.0.load(Ordering::Relaxed)))
    }
}

/// log2 of the frames that an entry at `level` covers.
pub(crate) const fn level_shift(level: u32) -> u32 {
    9 * (3 - level)
}

impl<M: Machine> Core<M> {
    /// Number of frames that a table of the machine's format can map.
    pub(crate) const REACH: u64 = (M::Format::ROOT_FRAMES * 512) << level_shift(M::Format::ROOT_LEVEL);

    #[inline(always)]
    pub(crate) fn read(entry: u64, level: u32) -> Slot {
        match M::Format::decode(entry, level) {
            Entry::Leaf { address, attrs } => Slot::Leaf(Pfn::from_addr(address), attrs),
            Entry::Table { address } => Slot::Table(Pfn::from_addr(address)),
            Entry::Empty if entry & M::Format::MARK == M::Format::MARK => {
                Slot::Marked(Pfn::from_addr((entry & !M::Format::MARK) & MARK_ADDRESS))
            }
            Entry::Empty => Slot::Empty,
        }
    }

    /// The entry that marks `frame` as belonging here.
    #[inline]
    pub(crate) fn mark(frame: Pfn) -> u64 {
        M::Format::MARK | frame.addr()
    }

    /// Entry at `index` of a table found in a walk. A walk may race with the end of its VM, so nothing that it reads is
    /// believed before it is known to be RAM.
    #[inline(always)]
    pub(crate) fn entry(&self, table: Pfn, index: u64) -> Option<&Word> {
        if self.is_ram(table) { Some(&self.machine.words(table)[index as usize % 512]) } else { None }
    }

    /// The entry at `level` for frame number `number`, as far as there are tables. Inlined: the level is a constant.
    #[inline(always)]
    pub(crate) fn slot(&self, root: Pfn, number: u64, level: u32) -> Option<&Word> {
        let mut at = M::Format::ROOT_LEVEL;
        let index = number >> level_shift(at);
        if index >= M::Format::ROOT_FRAMES * 512 {
            return None;
        }
        let mut table = root.offset(index / 512);
        // As `entry`, but with nothing in between that would be looked at again.
        while self.is_ram(table) {
            let slot = &self.machine.words(table)[(number >> level_shift(at)) as usize % 512];
            if at == level {
                return Some(slot);
            }
            let Slot::Table(next) = Self::read(slot.load(Ordering::Acquire), at) else { return None };
            (table, at) = (next, at + 1);
        }
        None
    }

    /// The 2 MiB entry for frame number `number` below `root`, as far as there are tables. `near` is the root's.
    #[inline(always)]
    pub(crate) fn slot_near(&self, near: &Near, root: impl FnOnce() -> Option<Pfn>, number: u64) -> Option<&Word> {
        let table = near.get(number).or_else(|| self.draw_near(near, root()?, number))?;
        Some(&self.machine.words(table)[(number >> level_shift(BLOCK_LEVEL)) as usize % 512])
    }

    #[cold]
    fn draw_near(&self, near: &Near, root: Pfn, number: u64) -> Option<Pfn> {
        let slot = self.slot(root, number, GIB_LEVEL)?;
        match Self::read(slot.load(Ordering::Acquire), GIB_LEVEL) {
            Slot::Table(table) if self.is_ram(table) => {
                near.set(number, table);
                Some(table)
            }
            _ => None,
        }
    }

    /// The 2 MiB entry of a guest frame in one half of the guest's address space, as far as there are tables. They stay for
    /// as long as the VM lives, so the entry can be asked again when a lock has been taken.
    #[inline(always)]
    pub(crate) fn over(&self, vm: &Guest, half: Visibility, gfn: Gfn) -> Option<&Word> {
        let number = vm.number(half, gfn)?;
        // What a VM that is taken down had is no longer where it was.
        if vm.check_live().is_err() {
            return self.slot(vm.root(), number, BLOCK_LEVEL);
        }
        self.over_alive(vm, half, number)
    }

    /// [`Core::over`] in a VM that is known to live, by the frame's number in that half.
    #[inline(always)]
    pub(crate) fn over_alive(&self, vm: &Guest, half: Visibility, number: u64) -> Option<&Word> {
        self.slot_near(&vm.near[half as usize], || Some(vm.root()), number)
    }

    /// The frame that belongs to a guest frame, mapped there or not. Without a lock this is only a candidate.
    #[inline]
    pub(crate) fn frame_at(&self, vm: &Guest, gfn: Gfn) -> Option<Pfn> {
        let slot = self.over(vm, Visibility::Private, gfn)?;
        match Self::read(slot.load(Ordering::Acquire), BLOCK_LEVEL) {
            Slot::Leaf(base, _) | Slot::Marked(base) => Some(base.offset(gfn.get() % BLOCK_FRAMES)),
            Slot::Empty => None,
            Slot::Table(table) => Self::frame_in(self.entry(table, gfn.get())?),
        }
    }

    /// The frame that a 4 KiB entry is about.
    #[inline(always)]
    pub(crate) fn frame_in(entry: &Word) -> Option<Pfn> {
        match Self::read(entry.load(Ordering::Acquire), PAGE_LEVEL) {
            Slot::Leaf(frame, _) | Slot::Marked(frame) => Some(frame),
            _ => None,
        }
    }

    /// The 4 KiB entry of a guest frame below the 2 MiB entry `over` it, if that is a table.
    #[inline(always)]
    pub(crate) fn page_below(&self, over: &Word, gfn: Gfn) -> Option<&Word> {
        match Self::read(over.load(Ordering::Acquire), BLOCK_LEVEL) {
            Slot::Table(table) => self.entry(table, gfn.get()),
            _ => None,
        }
    }

    /// The 4 KiB entry of a guest frame in one half, as far as there are tables.
    #[inline(always)]
    pub(crate) fn page_entry(&self, vm: &Guest, half: Visibility, gfn: Gfn) -> Option<&Word> {
        self.page_below(self.over(vm, half, gfn)?, gfn)
    }

    /// [`Core::page_below`] for whoever holds the lock of a block in which the VM has a frame, and lives: what the tables say
    /// is Postern's own, and need not be checked.
    #[inline(always)]
    pub(crate) fn page_in(&self, over: &Word, gfn: Gfn) -> Option<&Word> {
        match Self::read(over.load(Ordering::Acquire), BLOCK_LEVEL) {
            Slot::Table(table) => Some(&self.machine.words(table)[gfn.in_block()]),
            _ => None,
        }
    }

    /// Tables missing on the way to the entry at `level`; a 2 MiB leaf or mark that would have to be split counts too.
    pub(crate) fn missing(&self, root: Pfn, number: u64, level: u32) -> u64 {
        let mut slot = self.slot(root, number, M::Format::ROOT_LEVEL);
        for at in M::Format::ROOT_LEVEL..level {
            let entry = slot.map_or(0, |slot| slot.load(Ordering::Acquire));
            let Slot::Table(table) = Self::read(entry, at) else { return u64::from(level - at) };
            slot = self.entry(table, number >> level_shift(at + 1));
        }
        0
    }

    /// The entry of a guest frame in one half at `level`, 2 or 3, with new tables where the way there is empty. Inlined: the
    /// level is a constant.
    ///
    /// # Errors
    /// [`Refusal::NoMeta`]; [`Refusal::Occupied`] when a 2 MiB entry is in the way; [`Refusal::OutOfRange`] when there is no
    /// such half.
    #[inline(always)]
    pub(crate) fn extend<'a>(
        &'a self,
        vm: &Guest,
        structure: &VmLock<'_>,
        half: Visibility,
        gfn: Gfn,
        level: u32,
    ) -> Result<&'a Word, Refusal> {
        let over = self.over(vm, half, gfn);
        let slot = if level == BLOCK_LEVEL { over } else { over.and_then(|over| self.page_below(over, gfn)) };
        match slot {
            Some(slot) => Ok(slot),
            None => self.make_tables(vm, structure, vm.number(half, gfn).ok_or(Refusal::OutOfRange)?, level),
        }
    }

    #[cold]
    fn make_tables<'a>(
        &'a self,
        vm: &Guest,
        structure: &VmLock<'_>,
        number: u64,
        level: u32,
    ) -> Result<&'a Word, Refusal> {
        let mut at = M::Format::ROOT_LEVEL;
        let mut slot = self.slot(vm.root(), number, at).ok_or(Refusal::OutOfRange)?;
        while at < level {
            let table = match Self::read(slot.load(Ordering::Acquire), at) {
                Slot::Table(table) => table,
                Slot::Empty => {
                    let table = vm.take_table(&self.machine, structure).ok_or(Refusal::NoMeta)?;
                    // Walkers must not see the table before its zeroes.
                    self.machine.publish();
                    slot.store(M::Format::table(table.addr()), Ordering::Release);
                    table
                }
                _ => return Err(Refusal::Occupied),
            };
            at += 1;
            slot = self.entry(table, number >> level_shift(at)).ok_or(Refusal::OutOfRange)?;
        }
        Ok(slot)
    }

    /// Fills a table with what a 2 MiB entry says. Marks stay marks.
    pub(crate) fn fill(&self, table: Pfn, whole: u64) {
        let slot = Self::read(whole, BLOCK_LEVEL);
        for (index, entry) in self.machine.words(table).iter().enumerate() {
            let value = match slot {
                Slot::Leaf(base, attrs) => M::Format::leaf(base.offset(index as u64).addr(), PAGE_LEVEL, attrs),
                Slot::Marked(base) => Self::mark(base.offset(index as u64)),
                _ => 0,
            };
            entry.store(value, Ordering::Relaxed);
        }
        self.machine.publish();
    }

    /// Whether no entry of a table holds anything.
    pub(crate) fn is_vacant(&self, table: Pfn) -> bool {
        self.is_ram(table) && self.machine.words(table).iter().all(|entry| entry.load(Ordering::Relaxed) == 0)
    }

    /// A leaf of RAM in a guest's table.
    #[inline]
    pub(crate) fn guest_leaf(frame: Pfn, level: u32, half: Visibility) -> u64 {
        let attrs = match half {
            Visibility::Private => Attrs::Ram,
            Visibility::Shared => Attrs::SharedRam,
        };
        M::Format::leaf(frame.addr(), level, attrs)
    }
}
