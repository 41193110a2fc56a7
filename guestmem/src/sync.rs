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
