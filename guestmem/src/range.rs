//! How long one call may work, and how it says that there is more to do.

use crate::Machine;

/// Whether an operation is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It is.
    Done,
    /// It has got further, but needs another call with the same arguments.
    More,
}

/// What one frame's wipe is charged, in units of looking at one summary record.
const FRAME_UNITS: u64 = 16;

/// Most frames wiped between two looks at interrupts (64 KiB).
const PIECE_FRAMES: u64 = 16;

/// The work that one call may still do. It ends early when the machine has an interrupt pending, but never before the
/// first frame, so that an operation that is repeated always gets to its end.
#[derive(Debug)]
pub struct Budget {
    units: u64,
    looked: bool,
    wiped: bool,
}

impl Budget {
    /// A budget of `frames` frames to wipe; 0 counts as 1.
    pub const fn new(frames: u64) -> Self {
        let frames = if frames == 0 { 1 } else { frames };
        Self { units: frames.saturating_mul(FRAME_UNITS), looked: false, wiped: false }
    }

    /// For callers that can afford to finish at once (boot, tests). Still ends when an interrupt is pending.
    pub const fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// Frames left.
    pub const fn frames(&self) -> u64 {
        self.units / FRAME_UNITS
    }

    /// Begins an operation, which may do its first frame whatever is left.
    pub(crate) fn begin(&mut self) {
        (self.looked, self.wiped) = (false, false);
    }

    /// Takes one frame's worth of work; false means: stop here and answer [`Progress::More`].
    #[inline]
    pub(crate) fn frame(&mut self, machine: &impl Machine) -> bool {
        self.frames_now(machine, 1) == 1
    }

    /// Takes the work of as many frames as may be done before the next look at interrupts, `wanted` at most; 0 means:
    /// stop here.
    #[inline]
    pub(crate) fn frames_now(&mut self, machine: &impl Machine, wanted: u64) -> u64 {
        let frames = match (machine.should_yield(), self.frames()) {
            (false, left) if left > 0 => wanted.min(left).min(PIECE_FRAMES),
            _ if self.wiped => return 0,
            _ => wanted.min(1),
        };
        self.wiped = true;
        self.units = self.units.saturating_sub(frames * FRAME_UNITS);
        frames
    }

    /// Takes the work of looking at `records` summaries, or at eight times as many frame records.
    #[inline]
    pub(crate) fn look(&mut self, machine: &impl Machine, records: u64) -> bool {
        if self.looked && (self.units < records || machine.should_yield()) {
            return false;
        }
        self.looked = true;
        self.units = self.units.saturating_sub(records);
        true
    }

    /// Notes work that has to be done whatever is left.
    #[inline]
    pub(crate) fn charge(&mut self, records: u64) {
        self.units = self.units.saturating_sub(records);
    }
}
