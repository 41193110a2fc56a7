//! Counters that the host may read ([`abi::host::COUNTERS`]).

use abi::host::counter;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters that Postern itself keeps; the ownership core and the machine have more.
#[derive(Debug)]
pub struct Counters([AtomicU64; counter::COUNT]);

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; counter::COUNT])
    }

    /// Adds one. Relaxed: nothing is decided by a counter.
    #[inline(always)]
    pub fn count(&self, index: usize) {
        self.add(index, 1);
    }

    /// Adds `count`.
    #[inline(always)]
    pub fn add(&self, index: usize, count: u64) {
        self.0[index].fetch_add(count, Relaxed);
    }

    /// One counter.
    pub fn get(&self, index: usize) -> u64 {
        self.0[index].load(Relaxed)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
