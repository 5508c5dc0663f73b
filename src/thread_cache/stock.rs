//! How much one cache may keep: all that the options say, or less where many share little memory.

/// The most bytes of ready slots of one class in one cache.
pub(super) const READY_BYTES: usize = 32 << 10;

/// So many caches have all of these; more share them, down to a quarter each. A batch is then smaller and the lock of a class is taken more
/// often, by some 5 % of the time of threads that do nothing else; but what lies ready in dozens of threads would outgrow what lives.
const READY_CACHES: usize = 8;
const LEAST_READY_BYTES: usize = READY_BYTES / 4;

/// What one cache may keep, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Of chunks that are held back, and about as much of ready slots.
    all: usize,
    /// Of ready slots of one class.
    ready: usize,
}

impl Stock {
    /// As much as the options say.
    const WHOLE: usize = 16 * READY_BYTES;

    /// For one more cache beside `caches` others, where `memory` bytes are allowed: a sixteenth of them, divided by the number
    /// of caches. The first few threads have all that they may have; some dozens in a small container have less each, because the
    /// kernel ends the process when what they keep fills it.
    pub(crate) fn beside(caches: usize, memory: usize) -> Self {
        let all = memory / 16 / (caches + 1);
        let shared = (READY_BYTES * READY_CACHES / (caches + 1)).clamp(LEAST_READY_BYTES, READY_BYTES);
        Self { all, ready: shared.min(all / (Self::WHOLE / READY_BYTES)) }
    }

    /// Bytes of a quarantine for which the options allow so many.
    pub(super) fn quarantine(self, allowed: usize) -> usize {
        // However little that is, some is held back where any is wanted.
        allowed.min(self.all.max(1))
    }

    /// Bytes of ready slots of one class.
    pub(super) const fn ready(self) -> usize {
        self.ready
    }
}

#[cfg(test)]
mod tests {
    use super::Stock;

    #[test]
    fn a_cache_keeps_less_where_many_have_little_memory_together() {
        let keeps = |caches, memory| {
            let stock = Stock::beside(caches, memory);
            (stock.quarantine(512 << 10) >> 10, stock.ready() >> 10)
        };
        assert_eq!([keeps(0, 64 << 20), keeps(7, 64 << 20), keeps(15, 64 << 20)], [(512, 32), (512, 32), (256, 16)]);
        assert_eq!([keeps(31, 64 << 20), keeps(63, 64 << 20)], [(128, 8), (64, 4)]);
        let nothing = Stock::beside(99, 4096);
        assert_eq!((nothing.quarantine(512 << 10), nothing.quarantine(0), nothing.ready()), (2, 0, 0));
    }

    #[test]
    fn dozens_of_caches_have_less_ready_each_and_hold_back_as_much_as_ever() {
        let keeps = [0, 7, 11, 15, 31, 1 << 20].map(|caches| {
            let stock = Stock::beside(caches, usize::MAX);
            (stock.quarantine(512 << 10) >> 10, stock.ready() >> 10)
        });
        assert_eq!(keeps, [(512, 32), (512, 32), (512, 21), (512, 16), (512, 8), (512, 8)]);
    }
}
