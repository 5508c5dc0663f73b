//! Free memory goes back to the system once nobody has used it for a while (`release_interval_ms`).
//!
//! There is no thread for that. Whoever comes to a slow path when an interval has passed does the work for the whole heap, so
//! that after a spike memory goes back as long as the program does anything at all. A program that stops altogether
//! calls `malloc_trim` or keeps what it has. So it is with the caches of threads that have ended, of which a few stay as they are
//! for the next ones.
//!
//! The pages of a long slot whose class is rarely freed go back when it is freed, in [`super::free`], unless memory is never to go.

use super::core::Core;
use crate::os::process;
use crate::thread_cache::ThreadCache;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The least time between two rounds, in milliseconds: with `release_interval_ms=0` whole slabs go back at once, and
/// single pages in such rounds.
const SHORTEST: u64 = 100;

/// The most caches of threads that have ended that one round gives back: some 15 microseconds each, for which one thread waits.
const MOST_CACHES: usize = 128;

/// Numbers the intervals that pass.
pub(crate) struct Epochs {
    current: AtomicU32,
    /// When the current one ends, in milliseconds.
    ends: AtomicU64,
}

impl Epochs {
    pub(crate) const fn new() -> Self {
        // Zero would mean "trimmed".
        Self { current: AtomicU32::new(1), ends: AtomicU64::new(0) }
    }

    /// The number of the epoch.
    pub(crate) fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// Ends the epoch if it is over, for one of all callers; returns its number.
    fn end(&self, now: u64, interval: u64) -> Option<u32> {
        let ends = self.ends.load(Ordering::Relaxed);
        if now < ends || self.ends.compare_exchange(ends, now + interval, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return None;
        }
        // The first caller of all only starts the clock.
        (ends != 0).then(|| self.current.fetch_add(1, Ordering::Relaxed))
    }
}

impl Core {
    /// For slow paths that are taken every few frees: does the same every eighth time.
    #[inline(always)]
    pub(crate) fn decay_now_and_then(&self, cache: &mut ThreadCache) {
        cache.turns = cache.turns.wrapping_add(1);
        if cache.turns.is_multiple_of(8) {
            self.decay_if_due();
        }
    }

    /// Called on slow paths, without a lock: one reading of a coarse clock, and once an interval the round.
    #[cold]
    #[inline(never)]
    pub(crate) fn decay_if_due(&self) {
        let Ok(interval) = u64::try_from(self.options.release_interval_ms) else { return };
        if let Some(finished) = self.epochs.end(process::milliseconds(), interval.max(SHORTEST)) {
            self.decay(finished);
        }
    }

    #[cold]
    fn decay(&self, finished: u32) {
        for class in &self.classes {
            class.lock().decay(self.ground(), finished);
        }
        self.secondary.decay(self.large_ground());
        self.strip_left(MOST_CACHES, finished);
    }
}

#[cfg(test)]
mod tests {
    use super::Epochs;

    #[test]
    fn an_epoch_ends_once_when_its_time_is_over() {
        let epochs = Epochs::new();
        assert_eq!((epochs.end(5000, 1000), epochs.current()), (None, 1));
        assert_eq!(epochs.end(5999, 1000), None);
        assert_eq!((epochs.end(6000, 1000), epochs.current()), (Some(1), 2));
        assert_eq!(epochs.end(6001, 1000), None);
        assert_eq!(epochs.end(9000, 1000), Some(2));
    }
}
