//! Which allocations the heap profile records: those on which a point falls that is thrown at the stream of allocated bytes,
//! at random, `mean` bytes apart on average.
//!
//! Intervals are exponential, so every byte is as likely to be hit as every other, wherever the last point fell: a chunk
//! that counts for `b` bytes is recorded with chance `1 - exp(-b / mean)`, and its record stands for the inverse of that
//! many. Whoever reads the profile works that out; here only the points are thrown.

use crate::random::Random;

/// Throws the points for the allocations of one thread.
pub(crate) struct ByteSampler {
    /// Bytes between two points, on average; zero is no points.
    mean: usize,
    /// Bytes in front of the next point.
    left: usize,
}

impl ByteSampler {
    pub(crate) fn new(mean: usize, random: &mut Random) -> Self {
        Self { mean, left: if mean == 0 { 0 } else { interval(mean, random) } }
    }

    /// Whether points are thrown at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.mean != 0
    }

    /// Lets so many pieces of so many bytes pass; calls `hit` with the number of each piece that a point falls on, perhaps
    /// more than once.
    pub(crate) fn pass(&mut self, pieces: usize, bytes: usize, random: &mut Random, mut hit: impl FnMut(usize)) {
        if self.mean == 0 {
            return;
        }
        let all = pieces.saturating_mul(bytes);
        while self.left < all {
            hit(self.left / bytes);
            self.left = self.left.saturating_add(interval(self.mean, random));
        }
        self.left -= all;
    }

    /// Lets one piece pass; `true` when a point falls on it. What counts for more than 64 intervals always is hit: no
    /// more than the first point is thrown at it.
    pub(crate) fn falls_on(&mut self, bytes: usize, random: &mut Random) -> bool {
        let mut hit = false;
        self.pass(1, bytes.min(self.mean.saturating_mul(64)), random, |_| hit = true);
        hit
    }
}

/// An exponential number with this mean, at least 1.
///
/// By von Neumann's method, which needs comparisons only: of a falling run of uniform numbers that begins with `u`, the
/// length is odd with chance `exp(-u)`; each run of even length stands for a whole mean passed without a point.
fn interval(mean: usize, random: &mut Random) -> usize {
    let mut whole = 0_usize;
    loop {
        let first = random.u32();
        let (mut last, mut odd) = (first, true);
        loop {
            let next = random.u32();
            if next >= last {
                break;
            }
            (last, odd) = (next, !odd);
        }
        if odd {
            let part = (mean as u128 * u128::from(first)) >> 32;
            return mean.saturating_mul(whole).saturating_add(part as usize).max(1);
        }
        whole += 1;
    }
}

/// What a chunk without a slot counts for: its size, rounded up to one of eight steps between powers of two, so that not every
/// size makes an entry of its own in the profile.
pub(crate) fn weight_of(size: usize) -> usize {
    if size <= 8 {
        return size;
    }
    let step = 1 << (size.ilog2() - 3);
    size.checked_next_multiple_of(step).unwrap_or(size)
}

#[cfg(test)]
mod tests {
    use super::{ByteSampler, interval, weight_of};
    use crate::random::Random;

    #[test]
    fn intervals_are_exponential() {
        const DRAWS: usize = 200_000;
        const MEAN: usize = 10_000;
        let mut random = Random::from_number(1);
        let draws: Vec<usize> = (0..DRAWS).map(|_| interval(MEAN, &mut random)).collect();
        let mean = draws.iter().sum::<usize>() as f64 / DRAWS as f64;
        assert!((mean / MEAN as f64 - 1.0).abs() < 0.02, "{mean}");
        for multiple in [0.1, 0.5, 1.0, 2.0, 4.0] {
            let longer = draws.iter().filter(|&&draw| draw as f64 > MEAN as f64 * multiple).count();
            let (share, expected) = (longer as f64 / DRAWS as f64, (-multiple).exp());
            assert!((share - expected).abs() < 0.006, "beyond {multiple}: {share}, not {expected}");
        }
    }

    #[test]
    fn a_piece_is_hit_as_often_as_its_bytes_say() {
        const MEAN: usize = 4096;
        let mut random = Random::from_number(2);
        let mut sampler = ByteSampler::new(MEAN, &mut random);
        // Pieces of all sizes in one stream, some many at a time.
        let sizes = [32_usize, 512, 4096, 20_000];
        let mut hits = [0_usize; 4];
        const ROUNDS: usize = 40_000;
        for _ in 0..ROUNDS {
            for (size, hits) in sizes.iter().zip(&mut hits) {
                let mut seen = [false; 16];
                sampler.pass(16, *size, &mut random, |piece| seen[piece] = true);
                *hits += seen.iter().filter(|&&seen| seen).count();
            }
        }
        for (size, hits) in sizes.iter().zip(hits) {
            let expected = (ROUNDS * 16) as f64 * (1.0 - (-(*size as f64) / MEAN as f64).exp());
            assert!((hits as f64 / expected - 1.0).abs() < 0.05, "{size} bytes: {hits}, not {expected}");
        }
    }

    #[test]
    fn nothing_is_hit_without_an_interval() {
        let mut random = Random::from_number(3);
        let mut sampler = ByteSampler::new(0, &mut random);
        assert!(!sampler.is_on() && !sampler.falls_on(usize::MAX, &mut random));
        sampler.pass(1000, 1000, &mut random, |_| unreachable!());
    }

    #[test]
    fn the_largest_sizes_are_hit_at_once() {
        let mut random = Random::from_number(4);
        let mut sampler = ByteSampler::new(1 << 10, &mut random);
        assert!(sampler.falls_on(usize::MAX, &mut random) && !sampler.falls_on(0, &mut random));
    }

    #[test]
    fn weights_are_at_least_the_size_and_at_most_an_eighth_more() {
        for size in (0..100_000).chain([usize::MAX - 1, usize::MAX, 1 << 62, (1 << 62) + 1]) {
            let weight = weight_of(size);
            assert!(weight >= size && weight - size <= size / 8, "{size}: {weight}");
        }
    }
}
