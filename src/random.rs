//! All randomness: ChaCha8, seeded from the kernel (or from `seed=` for reproducible runs).
//!
//! Eight rounds, because no break of more than seven is known and a placement decision is worth
//! less than a key. The generator keeps 256 bytes of output ready; a draw is a load.

use crate::os::entropy::{self, NoEntropy};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// A stream that nobody can predict.
    pub(crate) fn from_kernel() -> Result<Self, NoEntropy> {
        let mut seed = [0; 32];
        entropy::fill(&mut seed)?;
        Ok(Self(ChaCha8Rng::from_seed(seed)))
    }

    /// The stream that belongs to `seed`: for reproducible runs.
    pub(crate) fn from_number(seed: u64) -> Self {
        let mut bytes = [0; 32];
        for (byte, value) in bytes.iter_mut().zip(seed.to_le_bytes()) {
            *byte = value;
        }
        Self(ChaCha8Rng::from_seed(bytes))
    }

    /// A new stream whose seed is drawn from this one.
    pub(crate) fn fork(&mut self) -> Self {
        let mut seed = [0; 32];
        for part in seed.chunks_exact_mut(8) {
            part.copy_from_slice(&self.0.next_u64().to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// 32 random bits.
    #[inline]
    pub(crate) fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// 64 random bits.
    pub(crate) fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; zero when `bound` is zero. The bias is below `bound` / 2^32.
    #[inline]
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.u32()) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn the_same_seed_gives_the_same_stream_and_another_seed_another() {
        let draw = |seed| {
            let mut random = Random::from_number(seed);
            [random.u64(), random.u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn two_streams_from_the_kernel_differ() {
        let draw = || Random::from_kernel().map(|mut random| random.u64());
        assert_ne!(draw(), draw());
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut random = Random::from_number(1);
        let mut seen = [false; 8];
        for _ in 0..1000 {
            seen[random.below(8) as usize] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
        assert_eq!(random.below(0), 0);
    }
}
