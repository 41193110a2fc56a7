//! `VERSION`.

use super::{Call, Reply, done};
use crate::{Postern, Refused};
use abi::host;

/// See [`host::VERSION`].
pub const CALL: Call = Call {
    number: host::VERSION,
    name: "VERSION",
    arguments: &[],
    results: &["version: major << 16 | minor", "guest ABIs: bit n is dialect n"],
    summary: "Says which interface this is.",
    run,
};

fn run(_: &Postern, _: [u64; 6]) -> Result<Reply, Refused> {
    Ok(done([host::VERSION_NUMBER, 1 << host::dialect::PKVM | 1 << host::dialect::REALM, 0]))
}
