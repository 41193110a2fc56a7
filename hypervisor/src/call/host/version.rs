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
    let dialects = arch::machine::DIALECTS.iter().fold(0, |mask, number| mask | 1 << number);
    Ok(done([host::VERSION_NUMBER, dialects, 0]))
}
