//! Counters that CPUs do not fight over.

use crate::sync::{AtomicU64, Ordering};

const SHARDS: usize = 8;

/// One cache line of counters.
#[derive(Debug)]
#[repr(align(64))]
struct Shard([AtomicU64; 6]);

/// Six counters, each spread over several cache lines: neighbouring blocks count in different ones.
#[derive(Debug)]
pub(crate) struct Tally([Shard; SHARDS]);

impl Tally {
    pub(crate) fn new() -> Self {
        Self([(); SHARDS].map(|()| Shard([(); 6].map(|()| AtomicU64::new(0)))))
    }

    /// Adds to a counter on behalf of `place`, a block number.
    #[inline]
    pub(crate) fn add(&self, counter: usize, place: u64, amount: u64) {
        self.0[place as usize % SHARDS].0[counter].fetch_add(amount, Ordering::Relaxed);
    }

    /// The sum. While other CPUs count, it is some recent value.
    pub(crate) fn sum(&self, counter: usize) -> u64 {
        self.0.iter().fold(0, |sum, shard| sum.wrapping_add(shard.0[counter].load(Ordering::Relaxed)))
    }

    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn fork(&self) -> Self {
        let shard = |index: usize| {
            let counter = |counter: usize| AtomicU64::new(self.0[index].0[counter].load(Ordering::Relaxed));
            Shard(core::array::from_fn(counter))
        };
        Self(core::array::from_fn(shard))
    }
}
