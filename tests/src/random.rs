//! Numbers that are the same on every machine, for the same seed.

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Zero would stay zero; neighbouring seeds would begin alike.
        Self((seed ^ 0x5eed_5eed_5eed_5eed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub const fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`, which is not zero.
    pub const fn below(&mut self, n: usize) -> usize {
        // The upper bits are the better ones; what is cut off is below 2^48 in any case.
        (self.number() >> 16) as usize % n
    }

    pub const fn byte(&mut self) -> u8 {
        self.number().to_be_bytes()[0]
    }

    /// True once in `n` times.
    pub const fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}
