//! The entries of one guest page or guest block, in the private half and in the shared one.

use crate::convert::Lack;
use crate::guest::{Guest, VmLock};
use crate::motion::Cut;
use crate::record::State;
use crate::sync::{Ordering, Word};
use crate::table::{BLOCK_LEVEL, PAGE_LEVEL, Slot};
use crate::{Core, FRAME_SHIFT, Gfn, Machine, Pfn, Size, TableFormat, Visibility};

/// An entry and the frame number it translates.
pub(crate) type At<'a> = (&'a Word, u64);

/// The 4 KiB entries of a guest page.
pub(crate) struct PageSlots<'a> {
    /// In the private half, or the only one.
    pub private: At<'a>,
    /// In the shared half.
    pub alias: Option<At<'a>>,
}

/// The 2 MiB entries of a guest block.
pub(crate) struct BlockSlots<'a> {
    /// In the private half, or the only one.
    pub private: At<'a>,
    /// In the shared half, as far as it has tables.
    pub alias: Option<At<'a>>,
}

impl PageSlots<'_> {
    /// Removes a page from both halves; the private entry keeps a mark of it.
    #[inline(always)]
    pub fn cut<M: Machine>(&self, _: &Core<M>, vm: &Guest, frame: Pfn, mut cut: Cut) -> Cut {
        let (slot, number) = self.private;
        if let Slot::Leaf(..) = Core::<M>::read(slot.swap(Core::<M>::mark(frame), Ordering::AcqRel), PAGE_LEVEL) {
            cut = cut.at(vm.space(), number << FRAME_SHIFT, Size::Page);
        }
        if let Some((slot, number)) = self.alias
            && slot.swap(0, Ordering::AcqRel) != 0
        {
            cut = cut.at(vm.space(), number << FRAME_SHIFT, Size::Page);
        }
        cut
    }
}

impl BlockSlots<'_> {
    /// Removes a block, or the tables of its pages, from both halves; the private entry keeps a mark of it. The tables
    /// may be used again after the flush.
    pub fn detach<M: Machine>(&self, _: &Core<M>, vm: &Guest, first: Pfn, mut cut: Cut) -> (Cut, [Option<Pfn>; 2]) {
        let mut tables = [None; 2];
        let halves = [(Some(self.private), Core::<M>::mark(first)), (self.alias, 0)];
        for ((half, leave), detached) in halves.into_iter().zip(&mut tables) {
            let Some((slot, number)) = half else { continue };
            match Core::<M>::read(slot.swap(leave, Ordering::AcqRel), BLOCK_LEVEL) {
                Slot::Leaf(..) => cut = cut.at(vm.space(), number << FRAME_SHIFT, Size::Block),
                Slot::Table(table) => {
                    *detached = Some(table);
                    cut = cut.everywhere(vm.space());
                }
                Slot::Empty | Slot::Marked(_) => {}
            }
        }
        (cut, tables)
    }
}

impl<'a> BlockSlots<'a> {
    /// Maps a detached block in the half that its state says.
    pub fn map<M: Machine>(&self, _: &Core<M>, first: Pfn, state: State) {
        match (state, self.alias) {
            (State::Shared, Some((slot, _))) => {
                slot.store(Core::<M>::guest_leaf(first, BLOCK_LEVEL, Visibility::Shared), Ordering::Release);
            }
            _ => {
                let leaf = Core::<M>::guest_leaf(first, BLOCK_LEVEL, Visibility::Private);
                self.private.0.store(leaf, Ordering::Release);
            }
        }
    }
}

impl<M: Machine> Core<M> {
    /// The 2 MiB entries of the block of guest addresses at `gfn`, as far as there are tables.
    pub(crate) fn block_slots(&self, vm: &Guest, gfn: Gfn) -> Option<BlockSlots<'_>> {
        let alias = || Some((self.over(vm, Visibility::Shared, gfn)?, vm.alias(gfn)?));
        Some(BlockSlots { private: (self.over(vm, Visibility::Private, gfn)?, gfn.get()), alias: alias() })
    }

    /// Checks that [`Core::page_slots`] will find or can make all it needs. `alias` is the page's number in the shared
    /// half when that is concerned, `bit` whether its bit in the map of shared pages will be set.
    ///
    /// # Errors
    /// [`Lack::Structure`] when something is to be made and the caller has no structure lock, else
    /// [`crate::Refusal::NoMeta`].
    #[inline]
    pub(crate) fn check_structure(
        &self,
        vm: &Guest,
        gfn: Gfn,
        alias: Option<u64>,
        bit: bool,
        structure: Option<&VmLock<'_>>,
    ) -> Result<(), Lack> {
        let missing = |number| self.missing(vm.root(), number, PAGE_LEVEL);
        let tables = missing(gfn.get()) + alias.map_or(0, missing);
        let pages = if bit { self.wanted_missing(vm, gfn) } else { 0 };
        if tables + pages == 0 {
            return Ok(());
        }
        let structure = structure.ok_or(Lack::Structure)?;
        Ok(vm.check_meta(structure, tables, pages)?)
    }

    /// The 4 KiB entries of a populated guest page; makes what is missing and splits what covers more, as checked by
    /// [`Core::check_structure`]. None only when the VM's root has been cut meanwhile.
    #[inline]
    pub(crate) fn page_slots(
        &self,
        vm: &Guest,
        gfn: Gfn,
        alias: Option<u64>,
        bit: bool,
        structure: Option<&VmLock<'_>>,
    ) -> Option<PageSlots<'_>> {
        let private = (self.page_slot(vm, Visibility::Private, gfn, structure)?, gfn.get());
        let alias = match alias {
            Some(number) => Some((self.page_slot(vm, Visibility::Shared, gfn, structure)?, number)),
            None => None,
        };
        if let (true, Some(structure)) = (bit, structure) {
            self.wanted_extend(vm, structure, gfn).ok()?;
        }
        Some(PageSlots { private, alias })
    }

    #[inline]
    fn page_slot(&self, vm: &Guest, half: Visibility, gfn: Gfn, structure: Option<&VmLock<'_>>) -> Option<&Word> {
        if let Some(slot) = self.page_entry(vm, half, gfn) {
            return Some(slot);
        }
        let structure = structure?;
        let start = vm.number(half, gfn.block_start())?;
        let slot = self.extend(vm, structure, half, gfn, BLOCK_LEVEL).ok()?;
        let whole = slot.load(Ordering::Acquire);
        match Self::read(whole, BLOCK_LEVEL) {
            Slot::Leaf(base, _) => {
                let table = vm.take_table(&self.machine, structure)?;
                self.fill(table, whole);
                // Break before make; the mark keeps lookups right meanwhile.
                slot.store(Self::mark(base), Ordering::Release);
                let cut = Cut::new(base, Size::Block).at(vm.space(), start << FRAME_SHIFT, Size::Block);
                let _same_owner = self.flush(cut, base);
                slot.store(M::Format::table(table.addr()), Ordering::Release);
            }
            Slot::Marked(_) => {
                let table = vm.take_table(&self.machine, structure)?;
                self.fill(table, whole);
                slot.store(M::Format::table(table.addr()), Ordering::Release);
            }
            Slot::Empty | Slot::Table(_) => {
                self.extend(vm, structure, half, gfn, PAGE_LEVEL).ok()?;
            }
        }
        self.machine.publish();
        self.page_entry(vm, half, gfn)
    }
}
