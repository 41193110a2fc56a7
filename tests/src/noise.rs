//! Numbers for fuzzing: from a seed, or from the bytes that a fuzzer mutates.

/// A source of choices. The same seed or bytes make the same choices.
#[derive(Clone, Debug)]
pub struct Noise<'a> {
    state: u64,
    bytes: &'a [u8],
    /// Choices made when the bytes have run out.
    endless: bool,
}

impl Noise<'static> {
    /// From a seed; never ends.
    pub const fn seed(seed: u64) -> Self {
        Self { state: seed, bytes: &[], endless: true }
    }
}

impl<'a> Noise<'a> {
    /// From a fuzzer's bytes, eight for each choice; [`Noise::is_over`] when they are used up.
    pub const fn bytes(bytes: &'a [u8]) -> Self {
        Self { state: 0, bytes, endless: false }
    }

    /// Whether there are no choices left.
    pub fn is_over(&self) -> bool {
        !self.endless && self.bytes.is_empty()
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        if !self.endless {
            let take = self.bytes.len().min(8);
            let (head, rest) = self.bytes.split_at(take);
            let mut word = [0; 8];
            word[..take].copy_from_slice(head);
            self.bytes = rest;
            return u64::from_le_bytes(word);
        }
        // SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end.max(1)
    }

    /// Yes, once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
