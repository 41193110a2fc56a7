//! The atomics of the crate; under `--cfg loom` those of the interleaving checker.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

/// A word of a frame: a table entry, a frame record, or content. The interleaving checker takes these for what they are,
/// data that is read and written under a lock or checked again under one; it explores the locks, which are
/// [`AtomicU64`].
pub type Word = core::sync::atomic::AtomicU64;

/// Tells the CPU (or the interleaving checker) that this one waits for another.
#[inline]
pub(crate) fn relax() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Sets a bit, and returns the word as it was before.
#[inline]
pub(crate) fn set_bit(word: &AtomicU64, bit: u64) -> u64 {
    #[cfg(not(loom))]
    return word.fetch_or(bit, Ordering::Acquire);
    // The checker lets a read-modify-write read a value that a later store has replaced; a compare-and-exchange that fails
    // writes nothing that could hide that store.
    #[cfg(loom)]
    loop {
        let seen = word.load(Ordering::Relaxed);
        if seen & bit != 0 || word.compare_exchange(seen, seen | bit, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return seen;
        }
    }
}
