//! What needs the bare machine, but not to know which.

pub mod console;
pub mod heap;
pub mod hostcall;
pub mod list;
pub mod percpu;

/// Words that differ from each other and from those of another seed.
pub fn pattern<const WORDS: usize>(seed: u64) -> [u64; WORDS] {
    core::array::from_fn(|n| {
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n as u64 + 1).wrapping_mul(0x0101_0101_0101_0101)
    })
}
