//! Numbers with a meaning: frames, guest frames, owners, sizes, and the ways a request can be refused.

use crate::State;

/// Bits of an address below the frame number.
pub const FRAME_SHIFT: u32 = 12;
/// Bytes of a frame.
pub const FRAME_SIZE: u64 = 1 << FRAME_SHIFT;
/// Frames of a block (2 MiB).
pub const BLOCK_FRAMES: u64 = 512;

macro_rules! frame_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The frame with this number.
            #[inline]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }
            /// The frame number.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }
            /// The frame that holds the byte at `address`.
            #[inline]
            pub const fn from_addr(address: u64) -> Self {
                Self(address >> FRAME_SHIFT)
            }
            /// Byte address of the frame. Numbers of 2^52 and more have none: their upper bits are lost.
            #[inline]
            pub const fn addr(self) -> u64 {
                self.0 << FRAME_SHIFT
            }
            /// The frame `frames` further on, or the last number there is.
            #[inline]
            pub const fn offset(self, frames: u64) -> Self {
                Self(self.0.saturating_add(frames))
            }
            /// The frame `frames` further on, unless there is none.
            #[inline]
            pub const fn checked_add(self, frames: u64) -> Option<Self> {
                match self.0.checked_add(frames) {
                    Some(number) => Some(Self(number)),
                    None => None,
                }
            }
            /// Frames from `start` to this one; 0 when `start` is further on.
            #[inline]
            pub const fn since(self, start: Self) -> u64 {
                self.0.saturating_sub(start.0)
            }
            /// First frame of the 2 MiB block around this one.
            #[inline]
            pub const fn block_start(self) -> Self {
                Self(self.0 & !(BLOCK_FRAMES - 1))
            }
            /// Position within its 2 MiB block, 0 to 511.
            #[inline]
            pub const fn in_block(self) -> usize {
                (self.0 & (BLOCK_FRAMES - 1)) as usize
            }
            /// Whether the frame is the first of a naturally aligned `size`.
            #[inline]
            pub const fn is_aligned(self, size: Size) -> bool {
                self.0 & (size.frames() - 1) == 0
            }
        }
    };
}

frame_number! {
    /// Number of a 4 KiB host-physical frame.
    Pfn
}
frame_number! {
    /// Number of a 4 KiB guest frame, without the bit that selects the shared half of the address space.
    Gfn
}

/// Who a VM is to the frame database and to the TLB: its slot plus one, which is also its VMID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(u16);

impl OwnerId {
    /// Largest owner number.
    pub const MAX: u16 = 1023;

    /// The owner with this number, 1 to [`OwnerId::MAX`]; 0 is nobody.
    #[inline]
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 || number > Self::MAX { None } else { Some(Self(number)) }
    }
    /// The number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// How much one mapping covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// 4 KiB.
    Page,
    /// 2 MiB.
    Block,
}

impl Size {
    /// Number of 4 KiB frames.
    #[inline]
    pub const fn frames(self) -> u64 {
        match self {
            Self::Page => 1,
            Self::Block => BLOCK_FRAMES,
        }
    }
}

/// What a guest wants one of its frames to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Only the guest may access it.
    Private,
    /// The host may access it too.
    Shared,
}

/// Whose translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The host's, and its devices'.
    Host,
    /// A guest's.
    Guest(OwnerId),
}

/// Why a request was not carried out. Nothing has changed when one is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The address is no RAM that the database covers.
    NotRam,
    /// A block was asked for at an address that is not a multiple of 2 MiB.
    Unaligned,
    /// The guest address lies outside the VM's RAM, or a count is out of its range.
    OutOfRange,
    /// The frame is in this state, or someone else's, so the caller may not do this with it.
    NotOwner(State),
    /// Another CPU is at work there, or a longer operation has not finished: try again.
    Busy,
    /// The frame is pinned.
    Pinned,
    /// Postern's own pool of frames is used up.
    NoPool,
    /// The VM's pool of metadata frames is used up.
    NoMeta,
    /// Something is at this guest address already.
    Occupied,
    /// Nothing is at this guest address: the host has to give a page.
    Absent,
    /// The page is private where it has to be shared, or the other way round.
    WrongVisibility,
    /// The frame has failed in hardware.
    Poisoned,
    /// No further pin fits.
    Overflow,
    /// There is no pin to undo.
    Underflow,
    /// The VM is being taken down, or has not got its root table yet.
    Dying,
}

/// Why the database could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// More than [`crate::MAX_REGIONS`] regions.
    TooManyRegions,
    /// No region at all.
    NoMemory,
    /// Regions are empty, unsorted or overlap.
    BadRegions,
    /// RAM beyond what a frame record can name (2^48 bytes).
    AddressTooLarge,
    /// The storage for summary records is too small.
    SummariesTooSmall,
}
