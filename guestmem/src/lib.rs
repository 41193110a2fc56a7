//! The ownership core of Postern: one record for each frame of RAM says who owns it, and nothing else does.
//!
//! Translation tables are a cache of the records. The core edits the host's and the guests' second-stage tables, wipes
//! and flushes through [`Machine`], and knows nothing else of the hardware. `docs/memory.md` tells the life of a frame,
//! `docs/locking.md` the locks.
#![cfg_attr(not(any(test, loom, feature = "fake")), no_std)]
#![forbid(unsafe_code)]

mod accept;
mod access;
mod audit;
mod bitmap;
mod block;
mod blocks;
mod boot;
mod convert;
mod database;
mod donate;
mod end;
mod entries;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod gib;
mod guest;
pub mod lock;
mod machine;
pub mod motion;
mod range;
mod ready;
mod record;
pub mod sync;
mod table;
mod tally;
pub mod transition;
mod types;

pub use accept::Acceptance;
pub use access::{Fault, HostFault};
pub use audit::{Audit, Violation};
pub use database::{Core, MAX_REGIONS, Stats};
pub use guest::{ALIASED_RAM_MAX, Guest, Layout};
pub use machine::{Attrs, Entry, Machine, TableFormat};
pub use range::{Budget, Progress};
pub use record::{COUNT_MAX, GFN_END, Record, State};
pub use types::*;
