//! What the database knows about one frame, in 64 bits.
//!
//! The same layout serves the summary of a 2 MiB block, whose guest frame number and state are those of its first frame
//! and which is the only place where the lock bit is used. A summary in state [`SPLIT`] holds the number of the record
//! page instead of a guest frame number.

use crate::{Gfn, OwnerId};

/// Who a frame belongs to and what may be done with it. [`crate::transition`] says how one becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Not RAM that Postern manages.
    Absent = 0,
    /// The host's. The count is that of pins left over from the time when it was a guest's and shared.
    Host = 1,
    /// Postern's own: image, heap, host tables, record pages and the pool they come from.
    Postern = 2,
    /// Paid by the host for one VM: its tables, its map of shared pages, its vCPU state.
    Meta = 3,
    /// Left the host, on its way to a guest address; the count is the progress of wiping or measuring.
    Moving = 4,
    /// The guest's alone.
    Private = 5,
    /// The guest's, and the host may access it; the count is the number of pins.
    Shared = 6,
    /// A whole block on its way from private to shared; mapped nowhere, the count is the number of frames wiped.
    Opening = 7,
    /// A whole block on its way from shared to private; mapped nowhere, the count is the number of frames wiped.
    Closing = 8,
    /// A dead or relinquished frame on its way to the host; the count is the number of frames wiped.
    Returning = 9,
    /// Failed in hardware: mapped nowhere, never used again.
    Poisoned = 10,
    /// The host's, and Postern reads and writes it too (a vCPU's run page): it stays where it is until Postern is done.
    Lent = 11,
    /// The guest's alone, taken back from the host and wiped: mapped nowhere until the guest accepts it.
    Pending = 12,
}

impl State {
    /// Every state, in the order of its number.
    pub const ALL: [Self; 13] = [
        Self::Absent,
        Self::Host,
        Self::Postern,
        Self::Meta,
        Self::Moving,
        Self::Private,
        Self::Shared,
        Self::Opening,
        Self::Closing,
        Self::Returning,
        Self::Poisoned,
        Self::Lent,
        Self::Pending,
    ];

    /// Whether the host's tables map a frame in this state.
    #[inline]
    pub const fn host_may_access(self) -> bool {
        matches!(self, Self::Host | Self::Shared | Self::Lent)
    }

    #[inline]
    const fn from_bits(bits: u64) -> Self {
        // Written out, it costs a comparison: the numbers are the bits. Codes above the last state are never written;
        // reading one as poisoned fails safe.
        match bits {
            0 => Self::Absent,
            1 => Self::Host,
            2 => Self::Postern,
            3 => Self::Meta,
            4 => Self::Moving,
            5 => Self::Private,
            6 => Self::Shared,
            7 => Self::Opening,
            8 => Self::Closing,
            9 => Self::Returning,
            11 => Self::Lent,
            12 => Self::Pending,
            _ => Self::Poisoned,
        }
    }
}

/// A frame's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// What may be done with the frame.
    pub state: State,
    /// The VM it belongs or is on its way to.
    pub owner: Option<OwnerId>,
    /// The one guest address that may map it; 0 without an owner.
    pub gfn: Gfn,
    /// Pins of [`State::Host`] and [`State::Shared`], progress of the states in motion, else 0.
    pub count: u16,
    /// The frame was zeroed by Postern when it came to its present owner.
    pub wiped: bool,
}

/// Most pins of one frame, and most steps of one motion.
pub const COUNT_MAX: u16 = (1 << COUNT_BITS) - 1;
/// Guest frame numbers end here (48-bit addresses).
pub const GFN_END: u64 = 1 << GFN_BITS;

const STATE_BITS: u32 = 4;
const LOCK_BITS: u32 = 1;
const WIPED_BITS: u32 = 1;
const OWNER_BITS: u32 = 10;
const GFN_BITS: u32 = 36;
const COUNT_BITS: u32 = 12;

const LOCK_SHIFT: u32 = STATE_BITS;
const WIPED_SHIFT: u32 = LOCK_SHIFT + LOCK_BITS;
const OWNER_SHIFT: u32 = WIPED_SHIFT + WIPED_BITS;
const GFN_SHIFT: u32 = OWNER_SHIFT + OWNER_BITS;
const COUNT_SHIFT: u32 = GFN_SHIFT + GFN_BITS;

const _: () = assert!(COUNT_SHIFT + COUNT_BITS == u64::BITS);
const _: () = assert!(State::ALL.len() < SPLIT as usize && SPLIT < 1 << STATE_BITS);
const _: () = assert!(OwnerId::MAX as u64 == (1 << OWNER_BITS) - 1);
const _: () = assert!(COUNT_MAX as u64 >= crate::BLOCK_FRAMES);

/// State code of a summary whose frames disagree; its guest frame number is the record page's frame number.
pub(crate) const SPLIT: u64 = 15;
/// Lock bit of a summary.
pub(crate) const LOCK: u64 = 1 << LOCK_SHIFT;

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl Record {
    /// A frame of nobody's guest: [`State::Absent`], [`State::Host`] or [`State::Postern`].
    #[inline]
    pub(crate) const fn plain(state: State) -> Self {
        Self { state, owner: None, gfn: Gfn::new(0), count: 0, wiped: false }
    }

    /// Layout, from bit 0: state 4, lock 1 (clear here), wiped 1, owner 10, guest frame 36, count 12.
    #[inline]
    pub(crate) const fn pack(self) -> u64 {
        let owner = match self.owner {
            Some(owner) => owner.get() as u64,
            None => 0,
        };
        (self.state as u64)
            | (self.wiped as u64) << WIPED_SHIFT
            | owner << OWNER_SHIFT
            | (self.gfn.get() & mask(GFN_BITS)) << GFN_SHIFT
            | (self.count as u64 & mask(COUNT_BITS)) << COUNT_SHIFT
    }

    /// Reads a packed record; the lock bit is ignored.
    #[inline]
    pub(crate) const fn unpack(word: u64) -> Self {
        Self {
            state: State::from_bits(word & mask(STATE_BITS)),
            owner: OwnerId::new((word >> OWNER_SHIFT & mask(OWNER_BITS)) as u16),
            gfn: Gfn::new(word >> GFN_SHIFT & mask(GFN_BITS)),
            count: (word >> COUNT_SHIFT & mask(COUNT_BITS)) as u16,
            wiped: word >> WIPED_SHIFT & 1 == 1,
        }
    }

    /// What is stored for a frame of `owner`'s at `gfn` that nothing pins, but for its state and whether it was wiped.
    #[inline(always)]
    pub(crate) const fn identity(owner: OwnerId, gfn: Gfn) -> u64 {
        let record = Self { state: State::Absent, owner: Some(owner), gfn, count: 0, wiped: false };
        record.pack()
    }

    /// The record of the frame `index` frames into a block that has this one as its summary.
    #[inline]
    pub(crate) const fn at(self, index: u64) -> Self {
        match self.owner {
            Some(_) => Self { gfn: Gfn::new(self.gfn.get() + index), ..self },
            None => self,
        }
    }

    /// The packed records of a block that has this one as its summary: the first, and the step from each to the next.
    #[inline]
    pub(crate) const fn series(self) -> (u64, u64) {
        let step = if self.owner.is_some() { 1 << GFN_SHIFT } else { 0 };
        (self.pack(), step)
    }

    /// Whether the host's tables map the frame.
    #[inline]
    pub const fn host_may_access(self) -> bool {
        self.state.host_may_access()
    }

    /// Pins of the frame.
    #[inline]
    pub const fn pins(self) -> u16 {
        if self.host_may_access() { self.count } else { 0 }
    }
}

/// The wiped bit of a packed record.
pub(crate) const WIPED: u64 = 1 << WIPED_SHIFT;

/// Whether a packed record names this owner.
#[inline]
pub(crate) const fn owned_by(word: u64, owner: OwnerId) -> bool {
    word >> OWNER_SHIFT & mask(OWNER_BITS) == owner.get() as u64
}

/// Whether a summary as it is stored, locked or not, says that the block is whole and the host's.
#[inline]
pub(crate) const fn is_whole_host(word: u64) -> bool {
    word & mask(STATE_BITS) == State::Host as u64
}

/// The summary of a block whose frames' records are in the page `leaf`.
#[inline]
pub(crate) const fn split(leaf: u64) -> u64 {
    SPLIT | (leaf & mask(GFN_BITS)) << GFN_SHIFT
}

/// The record page of a summary, unless the block is whole.
#[inline]
pub(crate) const fn leaf_of(word: u64) -> Option<u64> {
    if word & mask(STATE_BITS) == SPLIT { Some(word >> GFN_SHIFT & mask(GFN_BITS)) } else { None }
}

/// States, as bits, in which the host's tables map a frame.
const HOST_MAY_ACCESS: u64 = {
    let mut states = 0;
    let mut index = 0;
    while index < State::ALL.len() {
        if State::ALL[index].host_may_access() {
            states |= 1 << index;
        }
        index += 1;
    }
    states
};

/// Whether a frame's record, as it is stored, has this [`Record::identity`] and one of these states, a bit each.
#[inline(always)]
pub(crate) const fn is_one_of(word: u64, identity: u64, states: u16) -> bool {
    // All of the identity is above the state, the bit that only summaries use, and the one for wiped.
    let rest = word ^ identity;
    rest < 1 << OWNER_SHIFT && states >> (rest & mask(STATE_BITS)) & 1 != 0
}

/// As [`Record::host_may_access`], of a record as it is stored: for loops over whole blocks.
#[inline]
pub(crate) const fn word_host_may_access(word: u64) -> bool {
    HOST_MAY_ACCESS >> (word & ((1 << STATE_BITS) - 1)) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_packing() {
        for state in State::ALL {
            for (owner, gfn, count, wiped) in
                [(0, 0, 0, false), (1, 1, 1, true), (1023, GFN_END - 1, COUNT_MAX, true), (512, 1 << 35, 2048, false)]
            {
                let record = Record { state, owner: OwnerId::new(owner), gfn: Gfn::new(gfn), count, wiped };
                assert_eq!(Record::unpack(record.pack()), record);
                assert_eq!(Record::unpack(record.pack() | LOCK), record);
                assert_eq!(record.pack() & LOCK, 0);
                assert_eq!(leaf_of(record.pack()), None);
            }
        }
    }

    #[test]
    fn a_series_is_what_each_frame_of_a_whole_block_has() {
        for owner in [0, 7] {
            let summary = Record { owner: OwnerId::new(owner), ..Record::unpack(State::Private as u64 | WIPED) };
            let (first, step) = summary.series();
            for index in 0..crate::BLOCK_FRAMES {
                assert_eq!(Record::unpack(first + index * step), summary.at(index));
            }
        }
    }

    #[test]
    fn a_split_summary_names_its_page() {
        assert_eq!(leaf_of(split(0)), Some(0));
        assert_eq!(leaf_of(split(GFN_END - 1) | LOCK), Some(GFN_END - 1));
    }

    #[test]
    fn one_look_tells_whose_a_frame_is_and_in_which_state() {
        let owner = OwnerId::new(3).unwrap();
        let identity = Record::identity(owner, Gfn::new(77));
        let ours = Record { state: State::Private, owner: Some(owner), gfn: Gfn::new(77), count: 0, wiped: false };
        for state in State::ALL {
            for wiped in [false, true] {
                let word = Record { state, wiped, ..ours }.pack();
                for states in [0, 1 << State::Private as u16, 1 << State::Pending as u16 | 1, u16::MAX] {
                    assert_eq!(is_one_of(word, identity, states), states >> state as u16 & 1 == 1);
                }
            }
        }
        for other in [
            Record { owner: None, ..ours },
            Record { owner: OwnerId::new(2), ..ours },
            Record { gfn: Gfn::new(76), ..ours },
            Record { gfn: Gfn::new(77 | 1 << 35), ..ours },
            Record { count: 1, ..ours },
            Record { count: COUNT_MAX, ..ours },
        ] {
            assert!(!is_one_of(other.pack(), identity, u16::MAX), "{other:?}");
        }
    }

    #[test]
    fn an_unknown_state_reads_as_poisoned() {
        assert_eq!(Record::unpack(State::ALL.len() as u64).state, State::Poisoned);
    }
}
