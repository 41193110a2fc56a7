//! `FRAME_INFO`.

use super::{Call, Reply, done, frame};
use crate::{Postern, Refused};
use abi::host::{self, frame as states};
use guestmem::State;

/// See [`host::FRAME_INFO`].
pub const CALL: Call = Call {
    number: host::FRAME_INFO,
    name: "FRAME_INFO",
    arguments: &["physical address"],
    results: &["state", "pins"],
    summary: "Says whose a frame is, so that dumps and hibernation can leave out what they cannot read.",
    run,
};

fn run(postern: &Postern, [address, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let record = postern.core.lookup(frame(address)?);
    let (state, pins) = match record.state {
        State::Absent => (states::ABSENT, 0),
        State::Host | State::Lent => (states::HOST, record.count),
        State::Postern => (states::POSTERN, 0),
        State::Meta => (states::META, 0),
        State::Private | State::Pending => (states::PRIVATE, 0),
        State::Shared => (states::SHARED, record.count),
        State::Poisoned => (states::POISONED, 0),
        _ => (states::MOVING, 0),
    };
    Ok(done([state, pins.into(), 0]))
}
