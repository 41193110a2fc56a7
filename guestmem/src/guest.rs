//! What the core keeps for each VM.

use crate::lock::{self, FrameList, Rank};
use crate::sync::{AtomicU64, Ordering};
use crate::table::Near;
use crate::tally::Tally;
use crate::{
    BLOCK_FRAMES, Core, FRAME_SHIFT, GFN_END, Gfn, Machine, OwnerId, Pfn, Refusal, Space, TableFormat, Visibility,
};
use core::ops::Range;

/// A VM's guest address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Guest frames that may hold RAM.
    pub ram: Range<Gfn>,
    /// Address bit that selects the shared half (`realm`, `tdx`); none where one address is both (`pkvm`).
    pub alias: Option<u32>,
    /// The guest accepts a page that it takes back from the host before it uses it (`tdx`); only with an alias.
    pub accepts: bool,
}

/// Guest frames that one page of the map of shared pages covers (128 MiB).
pub(crate) const BITMAP_FRAMES: u64 = 4096 * 8;
/// Most guest frames of RAM with an alias: one index page of bitmap pages (64 GiB).
pub const ALIASED_RAM_MAX: u64 = 512 * BITMAP_FRAMES;

/// Life of a VM; only ever increases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub(crate) enum Life {
    /// The root table is not complete.
    New,
    /// Takes memory and converts it.
    Live,
    /// Nothing new; its tables may still be in use.
    Dying,
    /// Cut off at the root and flushed; its frames are being returned.
    Frames,
    /// Has no frames; its metadata is being returned.
    Meta,
    /// All is returned.
    Gone,
}

/// Counters of [`Guest`], in frames.
pub(crate) mod counter {
    pub const PRIVATE_IN: usize = 0;
    pub const PRIVATE_OUT: usize = 1;
    pub const SHARED_IN: usize = 2;
    pub const SHARED_OUT: usize = 3;
    pub const SHARES: usize = 4;
    pub const UNSHARES: usize = 5;
}

/// Memory of one VM.
#[derive(Debug)]
pub struct Guest {
    id: OwnerId,
    root: Pfn,
    layout: Layout,
    /// What is added to a guest frame's number to get that of its alias; 0 where there is none.
    half: u64,
    /// Guest frame of the first bit of the map of shared pages. No 2 MiB block has its bits in two pages.
    map_base: Gfn,
    structure: AtomicU64,
    life: AtomicU64,
    root_given: AtomicU64,
    /// Next block that [`Core::reclaim`] looks at.
    pub(crate) cursor: AtomicU64,
    /// Free metadata, all zeroes but for the links.
    pub(crate) meta: FrameList,
    /// Tables that became empty. Only used as tables again: a walk that still reads one finds entries of this VM.
    spare: FrameList,
    meta_frames: AtomicU64,
    pub(crate) loading: AtomicU64,
    /// Frame number of the index page of the map of shared pages; 0 until it is needed.
    pub(crate) bitmap: AtomicU64,
    pub(crate) tally: Tally,
    /// Of the private half, or the only one, and of the shared half.
    pub(crate) near: [Near; 2],
}

/// The right to change the structure of a VM's tables.
pub(crate) struct VmLock<'a>(&'a Guest);

impl Drop for VmLock<'_> {
    fn drop(&mut self) {
        lock::release(&self.0.structure, 0, 1, Rank::Vm);
    }
}

impl Guest {
    /// A VM that owns nothing yet. It comes to life when the frames of its root table, at `root` and aligned as the
    /// table format demands, have been given to [`Core::donate_meta`] like all other metadata.
    pub fn new(id: OwnerId, root: Pfn, layout: Layout) -> Self {
        let half = layout.alias.and_then(|bit| 1_u64.checked_shl(bit.checked_sub(FRAME_SHIFT)?)).unwrap_or(0);
        let map_base = layout.ram.start.block_start();
        Self {
            id,
            root,
            layout,
            half,
            map_base,
            structure: AtomicU64::new(0),
            life: AtomicU64::new(Life::New as u64),
            root_given: AtomicU64::new(0),
            cursor: AtomicU64::new(0),
            meta: FrameList::new(),
            spare: FrameList::new(),
            meta_frames: AtomicU64::new(0),
            loading: AtomicU64::new(0),
            bitmap: AtomicU64::new(0),
            tally: Tally::new(),
            near: [Near::new(), Near::new()],
        }
    }

    /// Owner number and VMID.
    #[inline]
    pub fn id(&self) -> OwnerId {
        self.id
    }

    /// First frame of the root table.
    #[inline]
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// Guest address space.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Frames that only the guest may access (blocks on their way to being shared included).
    pub fn private_frames(&self) -> u64 {
        let (came, went) = (self.tally.sum(counter::PRIVATE_IN), self.tally.sum(counter::PRIVATE_OUT));
        came.wrapping_sub(went).wrapping_sub(self.shares()).wrapping_add(self.unshares())
    }

    /// Frames that the host may access too (blocks on their way to being private included).
    pub fn shared_frames(&self) -> u64 {
        let (came, went) = (self.tally.sum(counter::SHARED_IN), self.tally.sum(counter::SHARED_OUT));
        came.wrapping_sub(went).wrapping_add(self.shares()).wrapping_sub(self.unshares())
    }

    /// Frames converted to shared so far.
    pub fn shares(&self) -> u64 {
        self.tally.sum(counter::SHARES)
    }

    /// Frames converted to private so far.
    pub fn unshares(&self) -> u64 {
        self.tally.sum(counter::UNSHARES)
    }

    /// Metadata frames given, the root table included.
    pub fn meta_frames(&self) -> u64 {
        self.meta_frames.load(Ordering::Relaxed)
    }

    /// Metadata frames not in use.
    pub fn meta_free(&self) -> u64 {
        self.meta.len() + self.spare.len()
    }

    /// Frames whose launch content is only partly measured: the VM must not be sealed while there are any.
    pub fn loading(&self) -> u64 {
        self.loading.load(Ordering::Relaxed)
    }

    /// Whether the VM is being taken down.
    pub fn is_dying(&self) -> bool {
        self.life() >= Life::Dying
    }

    /// Whether all that the VM had is the host's again.
    pub fn is_gone(&self) -> bool {
        self.life() == Life::Gone
    }

    pub(crate) fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::New,
            1 => Life::Live,
            2 => Life::Dying,
            3 => Life::Frames,
            4 => Life::Meta,
            _ => Life::Gone,
        }
    }

    pub(crate) fn set_life(&self, _: &VmLock<'_>, life: Life) {
        self.life.store(life as u64, Ordering::Release);
    }

    /// Refuses all that a VM without a root table, or one that is being taken down, cannot do.
    #[inline]
    pub(crate) fn check_live(&self) -> Result<(), Refusal> {
        if self.life.load(Ordering::Acquire) == Life::Live as u64 { Ok(()) } else { Err(Refusal::Dying) }
    }

    /// The guest's address space in the TLB.
    #[inline]
    pub(crate) fn space(&self) -> Space {
        Space::Guest(self.id)
    }

    /// Refuses guest frames outside RAM.
    #[inline]
    pub(crate) fn check_range(&self, gfn: Gfn, frames: u64) -> Result<(), Refusal> {
        let ram = &self.layout.ram;
        let fits = gfn >= ram.start && gfn.checked_add(frames).is_some_and(|end| end <= ram.end);
        if fits { Ok(()) } else { Err(Refusal::OutOfRange) }
    }

    /// Frame number of a guest frame in the shared half; none where there is no shared half.
    #[inline]
    pub(crate) fn alias(&self, gfn: Gfn) -> Option<u64> {
        if self.half == 0 { None } else { Some(gfn.get() | self.half) }
    }

    /// Frame number of a guest frame in one half; none where there is no shared half.
    #[inline(always)]
    pub(crate) fn number(&self, half: Visibility, gfn: Gfn) -> Option<u64> {
        match half {
            Visibility::Private => Some(gfn.get()),
            Visibility::Shared => self.alias(gfn),
        }
    }

    /// Place of a frame of RAM in the map of shared pages.
    #[inline(always)]
    pub(crate) fn place_in_map(&self, gfn: Gfn) -> u64 {
        // The base is not above RAM.
        gfn.get().wrapping_sub(self.map_base.get())
    }

    /// Whether a layout fits the machine's tables, records and bitmaps.
    pub(crate) fn layout_fits<M: Machine>(&self) -> bool {
        let Range { start, end } = self.layout.ram;
        let sane = start < end && end.get() <= GFN_END.min(Core::<M>::REACH);
        let root_aligned = self.root.get().is_multiple_of(M::Format::ROOT_FRAMES);
        let alias_fits = self.layout.alias.is_none_or(|bit| {
            (FRAME_SHIFT..48).contains(&bit)
                && end.get() <= 1 << (bit - FRAME_SHIFT)
                && 2 << (bit - FRAME_SHIFT) <= Core::<M>::REACH
                && end.since(self.map_base) <= ALIASED_RAM_MAX
        });
        let acceptance_fits = self.layout.alias.is_some() || !self.layout.accepts;
        sane && root_aligned && alias_fits && acceptance_fits
    }

    /// Notes that a frame of metadata came.
    pub(crate) fn count_meta(&self) {
        self.meta_frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a frame of metadata went back to the host.
    pub(crate) fn uncount_meta(&self) {
        self.meta_frames.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether `frame` is part of the root table.
    pub(crate) fn is_root<M: Machine>(&self, frame: Pfn) -> bool {
        (self.root.get()..self.root.offset(M::Format::ROOT_FRAMES).get()).contains(&frame.get())
    }

    /// Notes that a frame of the root table came; with the last one the VM comes to life.
    pub(crate) fn count_root<M: Machine>(&self, structure: &VmLock<'_>) {
        let given = self.root_given.fetch_add(1, Ordering::Relaxed) + 1;
        if given == M::Format::ROOT_FRAMES {
            self.set_life(structure, Life::Live);
        }
    }

    /// Waits for the structure lock.
    pub(crate) fn lock(&self) -> VmLock<'_> {
        lock::acquire(&self.structure, 1, Rank::Vm);
        VmLock(self)
    }

    /// The structure lock for guests' calls.
    pub(crate) fn try_lock(&self) -> Result<VmLock<'_>, Refusal> {
        lock::try_acquire(&self.structure, 1, Rank::Vm).map(|_| VmLock(self)).ok_or(Refusal::Busy)
    }

    /// Refuses unless `tables` more tables, or other frames of metadata if `tables` counts them, can be had. Only the
    /// holder of the structure lock takes any, so what was there stays there.
    pub(crate) fn check_meta(&self, _: &VmLock<'_>, tables: u64, others: u64) -> Result<(), Refusal> {
        let (meta, spare) = (self.meta.len(), self.spare.len());
        if meta >= others && meta + spare >= tables + others { Ok(()) } else { Err(Refusal::NoMeta) }
    }

    /// A zeroed frame for a table.
    pub(crate) fn take_table(&self, machine: &impl Machine, structure: &VmLock<'_>) -> Option<Pfn> {
        self.spare.pop(machine).or_else(|| self.take_meta(machine, structure))
    }

    /// A zeroed frame for anything.
    pub(crate) fn take_meta(&self, machine: &impl Machine, _: &VmLock<'_>) -> Option<Pfn> {
        self.meta.pop(machine)
    }

    /// Puts aside a table that no entry points to any more and no TLB remembers.
    pub(crate) fn put_table(&self, machine: &impl Machine, table: Pfn) {
        machine.wipe(table);
        self.spare.push(machine, table);
    }

    /// Puts aside the tables that a detached block left.
    pub(crate) fn put_tables(&self, machine: &impl Machine, tables: [Option<Pfn>; 2]) {
        tables.into_iter().flatten().for_each(|table| self.put_table(machine, table));
    }

    /// Empties the lists before their frames go back to the host.
    pub(crate) fn forget_lists(&self) {
        self.meta.forget();
        self.spare.forget();
    }

    /// Adds to a counter on behalf of the block around `frame`.
    #[inline]
    pub(crate) fn count(&self, counter: usize, frame: Pfn, frames: u64) {
        self.tally.add(counter, frame.get() / BLOCK_FRAMES, frames);
    }

    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn fork(&self) -> Self {
        let copy = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
        Self {
            id: self.id,
            root: self.root,
            layout: self.layout.clone(),
            half: self.half,
            map_base: self.map_base,
            structure: copy(&self.structure),
            life: copy(&self.life),
            root_given: copy(&self.root_given),
            cursor: copy(&self.cursor),
            meta: self.meta.fork(),
            spare: self.spare.fork(),
            meta_frames: copy(&self.meta_frames),
            loading: copy(&self.loading),
            bitmap: copy(&self.bitmap),
            tally: self.tally.fork(),
            near: self.near.each_ref().map(Near::fork),
        }
    }
}
