//! The launch measurement: SHA-384 over the configuration, every loaded frame with its address, and the entry point.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use sha2::{Digest, Sha384};

/// Pieces in which a frame is hashed. One is 256 bytes, two blocks of SHA-384, which keeps a call within its bound.
pub const CHUNKS: u64 = 16;
/// 64-bit words in a piece.
const CHUNK_WORDS: usize = 512 / CHUNKS as usize;
/// Bytes of a digest.
pub const DIGEST_SIZE: usize = 48;

/// A measurement in the making, and then the result.
#[derive(Clone, Debug)]
pub struct Measurement {
    hasher: Sha384,
    digest: [u8; DIGEST_SIZE],
}

impl Measurement {
    /// Starts with the configuration.
    pub fn new(config: &[u64]) -> Self {
        let mut hasher = Sha384::new();
        for word in config {
            hasher.update(word.to_le_bytes());
        }
        Self { hasher, digest: [0; DIGEST_SIZE] }
    }

    /// Adds piece `chunk` of the frame that is loaded at `address`. Every piece says where it belongs and all are of one
    /// length, so that pieces of several frames, in whatever order the host loads them, cannot be read as another image.
    pub fn frame(&mut self, address: u64, words: &[AtomicU64; 512], chunk: u64) {
        self.hasher.update((address | (chunk % CHUNKS)).to_le_bytes());
        let first = (chunk % CHUNKS) as usize * CHUNK_WORDS;
        for word in &words[first..first + CHUNK_WORDS] {
            self.hasher.update(word.load(Relaxed).to_le_bytes());
        }
    }

    /// Adds the entry point and closes.
    pub fn seal(&mut self, entry: u64, argument: u64) {
        self.hasher.update(entry.to_le_bytes());
        self.hasher.update(argument.to_le_bytes());
        self.digest.copy_from_slice(&self.hasher.clone().finalize());
    }

    /// The digest; zero before [`Self::seal`].
    pub fn digest(&self) -> &[u8; DIGEST_SIZE] {
        &self.digest
    }
}

/// Measurement registers that a guest may extend: `new = SHA-384(old || data)` (DEN0137, RSI_MEASUREMENT_EXTEND).
#[derive(Clone, Debug, Default)]
pub struct Extensible {
    registers: [[u64; 6]; 4],
    /// A hash in the making of something that holds the registers, and how many bytes it covers.
    hash: (Sha384, usize),
}

/// Bytes that one call of [`Extensible::hash_on`] adds: as much as a piece of a frame.
const STEP: usize = CHUNK_WORDS * 8;

impl Extensible {
    /// Register `index`, 0 to 3, as bytes.
    pub fn get(&self, index: usize) -> Option<[u8; DIGEST_SIZE]> {
        let words = self.registers.get(index)?;
        let mut bytes = [0; DIGEST_SIZE];
        for (to, from) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        Some(bytes)
    }

    /// Extends register `index`; false when there is none.
    pub fn extend(&mut self, index: usize, data: &[u8]) -> bool {
        let Some(old) = self.get(index) else { return false };
        let digest = Sha384::new().chain_update(old).chain_update(data).finalize();
        self.hash = Default::default();
        for (word, bytes) in self.registers[index].iter_mut().zip(digest.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        true
    }

    /// Adds the next part of `bytes`, which hold the registers and are the same until one is extended, to their hash;
    /// returns it when all are in.
    pub fn hash_on(&mut self, bytes: &[u8]) -> Option<[u8; DIGEST_SIZE]> {
        let (hasher, done) = &mut self.hash;
        let rest = bytes.get(*done..)?;
        if rest.is_empty() {
            return Some(hasher.clone().finalize().into());
        }
        let next = &rest[..rest.len().min(STEP)];
        hasher.update(next);
        *done += next.len();
        None
    }
}
