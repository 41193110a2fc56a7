//! A frame on its way from one owner to the next: cut from every table that mapped it, flushed from every TLB that may
//! remember it, wiped (or, before a VM is sealed, measured), and only then assigned.
//!
//! Each step consumes the value of the step before, no value can be copied or made elsewhere, and what maps and records
//! a frame for its next owner asks for a [`Clean`]. So a forgotten flush or wipe does not compile:
//!
//! ```compile_fail
//! # use guestmem::motion::{Clean, Cut};
//! fn forgotten_flush(cut: Cut, machine: &impl guestmem::Machine) -> Clean {
//!     cut.wipe(machine) // only Flushed can be wiped
//! }
//! ```
//! ```compile_fail
//! # use guestmem::motion::{Clean, Flushed};
//! fn forgotten_wipe(flushed: Flushed) -> Clean {
//!     flushed.into()
//! }
//! ```
//! ```compile_fail
//! # use guestmem::motion::{Clean, Cut};
//! fn handed_on_twice(cut: Cut, machine: &impl guestmem::Machine) -> [Clean; 2] {
//!     [cut.flush(machine).wipe(machine), cut.flush(machine).wipe(machine)] // the first flush consumed it
//! }
//! ```
//! ```compile_fail
//! # use guestmem::motion::Clean;
//! fn copied(clean: &Clean) -> Clean {
//!     clean.clone()
//! }
//! ```
//! ```compile_fail
//! # use guestmem::{Pfn, Size, motion::Clean};
//! fn forged(frame: Pfn) -> Clean {
//!     Clean { frame, size: Size::Page }
//! }
//! ```
//! ```compile_fail
//! # #![deny(unused_must_use)]
//! # use guestmem::motion::Cut;
//! fn dropped(cut: impl FnOnce() -> Cut) {
//!     cut();
//! }
//! ```
//! The way that does compile:
//! ```
//! # use guestmem::motion::{Clean, Cut};
//! fn complete(cut: Cut, machine: &impl guestmem::Machine) -> Clean {
//!     cut.flush(machine).wipe(machine)
//! }
//! ```

use crate::{Budget, Machine, Pfn, Record, Size, Space, State};

/// What a TLB may still hold.
#[derive(Debug)]
enum Stale {
    One(Space, u64, Size),
    All(Space),
}

/// Removed from the tables; a TLB may still know it.
#[derive(Debug)]
#[must_use = "a frame that was cut has to be flushed, wiped and assigned"]
pub struct Cut {
    frame: Pfn,
    size: Size,
    stale: [Option<Stale>; 2],
}

impl Cut {
    /// A frame that no table maps; translations that were removed are added.
    pub(crate) const fn new(frame: Pfn, size: Size) -> Self {
        Self { frame, size, stale: [None, None] }
    }

    /// One translation was removed at `address`, which covered `size`.
    #[inline(always)]
    pub(crate) fn at(self, space: Space, address: u64, size: Size) -> Self {
        self.and(Stale::One(space, address, size))
    }

    /// Several translations or a table were removed.
    pub(crate) fn everywhere(self, space: Space) -> Self {
        self.and(Stale::All(space))
    }

    #[inline(always)]
    fn and(self, stale: Stale) -> Self {
        let [first, second] = self.stale;
        let stale = match (first, second) {
            (None, second) => [Some(stale), second],
            (first, None) => [first, Some(stale)],
            // A frame is mapped in two spaces at most; if a third ever came, flushing both whole would still be right.
            (Some(first), Some(second)) => [Some(Stale::All(first.space())), Some(Stale::All(second.space()))],
        };
        Self { stale, ..self }
    }

    /// Completes the removal on all CPUs and devices.
    #[inline(always)]
    pub fn flush(self, machine: &impl Machine) -> Flushed {
        // Not a loop: what was removed stays in registers.
        let [first, second] = self.stale;
        if let Some(stale) = first {
            stale.flush(machine);
        }
        if let Some(stale) = second {
            stale.flush(machine);
        }
        Flushed { frame: self.frame, size: self.size, done: 0 }
    }

    /// Number of flushes that [`Cut::flush`] will do.
    #[inline(always)]
    pub(crate) fn flushes(&self) -> u64 {
        self.stale.iter().flatten().count() as u64
    }
}

impl Stale {
    #[inline(always)]
    fn flush(self, machine: &impl Machine) {
        match self {
            Self::One(space, address, size) => machine.flush(space, address, size),
            Self::All(space) => machine.flush_all(space),
        }
    }

    fn space(&self) -> Space {
        match *self {
            Self::One(space, ..) | Self::All(space) => space,
        }
    }
}

/// No longer reachable by the way it was; still has its content.
#[derive(Debug)]
#[must_use = "a frame that was flushed has to be wiped and assigned"]
pub struct Flushed {
    frame: Pfn,
    size: Size,
    done: u64,
}

impl Flushed {
    /// A frame whose owner keeps its mapping while the host gets one (sharing without an alias): nothing is removed.
    pub(crate) const fn stays(frame: Pfn) -> Self {
        Self { frame, size: Size::Page, done: 0 }
    }

    /// Takes up a motion that an earlier call began: these states are entered only after the flush.
    pub(crate) fn resumed(frame: Pfn, size: Size, record: Record) -> Option<Self> {
        match record.state {
            State::Moving | State::Opening | State::Closing | State::Returning => {
                Some(Self { frame, size, done: u64::from(record.count) })
            }
            _ => None,
        }
    }

    /// Wipes all of it.
    #[inline(always)]
    pub fn wipe(self, machine: &impl Machine) -> Clean {
        for index in self.done..self.size.frames() {
            machine.wipe(self.frame.offset(index));
        }
        Clean { frame: self.frame, size: self.size }
    }

    /// Wipes as much as the budget allows; otherwise says how many frames are done.
    pub(crate) fn wipe_some(self, machine: &impl Machine, budget: &mut Budget) -> Result<Clean, u64> {
        let mut done = self.done;
        while done < self.size.frames() {
            let frames = budget.frames_now(machine, self.size.frames() - done);
            if frames == 0 {
                return Err(done);
            }
            machine.wipe_several(self.frame.offset(done), frames);
            done += frames;
        }
        Ok(Clean { frame: self.frame, size: self.size })
    }

    /// The launch image: all of it has been measured, so it keeps its content.
    pub(crate) const fn measured(self) -> Clean {
        Clean { frame: self.frame, size: self.size }
    }

    /// Shared memory that goes to the host, which could see it already.
    pub(crate) const fn seen(self) -> Clean {
        Clean { frame: self.frame, size: self.size }
    }
}

/// Ready for its next owner.
#[derive(Debug)]
#[must_use = "a clean frame has to be assigned to somebody"]
pub struct Clean {
    frame: Pfn,
    size: Size,
}

impl Clean {
    /// First frame.
    pub const fn frame(&self) -> Pfn {
        self.frame
    }

    /// How much.
    pub const fn size(&self) -> Size {
        self.size
    }
}
