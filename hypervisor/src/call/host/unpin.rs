//! `UNPIN`.

use super::{Call, DONE, Reply, frame};
use crate::{Postern, Refused};
use abi::host;

/// See [`host::UNPIN`].
pub const CALL: Call = Call {
    number: host::UNPIN,
    name: "UNPIN",
    arguments: &["physical address"],
    results: &[],
    summary: "Undoes one PIN.",
    run,
};

fn run(postern: &Postern, [address, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.core.unpin(frame(address)?)?;
    Ok(DONE)
}
