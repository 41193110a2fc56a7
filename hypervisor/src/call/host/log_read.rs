//! `LOG_READ`.

use super::{Call, Reply, done, frame};
use crate::{Postern, Refused};
use abi::host;
use core::sync::atomic::Ordering;

/// See [`host::LOG_READ`].
pub const CALL: Call = Call {
    number: host::LOG_READ,
    name: "LOG_READ",
    arguments: &["physical address of the answer", "position"],
    results: &["next position", "bytes"],
    summary: "Copies log text from a position on.",
    run,
};

fn run(postern: &Postern, [out, position, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let (next, count) = postern.core.with_host_page(frame(out)?, |page| {
        crate::log::read(position, |index, value| page[index].store(value, Ordering::Relaxed))
    })?;
    Ok(done([next, count, 0]))
}
