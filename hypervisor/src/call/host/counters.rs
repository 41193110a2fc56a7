//! `COUNTERS`.

use super::{Call, DONE, Reply, write_words};
use crate::{Postern, Refused};
use abi::host::{self, counter};

/// See [`host::COUNTERS`].
pub const CALL: Call = Call {
    number: host::COUNTERS,
    name: "COUNTERS",
    arguments: &["physical address of the answer"],
    results: &[],
    summary: "Writes what happened how often, as 64-bit words.",
    run,
};

fn run(postern: &Postern, [out, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let mut words: [u64; counter::COUNT] = core::array::from_fn(|index| postern.counters.get(index));
    let stats = postern.core.stats();
    let (ticks, cause) = arch::machine::longest();
    for (index, value) in [
        (counter::WIPES, stats.wipes),
        (counter::SPLITS, stats.splits),
        (counter::MERGES, stats.merges),
        (counter::FLUSHES, stats.flushes),
        (counter::POSTERN_FRAMES, stats.postern_frames),
        (counter::POOL_FREE, stats.pool_free),
        (counter::GIB_LEAVES, stats.gib_leaves),
        (counter::LONGEST_TICKS, ticks),
        (counter::LONGEST_CAUSE, cause),
    ] {
        words[index] = value;
    }
    write_words(postern, out, &words)?;
    Ok(DONE)
}
