//! Faults, pins, and the accesses that Postern itself makes on behalf of a guest or the host.

use crate::guest::Guest;
use crate::record::{COUNT_MAX, Record, State};
use crate::sync::Word;
use crate::transition::{Event, permit};
use crate::{Core, Gfn, Machine, Pfn, Refusal, Visibility};

/// What to do about a guest's access that its tables do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Let the guest try again: it may, or a step towards it has been made.
    Retry,
    /// The host has to give a page, which will appear in this half.
    Absent(Visibility),
    /// The page is in the other half of the address space, or the guest has not accepted it.
    Wrong,
    /// The frame failed in hardware.
    Poisoned,
    /// No RAM of the VM.
    OutOfRange,
}

/// What to do about a host's access that its tables do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFault {
    /// Let the host try again: it may access the frame, whose mapping was being changed.
    Retry,
    /// The frame is not the host's to access.
    Denied(State),
    /// No RAM that the database covers.
    NotRam,
}

impl<M: Machine> Core<M> {
    /// Holds a frame where it is: a guest's shared one, or one of the host's own. `state` is the
    /// one the caller counts on.
    ///
    /// # Errors
    /// [`Refusal::NotRam`]; [`Refusal::NotOwner`] in any other state; [`Refusal::Overflow`]; [`Refusal::NoPool`].
    pub fn pin(&self, frame: Pfn, state: State) -> Result<(), Refusal> {
        let mut block = self.lock(frame)?;
        let record = block.record(frame);
        permit(record, Event::Pin, None)?;
        if record.state != state {
            return Err(Refusal::NotOwner(record.state));
        }
        if record.count >= COUNT_MAX {
            return Err(Refusal::Overflow);
        }
        let reserve = block.reserve()?;
        block.split(reserve);
        block.set(frame, Record { count: record.count + 1, ..record });
        Ok(())
    }

    /// Undoes one [`Core::pin`]. A pinned frame stays where it is, except that it becomes the host's when its VM ends.
    ///
    /// # Errors
    /// [`Refusal::NotRam`]; [`Refusal::NotOwner`] when the frame is nobody's to pin; [`Refusal::Underflow`].
    pub fn unpin(&self, frame: Pfn) -> Result<(), Refusal> {
        let mut block = self.lock(frame)?;
        let record = block.record(frame);
        permit(record, Event::Unpin, None)?;
        let count = record.count.checked_sub(1).ok_or(Refusal::Underflow)?;
        block.set(frame, Record { count, ..record });
        if count == 0 && record.state == State::Host {
            block.merge(frame);
        }
        Ok(())
    }

    /// Borrows a frame of the host's for Postern's own use: the host keeps it and cannot give it away meanwhile.
    ///
    /// # Errors
    /// [`Refusal::NotRam`]; [`Refusal::NotOwner`] when it is not the host's or is lent already; [`Refusal::Pinned`];
    /// [`Refusal::NoPool`].
    pub fn lend(&self, frame: Pfn) -> Result<(), Refusal> {
        let mut block = self.lock(frame)?;
        let state = permit(block.record(frame), Event::Lend, None)?;
        let reserve = block.reserve()?;
        block.split(reserve);
        block.set(frame, Record::plain(state));
        Ok(())
    }

    /// Ends [`Core::lend`].
    ///
    /// # Errors
    /// [`Refusal::NotRam`]; [`Refusal::NotOwner`] when the frame is not lent.
    pub fn end_lend(&self, frame: Pfn) -> Result<(), Refusal> {
        let mut block = self.lock(frame)?;
        let state = permit(block.record(frame), Event::EndLend, None)?;
        block.set(frame, Record::plain(state));
        block.merge(frame);
        Ok(())
    }

    /// What a guest wants a frame of its RAM to be: with an alias what it last said, populated or not; without one, what
    /// it is (private when not populated).
    pub fn visibility(&self, vm: &Guest, gfn: Gfn) -> Visibility {
        if vm.check_live().is_err() || vm.check_range(gfn, 1).is_err() {
            return Visibility::Private;
        }
        if vm.layout().alias.is_some() {
            return self.wanted(vm, gfn);
        }
        let Some(frame) = self.frame_at(vm, gfn) else { return Visibility::Private };
        let record = self.lookup(frame);
        let ours = record.owner == Some(vm.id()) && record.gfn == gfn;
        if ours && record.state == State::Shared { Visibility::Shared } else { Visibility::Private }
    }

    /// [`Core::visibility`] of `start`, and the end of a run from there to `end` at most that has the same. The run may be
    /// longer than the answer, which looks at a bounded number of pages (256 MiB with an alias, 2 MiB without).
    pub fn visibility_run(&self, vm: &Guest, start: Gfn, end: Gfn) -> (Visibility, Gfn) {
        let wanted = self.visibility(vm, start);
        let end = end.min(vm.layout().ram.end);
        if start >= end || vm.check_live().is_err() || vm.check_range(start, 1).is_err() {
            return (wanted, start.max(end));
        }
        if vm.layout().alias.is_some() {
            return self.wanted_run(vm, start..end);
        }
        let end = end.min(start.block_start().offset(crate::BLOCK_FRAMES));
        let mut at = start.offset(1);
        while at < end && self.visibility(vm, at) == wanted {
            at = at.offset(1);
        }
        (wanted, at)
    }

    /// Decides about a guest's access to `gfn` through one half of its address space (without an alias: always
    /// [`Visibility::Private`]) that faulted.
    pub fn fault(&self, vm: &Guest, gfn: Gfn, through: Visibility) -> Fault {
        if vm.check_range(gfn, 1).is_err() {
            return Fault::OutOfRange;
        }
        let aliased = vm.layout().alias.is_some();
        if aliased && vm.check_live().is_ok() && self.wanted(vm, gfn) != through {
            return Fault::Wrong;
        }
        let half = if aliased { through } else { Visibility::Private };
        match self.resolve(vm, gfn) {
            Ok((_, _, record)) => match record.state {
                State::Poisoned => Fault::Poisoned,
                State::Moving => Fault::Absent(half),
                State::Pending => Fault::Wrong,
                _ => Fault::Retry,
            },
            Err(Refusal::Busy) => Fault::Retry,
            Err(_) => Fault::Absent(half),
        }
    }

    /// Lets `f` access a private page of the guest. `f` runs under the lock of the page's block: it must be short and must
    /// not call the core.
    ///
    /// # Errors
    /// [`Refusal::OutOfRange`], [`Refusal::Absent`], [`Refusal::Busy`], [`Refusal::Poisoned`], [`Refusal::Dying`];
    /// [`Refusal::WrongVisibility`] when the page is shared, or not accepted.
    pub fn with_page<R>(&self, vm: &Guest, gfn: Gfn, f: impl FnOnce(&[Word; 512]) -> R) -> Result<R, Refusal> {
        let (_block, frame, record) = self.resolve(vm, gfn)?;
        match record.state {
            State::Private => Ok(f(self.machine.words(frame))),
            State::Shared | State::Pending => Err(Refusal::WrongVisibility),
            State::Poisoned => Err(Refusal::Poisoned),
            _ => Err(Refusal::Busy),
        }
    }

    /// The frame of a private page of the guest. It may leave the guest as soon as this returns, which the machine is told
    /// by way of [`Machine::flush`] before anybody else gets it.
    ///
    /// # Errors
    /// As [`Core::with_page`].
    pub fn private_frame(&self, vm: &Guest, gfn: Gfn) -> Result<Pfn, Refusal> {
        let (_block, frame, record) = self.resolve(vm, gfn)?;
        match record.state {
            State::Private => Ok(frame),
            State::Shared | State::Pending => Err(Refusal::WrongVisibility),
            State::Poisoned => Err(Refusal::Poisoned),
            _ => Err(Refusal::Busy),
        }
    }

    /// As [`Core::with_page`], for a page that the guest shares. The host may read and change it at any time.
    ///
    /// # Errors
    /// As [`Core::with_page`]; [`Refusal::WrongVisibility`] when the page is private.
    pub fn with_shared_page<R>(&self, vm: &Guest, gfn: Gfn, f: impl FnOnce(&[Word; 512]) -> R) -> Result<R, Refusal> {
        let (_block, frame, record) = self.resolve(vm, gfn)?;
        match record.state {
            State::Shared => Ok(f(self.machine.words(frame))),
            State::Private | State::Pending => Err(Refusal::WrongVisibility),
            State::Poisoned => Err(Refusal::Poisoned),
            _ => Err(Refusal::Busy),
        }
    }

    /// Lets `f` access a frame that the host owns or may access. `f` runs under the lock of the frame's block: it must be
    /// short and must not call the core. What it reads, the host may change at any time.
    ///
    /// # Errors
    /// [`Refusal::NotRam`]; [`Refusal::NotOwner`]; [`Refusal::Poisoned`].
    pub fn with_host_page<R>(&self, frame: Pfn, f: impl FnOnce(&[Word; 512]) -> R) -> Result<R, Refusal> {
        if !self.is_ram(frame) {
            return Err(Refusal::NotRam);
        }
        let block = self.lock(frame)?;
        match block.record(frame).state {
            state if state.host_may_access() => Ok(f(self.machine.words(frame))),
            State::Poisoned => Err(Refusal::Poisoned),
            state => Err(Refusal::NotOwner(state)),
        }
    }

    /// Decides about a host's access to the byte at `address` that faulted.
    pub fn host_fault(&self, address: u64) -> HostFault {
        let record = self.lookup(Pfn::from_addr(address));
        match record.state {
            State::Absent => HostFault::NotRam,
            state if state.host_may_access() => HostFault::Retry,
            state => HostFault::Denied(state),
        }
    }
}
