//! What a guest with a shared half wants its pages to be: one bit for each guest frame of RAM, set for shared.
//!
//! For populated pages the records say the same. For the others this is the only memory of the guest's choice, and
//! decides how a page arrives. An index page names 4 KiB bitmap pages; a missing one stands for "all private".

use crate::guest::{BITMAP_FRAMES, Guest, VmLock};
use crate::sync::{Ordering, Word};
use crate::{BLOCK_FRAMES, Core, Gfn, Machine, Pfn, Refusal, Visibility};
use core::ops::Range;

/// A guest frame's bit.
pub(crate) struct Wish<'a> {
    word: &'a Word,
    bit: u64,
}

impl Wish<'_> {
    /// What the guest wants the frame to be.
    #[inline]
    pub fn get(&self) -> Visibility {
        if self.word.load(Ordering::Relaxed) >> self.bit & 1 == 1 { Visibility::Shared } else { Visibility::Private }
    }

    /// Notes what it wants it to be.
    #[inline]
    pub fn set(&self, to: Visibility) {
        match to {
            Visibility::Shared => self.word.fetch_or(1 << self.bit, Ordering::Relaxed),
            Visibility::Private => self.word.fetch_and(!(1 << self.bit), Ordering::Relaxed),
        };
    }
}

/// Words that one call of [`Core::visibility_run`] looks at (256 MiB of guest memory).
const RUN_WORDS: u64 = 1024;

impl<M: Machine> Core<M> {
    /// The entry of the index page for a place in the map; none without an index page.
    #[inline(always)]
    fn index_entry(&self, vm: &Guest, at: u64) -> Option<&Word> {
        let index = Pfn::new(vm.bitmap.load(Ordering::Acquire));
        if index.get() == 0 {
            return None;
        }
        // Postern's own number, and so RAM for sure.
        Some(&self.machine.words(index)[(at / BITMAP_FRAMES) as usize % 512])
    }

    /// The page of the map that has the bit of a place in it; none while it is missing.
    #[inline(always)]
    fn map_page(&self, vm: &Guest, at: u64) -> Option<Pfn> {
        match self.index_entry(vm, at)?.load(Ordering::Acquire) {
            0 => None,
            page => Some(Pfn::new(page)),
        }
    }

    /// A guest frame's bit; none while the page is missing. `gfn` is in RAM.
    pub(crate) fn wanted_word(&self, vm: &Guest, gfn: Gfn) -> Option<Wish<'_>> {
        let at = vm.place_in_map(gfn);
        Some(Wish { word: self.entry(self.map_page(vm, at)?, at / 64)?, bit: at % 64 })
    }

    /// [`Core::wanted_word`] for whoever holds the lock of a block in which the VM has a frame, and lives: the map is not given
    /// back before such frames are.
    #[inline(always)]
    pub(crate) fn wish_alive(&self, vm: &Guest, gfn: Gfn) -> Option<Wish<'_>> {
        let at = vm.place_in_map(gfn);
        let page = self.map_page(vm, at)?;
        Some(Wish { word: &self.machine.words(page)[(at / 64) as usize % 512], bit: at % 64 })
    }

    /// What the guest wants a frame of its RAM to be.
    #[inline]
    pub(crate) fn wanted(&self, vm: &Guest, gfn: Gfn) -> Visibility {
        self.wanted_word(vm, gfn).map_or(Visibility::Private, |wish| wish.get())
    }

    /// What the guest wants all frames of a 2 MiB block of guest addresses to be, if it is one thing.
    pub(crate) fn wanted_block(&self, vm: &Guest, gfn: Gfn) -> Option<Visibility> {
        let wanted = self.wanted(vm, gfn);
        let all = gfn.offset(BLOCK_FRAMES);
        let (_, end) = self.wanted_run(vm, gfn..all);
        if end == all { Some(wanted) } else { None }
    }

    /// The longest run from the start of a range of RAM that wants the same, as far as the words allow.
    pub(crate) fn wanted_run(&self, vm: &Guest, gfns: Range<Gfn>) -> (Visibility, Gfn) {
        let wanted = self.wanted(vm, gfns.start);
        let mut at = gfns.start;
        for _ in 0..RUN_WORDS {
            if at >= gfns.end {
                break;
            }
            let same = match self.wanted_word(vm, at) {
                None if wanted == Visibility::Shared => return (wanted, at),
                // The whole page is missing: on to the next one.
                None => BITMAP_FRAMES - vm.place_in_map(at) % BITMAP_FRAMES,
                Some(Wish { word, bit }) => {
                    let word = word.load(Ordering::Relaxed) >> bit;
                    let same = if wanted == Visibility::Shared { word.trailing_ones() } else { word.trailing_zeros() };
                    let same = u64::from(same).min(64 - bit);
                    if same < 64 - bit {
                        return (wanted, at.offset(same).min(gfns.end));
                    }
                    same
                }
            };
            at = at.offset(same);
        }
        (wanted, at.min(gfns.end))
    }

    /// Frames that the map of shared pages lacks before bits of a range within one bitmap page can be set.
    pub(crate) fn wanted_missing(&self, vm: &Guest, gfn: Gfn) -> u64 {
        match self.index_entry(vm, vm.place_in_map(gfn)) {
            None => 2,
            Some(entry) => u64::from(entry.load(Ordering::Acquire) == 0),
        }
    }

    /// Provides the page that holds the bit of `gfn`.
    pub(crate) fn wanted_extend(&self, vm: &Guest, structure: &VmLock<'_>, gfn: Gfn) -> Result<(), Refusal> {
        vm.check_meta(structure, 0, self.wanted_missing(vm, gfn))?;
        if vm.bitmap.load(Ordering::Relaxed) == 0 {
            let index = vm.take_meta(&self.machine, structure).ok_or(Refusal::NoMeta)?;
            vm.bitmap.store(index.get(), Ordering::Release);
        }
        let entry = self.index_entry(vm, vm.place_in_map(gfn)).ok_or(Refusal::OutOfRange)?;
        if entry.load(Ordering::Relaxed) == 0 {
            let page = vm.take_meta(&self.machine, structure).ok_or(Refusal::NoMeta)?;
            entry.store(page.get(), Ordering::Release);
        }
        Ok(())
    }

    /// Notes what the guest wants of a range. Pages for bits to be set are there already.
    pub(crate) fn set_wanted(&self, vm: &Guest, gfns: Range<Gfn>, to: Visibility) {
        let mut at = gfns.start;
        while at < gfns.end {
            let left = gfns.end.since(at);
            let step = match self.wanted_word(vm, at) {
                None => BITMAP_FRAMES - vm.place_in_map(at) % BITMAP_FRAMES,
                Some(Wish { word, bit }) => {
                    let step = left.min(64 - bit);
                    let mask = (u64::MAX >> (64 - step)) << bit;
                    match to {
                        Visibility::Shared => word.fetch_or(mask, Ordering::Relaxed),
                        Visibility::Private => word.fetch_and(!mask, Ordering::Relaxed),
                    };
                    step
                }
            };
            at = at.offset(step);
        }
    }
}
