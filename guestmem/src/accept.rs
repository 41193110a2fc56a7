//! Pages that a guest has taken back from the host, and has to accept before it may use them.
//!
//! They were wiped when they were taken back, so accepting one changes no content: it only puts the entry where the mark
//! was. What it gives the guest is certainty. A page can be accepted once for each time that it was taken back, so nobody
//! can make it start anew on a page that it uses.

use crate::convert::Lack;
use crate::guest::{Guest, VmLock};
use crate::record::{Record, State};
use crate::sync::Ordering;
use crate::table::{BLOCK_LEVEL, PAGE_LEVEL, Slot};
use crate::transition::{Event, permit};
use crate::{BLOCK_FRAMES, Budget, Core, Gfn, Machine, Pfn, Refusal, Size, Visibility};

/// What became of [`Core::accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// The guest may use the memory, which is zero; or, where there is none yet, will be when it comes.
    Accepted,
    /// It may do so already, by a mapping of this size. Nothing has changed.
    Already(Size),
    /// A block was asked for where there are single pages. Nothing has changed.
    Smaller,
}

impl<M: Machine> Core<M> {
    /// Accepts a page or a whole block of the guest's private memory.
    ///
    /// # Errors
    /// [`Refusal::OutOfRange`], [`Refusal::Unaligned`], [`Refusal::Busy`], [`Refusal::NoPool`], [`Refusal::NoMeta`],
    /// [`Refusal::Poisoned`], [`Refusal::Dying`]; [`Refusal::WrongVisibility`] when it is shared.
    pub fn accept(&self, vm: &Guest, gfn: Gfn, size: Size) -> Result<Acceptance, Refusal> {
        if size == Size::Page && self.accept_ready(vm, gfn) {
            return Ok(Acceptance::Accepted);
        }
        vm.check_range(gfn, size.frames())?;
        vm.check_live()?;
        match size {
            Size::Block if !gfn.is_aligned(Size::Block) => Err(Refusal::Unaligned),
            Size::Block => self.accept_block(vm, gfn),
            Size::Page => match self.accept_page(vm, gfn, None) {
                Err(Lack::Structure) => match self.accept_page(vm, gfn, Some(&vm.try_lock()?)) {
                    Err(Lack::Structure) => Err(Refusal::Busy),
                    Err(Lack::Refused(refusal)) => Err(refusal),
                    Ok(answer) => Ok(answer),
                },
                Err(Lack::Refused(refusal)) => Err(refusal),
                Ok(answer) => Ok(answer),
            },
        }
    }

    fn accept_page(&self, vm: &Guest, gfn: Gfn, structure: Option<&VmLock<'_>>) -> Result<Acceptance, Lack> {
        let (mut block, frame, record) = match self.resolve(vm, gfn) {
            Err(Refusal::Absent) => return Ok(self.accept_absent(vm, gfn)?),
            resolved => resolved?,
        };
        match record.state {
            State::Private => return Ok(Acceptance::Already(self.mapping_size(vm, gfn))),
            // On its way from the host, in one piece with others: as if it were not there.
            State::Moving => return Ok(self.accept_absent(vm, gfn)?),
            _ => {}
        }
        let state = permit(record, Event::Accept, Some(vm.id()))?;
        self.check_structure(vm, gfn, None, false, structure)?;
        let reserve = block.reserve()?;

        block.split(reserve);
        let slots = self.page_slots(vm, gfn, None, false, structure).ok_or(Lack::Refused(Refusal::Busy))?;
        slots.private.0.store(Self::guest_leaf(frame, PAGE_LEVEL, Visibility::Private), Ordering::Release);
        self.machine.publish();
        block.set(frame, Record { state, ..record });
        Ok(Acceptance::Accepted)
    }

    /// Nothing is there: what comes is private if the guest has not said otherwise, zero, and needs no acceptance.
    fn accept_absent(&self, vm: &Guest, gfn: Gfn) -> Result<Acceptance, Refusal> {
        match self.wanted(vm, gfn) {
            Visibility::Private => Ok(Acceptance::Accepted),
            Visibility::Shared => Err(Refusal::WrongVisibility),
        }
    }

    fn mapping_size(&self, vm: &Guest, gfn: Gfn) -> Size {
        match self.page_entry(vm, Visibility::Private, gfn) {
            Some(_) => Size::Page,
            None => Size::Block,
        }
    }

    fn accept_block(&self, vm: &Guest, gfn: Gfn) -> Result<Acceptance, Refusal> {
        match self.wanted_block(vm, gfn) {
            Some(Visibility::Private) => {}
            Some(Visibility::Shared) => return Err(Refusal::WrongVisibility),
            None => return Ok(Acceptance::Smaller),
        }
        let slot = self.over(vm, Visibility::Private, gfn);
        match slot.map_or(Slot::Empty, |slot| Self::read(slot.load(Ordering::Acquire), BLOCK_LEVEL)) {
            Slot::Empty => Ok(Acceptance::Accepted),
            Slot::Leaf(..) => Ok(Acceptance::Already(Size::Block)),
            Slot::Table(_) => Ok(Acceptance::Smaller),
            Slot::Marked(first) => self.accept_marked(vm, gfn, first),
        }
    }

    /// A block that is one piece of memory, and not mapped.
    fn accept_marked(&self, vm: &Guest, gfn: Gfn, first: Pfn) -> Result<Acceptance, Refusal> {
        let mut block = self.try_lock(first)?;
        let ours = |record: &Record| (record.owner, record.gfn) == (Some(vm.id()), gfn);
        let Some(record) = block.whole().filter(ours) else { return Err(Refusal::Busy) };
        vm.check_live()?;
        match record.state {
            State::Moving => return Ok(Acceptance::Accepted),
            State::Closing => {
                let _ = self.push_on(vm, &mut block, &mut Budget::new(BLOCK_FRAMES / 16));
                return Err(Refusal::Busy);
            }
            _ => {}
        }
        let state = permit(record, Event::Accept, Some(vm.id()))?;
        let entries = self.block_slots(vm, gfn).ok_or(Refusal::Busy)?;
        entries.map(self, first, state);
        self.machine.publish();
        block.set_whole(Record { state, ..record });
        Ok(Acceptance::Accepted)
    }
}
