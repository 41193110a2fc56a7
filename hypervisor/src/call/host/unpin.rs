//! `UNPIN`.

use super::{Call, DONE, Reply, frame};
use crate::{Postern, Refused};
use abi::host;
use guestmem::{Refusal, State};

/// See [`host::UNPIN`].
pub const CALL: Call = Call {
    number: host::UNPIN,
    name: "UNPIN",
    arguments: &["physical address"],
    results: &[],
    summary: "Undoes one PIN; not Postern's own hold on a run page.",
    run,
};

fn run(postern: &Postern, [address, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let frame = frame(address)?;
    // A frame of the host's is held either because it was pinned when a guest, gone since, shared it, or as a run page.
    if postern.core.lookup(frame).state == State::Host && postern.vms.is_run_page(frame)? {
        return Err(Refused::Core(Refusal::NotOwner(State::Host)));
    }
    postern.core.unpin(frame)?;
    Ok(DONE)
}
