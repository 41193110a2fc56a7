//! `CONSOLE_WRITE`.

use super::{Call, DONE, MORE, Reply};
use crate::{Postern, Refused};
use abi::host;

/// See [`host::CONSOLE_WRITE`].
pub const CALL: Call = Call {
    number: host::CONSOLE_WRITE,
    name: "CONSOLE_WRITE",
    arguments: &[
        "length in bytes, at most 40",
        "bytes 0 to 7",
        "bytes 8 to 15",
        "bytes 16 to 23",
        "bytes 24 to 31",
        "bytes 32 to 39",
    ],
    results: &[],
    summary: "Writes text to the log console; it appears a line at a time. MORE: taken, but the UART is slow; a call with length 0 goes on.",
    run,
};

fn run(_: &Postern, [length, words @ ..]: [u64; 6]) -> Result<Reply, Refused> {
    let mut bytes = [0; 40];
    for (to, from) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    let length = usize::try_from(length).map_err(|_| Refused::Invalid("more than 40 bytes"))?;
    let text = bytes.get(..length).ok_or(Refused::Invalid("more than 40 bytes"))?;
    match crate::log::host_bytes(arch::machine::cpu(), text) {
        Some(true) => Ok(DONE),
        Some(false) => Ok(MORE),
        None => Err(Refused::Busy("the console")),
    }
}
