//! What needs the bare machine. Each architecture's folder has the same names for what both have, so that programs need not
//! know where they run; what only one has (`gic`, `psci`, `tdcall`...) is for its own tests.

pub mod console;
pub mod heap;
pub mod hostcall;
pub mod list;
pub mod percpu;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// Words that differ from each other and from those of another seed.
pub fn pattern<const WORDS: usize>(seed: u64) -> [u64; WORDS] {
    core::array::from_fn(|n| {
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n as u64 + 1).wrapping_mul(0x0101_0101_0101_0101)
    })
}
