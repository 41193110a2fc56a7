//! `PIN`.

use super::{Call, DONE, Reply, frame};
use crate::{Postern, Refused};
use abi::host;
use guestmem::State;

/// See [`host::PIN`].
pub const CALL: Call = Call {
    number: host::PIN,
    name: "PIN",
    arguments: &["physical address"],
    results: &[],
    summary: "Holds a frame that a guest shares, so that it cannot change hands while the host or a device uses it.",
    run,
};

fn run(postern: &Postern, [address, ..]: [u64; 6]) -> Result<Reply, Refused> {
    postern.core.pin(frame(address)?, State::Shared)?;
    Ok(DONE)
}
