//! Bit locks, and lists of free frames under them.
//!
//! Lock order: a VM's structure lock, then one block lock, then the lock of a GiB or one list lock. No operation holds two of the same rank.
//! Builds with the fake machine check the order at run time.

use crate::sync::{AtomicU64, Ordering, relax, set_bit};
use crate::{Machine, Pfn};

/// Place in the lock order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rank {
    /// Structure of one VM's tables, its end, and allocation of its metadata.
    Vm,
    /// Records, host entries and guest leaf entries of the frames of one 2 MiB block.
    Block,
    /// The host's entry for one GiB.
    Gib,
    /// A list of free frames.
    List,
}

/// How often [`try_acquire`] looks at a lock before a guest's call answers "busy".
const TRIES: u32 = 256;

/// Sets the bit if it is clear, and returns the word without it; what it is the lock of is not its business.
#[inline(always)]
fn take(word: &AtomicU64, bit: u64) -> Option<u64> {
    // Of what was there only the bit is looked at, for which there are instructions; the rest is the holder's to change.
    if set_bit(word, bit) & bit == 0 { Some(word.load(Ordering::Relaxed) & !bit) } else { None }
}

/// Waits for the lock bit of a word and takes it. Returns the word without the bit.
#[inline]
pub fn acquire(word: &AtomicU64, bit: u64, rank: Rank) -> u64 {
    ranks::enter(rank);
    loop {
        if let Some(value) = take(word, bit) {
            return value;
        }
        while word.load(Ordering::Relaxed) & bit != 0 {
            relax();
        }
    }
}

/// Takes the lock bit of a word if nobody has it. Returns the word without the bit.
#[inline(always)]
pub(crate) fn acquire_at_once(word: &AtomicU64, bit: u64, rank: Rank) -> Option<u64> {
    take(word, bit).inspect(|_| ranks::enter(rank))
}

/// Takes the lock bit of a word unless another CPU keeps it for long.
#[inline(always)]
pub(crate) fn try_acquire(word: &AtomicU64, bit: u64, rank: Rank) -> Option<u64> {
    acquire_at_once(word, bit, rank).or_else(|| acquire_later(word, bit, rank))
}

#[cold]
fn acquire_later(word: &AtomicU64, bit: u64, rank: Rank) -> Option<u64> {
    for _ in 1..TRIES {
        if word.load(Ordering::Relaxed) & bit == 0
            && let Some(value) = acquire_at_once(word, bit, rank)
        {
            return Some(value);
        }
        relax();
    }
    None
}

/// Gives a locked word its new value and unlocks it.
#[inline]
pub fn release(word: &AtomicU64, value: u64, bit: u64, rank: Rank) {
    word.store(value & !bit, Ordering::Release);
    ranks::leave(rank);
}

/// Free frames, linked through their first words; the last one in is the first one out.
///
/// All other words of a listed frame are as its owner left them.
#[derive(Debug)]
pub struct FrameList {
    /// Bit 0 is the lock; above it the first frame's number plus one, or 0.
    head: AtomicU64,
    len: AtomicU64,
}

const HEAD_LOCK: u64 = 1;

impl FrameList {
    /// An empty list.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { head: AtomicU64::new(0), len: AtomicU64::new(0) }
    }

    /// Frames in the list.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether the list has no frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a frame that nothing refers to.
    pub fn push(&self, machine: &impl Machine, frame: Pfn) {
        let head = acquire(&self.head, HEAD_LOCK, Rank::List);
        // The link is a multiple of 4096 so that a walk that has lost a race reads it as an empty table entry.
        machine.words(frame)[0].store((head >> 1) << 12, Ordering::Relaxed);
        self.len.store(self.len.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        release(&self.head, frame.get().wrapping_add(1) << 1, HEAD_LOCK, Rank::List);
    }

    /// Takes `N` frames, unless that would leave fewer than `keep`. Their first words are zero.
    pub fn take<const N: usize>(&self, machine: &impl Machine, keep: u64) -> Option<[Pfn; N]> {
        let mut head = acquire(&self.head, HEAD_LOCK, Rank::List);
        let len = self.len.load(Ordering::Relaxed);
        let taken = if len < keep.saturating_add(N as u64) {
            None
        } else {
            self.len.store(len - N as u64, Ordering::Relaxed);
            Some([(); N].map(|()| {
                let frame = Pfn::new((head >> 1).wrapping_sub(1));
                let link = &machine.words(frame)[0];
                head = (link.load(Ordering::Relaxed) >> 12) << 1;
                link.store(0, Ordering::Relaxed);
                frame
            }))
        };
        release(&self.head, head, HEAD_LOCK, Rank::List);
        taken
    }

    /// Takes one frame.
    pub fn pop(&self, machine: &impl Machine) -> Option<Pfn> {
        self.take::<1>(machine, 0).map(|[frame]| frame)
    }

    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn fork(&self) -> Self {
        let copy = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
        Self { head: copy(&self.head), len: copy(&self.len) }
    }

    /// Forgets the frames: their owner takes them back by other means.
    pub(crate) fn forget(&self) {
        acquire(&self.head, HEAD_LOCK, Rank::List);
        self.len.store(0, Ordering::Relaxed);
        release(&self.head, 0, HEAD_LOCK, Rank::List);
    }
}

#[cfg(all(any(test, feature = "fake"), not(loom)))]
mod ranks {
    use super::Rank;
    use std::cell::Cell;

    std::thread_local! {
        /// One bit for each rank this thread holds.
        static HELD: Cell<u8> = const { Cell::new(0) };
    }

    pub fn enter(rank: Rank) {
        HELD.with(|held| {
            assert!(held.get() >> rank as u8 == 0, "lock of rank {rank:?} taken while holding {:04b}", held.get());
            held.set(held.get() | 1 << rank as u8);
        });
    }

    pub fn leave(rank: Rank) {
        HELD.with(|held| held.set(held.get() & !(1 << rank as u8)));
    }
}

#[cfg(not(all(any(test, feature = "fake"), not(loom))))]
mod ranks {
    #[inline]
    pub fn enter(_: super::Rank) {}
    #[inline]
    pub fn leave(_: super::Rank) {}
}
