//! Which allocations are looked at more closely: one in N, at moments that nobody can foresee.
//!
//! Fast paths know nothing of this. Slow code that runs anyway (a refill, the turn of a quarantine ring) tells how many
//! allocations it stands for; when the next sample is near, the cache's fast paths are switched off, allocations are
//! counted one by one, and the one that it falls on is sampled. So sampling costs the fast path nothing, and no kind
//! of allocation (the first after a refill, say) is favoured.

use crate::random::Random;

/// Up to this rate every allocation is counted: intervals are shorter than a batch of slots.
const EVERY_ONE: u32 = 64;

/// So many allocations before the sample, counting one by one begins.
const NEAR: i64 = 8;

/// Counts the allocations of one thread.
pub(crate) struct Sampler {
    /// One in so many is sampled; zero is none.
    rate: u32,
    /// Allocations until the next sample.
    left: i64,
}

impl Sampler {
    pub(crate) fn new(rate: u32, random: &mut Random) -> Self {
        Self { rate, left: interval(rate, random) }
    }

    /// Whether allocations have to be counted one by one at all times.
    pub(crate) const fn counts_every_one(&self) -> bool {
        self.rate >= 1 && self.rate <= EVERY_ONE
    }

    /// So many allocations have passed uncounted. `true` when from now on each must be counted.
    pub(crate) fn pass(&mut self, allocations: usize, random: &mut Random) -> bool {
        if self.rate == 0 || self.counts_every_one() {
            return false;
        }
        self.left = self.left.saturating_sub(i64::try_from(allocations).unwrap_or(i64::MAX));
        if self.left > NEAR {
            return false;
        }
        if self.left <= 0 {
            // It fell among those that went uncounted: one of the next stands in for it.
            self.left = 1 + i64::from(random.below(NEAR as u32));
        }
        true
    }

    /// So many slots that were counted when they were fetched have not been handed out: a thread that ends after a few
    /// allocations must not count as one that made as many as it could have.
    pub(crate) fn take_back(&mut self, allocations: usize) {
        let most = i64::from(self.rate) * 2;
        self.left = self.left.saturating_add(i64::try_from(allocations).unwrap_or(i64::MAX)).min(most);
    }

    /// Counts one allocation; `true` when it is the one. Then the next interval begins.
    pub(crate) fn falls_on_this(&mut self, random: &mut Random) -> bool {
        self.left -= 1;
        if self.left > 0 || self.rate == 0 {
            return false;
        }
        self.left = interval(self.rate, random);
        true
    }
}

/// Uniform from 1 to `2 × rate - 1`, so `rate` on average.
fn interval(rate: u32, random: &mut Random) -> i64 {
    if rate <= 1 { 1 } else { 1 + i64::from(random.below(rate.saturating_mul(2) - 1)) }
}

#[cfg(test)]
mod tests {
    use super::Sampler;
    use crate::random::Random;

    #[test]
    fn one_in_so_many_is_sampled_when_every_one_is_counted() {
        let mut random = Random::from_number(1);
        for rate in [1, 2, 10, 64] {
            let mut sampler = Sampler::new(rate, &mut random);
            assert!(sampler.counts_every_one());
            let sampled = (0..100_000).filter(|_| sampler.falls_on_this(&mut random)).count();
            let expected = 100_000 / rate as usize;
            assert!(sampled.abs_diff(expected) * 10 <= expected, "rate {rate}: {sampled}, not {expected}");
        }
    }

    #[test]
    fn one_in_so_many_is_sampled_when_allocations_pass_in_batches() {
        let mut random = Random::from_number(2);
        for rate in [100, 1000, 5000] {
            let mut sampler = Sampler::new(rate, &mut random);
            let (mut passed, mut sampled) = (0, 0_usize);
            while passed < 4_000_000 {
                passed += 32;
                if !sampler.pass(32, &mut random) {
                    continue;
                }
                loop {
                    passed += 1;
                    if sampler.falls_on_this(&mut random) {
                        sampled += 1;
                        break;
                    }
                }
            }
            let expected = passed / rate as usize;
            assert!(sampled.abs_diff(expected) * 4 <= expected, "rate {rate}: {sampled}, not {expected}");
        }
    }

    #[test]
    fn rate_zero_samples_nothing() {
        let mut random = Random::from_number(3);
        let mut sampler = Sampler::new(0, &mut random);
        assert!(!sampler.counts_every_one());
        assert!((0..1000).all(|_| !sampler.pass(1000, &mut random) && !sampler.falls_on_this(&mut random)));
    }

    #[test]
    fn intervals_cannot_be_foreseen() {
        let mut random = Random::from_number(4);
        let mut sampler = Sampler::new(50, &mut random);
        let mut seen = std::collections::BTreeSet::new();
        let mut since = 0;
        for _ in 0..100_000 {
            since += 1;
            if sampler.falls_on_this(&mut random) {
                seen.insert(since);
                since = 0;
            }
        }
        assert_eq!(seen.len(), 99, "every interval from 1 to 99 occurs");
    }
}
