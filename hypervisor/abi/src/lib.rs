//! Numbers and layouts that Postern shares with hosts, guests and tools.
//!
//! Constants and `const` assertions only; no logic. Everything is in the machine's byte order (little endian) and
//! every address is physical: host physical for `frame` and `pa`, guest physical for `ipa`.
#![no_std]
#![forbid(unsafe_code)]

pub mod bundle;
pub mod handoff;
pub mod host;
pub mod pkvm;
pub mod psci;
pub mod rsi;
pub mod run;
pub mod smccc;
pub mod tdx;

/// Bytes in a frame, the unit of ownership.
pub const FRAME_SIZE: u64 = 4096;
/// Bytes in a block, the largest unit that is donated or converted at once.
pub const BLOCK_SIZE: u64 = 2 << 20;
