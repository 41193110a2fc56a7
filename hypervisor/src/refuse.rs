//! The caller's faults, and what each calling convention says of them.

use abi::host;
use core::fmt;
use guestmem::{Refusal, State};

/// Why a call was not carried out. Never a fault of Postern's own: that is a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The ownership core said no.
    Core(Refusal),
    /// An argument is malformed.
    Invalid(&'static str),
    /// The object is in the wrong state.
    State(&'static str),
    /// There is no such object.
    NoSuch(&'static str),
    /// There is one already.
    Exists(&'static str),
    /// Another CPU uses it.
    Busy(&'static str),
    /// A fixed limit is reached.
    Limit(&'static str),
    /// There is no such call.
    Unknown,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Core(refusal)
    }
}

impl Refused {
    /// The status that the host gets in x0.
    pub fn host_code(self) -> i64 {
        match self {
            Self::Core(refusal) => core_code(refusal),
            Self::Invalid(_) => host::INVALID,
            Self::State(_) => host::STATE,
            Self::NoSuch(_) => host::NO_SUCH,
            Self::Exists(_) => host::EXISTS,
            Self::Busy(_) => host::BUSY,
            Self::Limit(_) => host::LIMIT,
            Self::Unknown => host::NOT_SUPPORTED,
        }
    }
}

fn core_code(refusal: Refusal) -> i64 {
    match refusal {
        Refusal::NotRam | Refusal::OutOfRange => host::ADDRESS,
        Refusal::Unaligned => host::INVALID,
        // Postern will be done with it in a while.
        Refusal::NotOwner(State::Lent) => host::BUSY,
        Refusal::NotOwner(_) | Refusal::WrongVisibility | Refusal::Underflow => host::OWNER,
        Refusal::Busy | Refusal::Pinned => host::BUSY,
        Refusal::NoPool => host::NO_POOL,
        Refusal::NoMeta => host::NO_META,
        Refusal::Occupied => host::EXISTS,
        Refusal::Absent => host::NO_SUCH,
        Refusal::Poisoned => host::POISONED,
        Refusal::Overflow => host::LIMIT,
        Refusal::Dying => host::STATE,
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(refusal) => write!(f, "{refusal:?}"),
            Self::Invalid(why) => write!(f, "malformed: {why}"),
            Self::State(why) => write!(f, "wrong state: {why}"),
            Self::NoSuch(what) => write!(f, "no such {what}"),
            Self::Exists(what) => write!(f, "{what} exists"),
            Self::Busy(what) => write!(f, "{what} is in use"),
            Self::Limit(what) => write!(f, "limit of {what}"),
            Self::Unknown => write!(f, "unknown call"),
        }
    }
}
