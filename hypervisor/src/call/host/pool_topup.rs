//! `POOL_TOPUP`.

use super::{Call, Reply, frames, take_all};
use crate::{Postern, Refused};
use abi::host;

/// See [`host::POOL_TOPUP`].
pub const CALL: Call = Call {
    number: host::POOL_TOPUP,
    name: "POOL_TOPUP",
    arguments: &["physical address", "frames, at most 4"],
    results: &["frames taken"],
    summary: "Gives host frames to Postern's own pool of record and table pages.",
    run,
};

fn run(postern: &Postern, [address, count, ..]: [u64; 6]) -> Result<Reply, Refused> {
    take_all(frames(address, count)?, |frame| postern.core.topup(frame))
}
