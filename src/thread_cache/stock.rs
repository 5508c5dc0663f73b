//! How much one cache may keep: all that the options say, or less where many share little memory.

/// Bytes of ready slots of one class in one cache.
const READY_BYTES: usize = 32 << 10;

/// What one cache may keep, in bytes: of chunks that are held back, and about as much of ready slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stock(usize);

impl Stock {
    /// As much as the options say.
    const WHOLE: usize = 16 * READY_BYTES;

    /// For one more cache beside `caches` others, where `memory` bytes are allowed: a sixteenth of them, divided by the number
    /// of caches. The first few threads have all that they may have; some dozens in a small container have less each, because the
    /// kernel ends the process when what they keep fills it.
    pub(crate) const fn beside(caches: usize, memory: usize) -> Self {
        Self(memory / 16 / (caches + 1))
    }

    /// Bytes of a quarantine for which the options allow so many.
    pub(super) fn quarantine(self, allowed: usize) -> usize {
        // However little that is, some is held back where any is wanted.
        allowed.min(self.0.max(1))
    }

    /// Bytes of ready slots of one class: all there is to have unless the cache may keep little.
    pub(super) fn ready(self) -> usize {
        READY_BYTES.min(self.0 / (Self::WHOLE / READY_BYTES))
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
        for caches in [0, 1, 100, 1 << 20] {
            assert_eq!(keeps(caches, usize::MAX), (512, 32));
        }
        assert_eq!([keeps(0, 64 << 20), keeps(7, 64 << 20), keeps(15, 64 << 20)], [(512, 32), (512, 32), (256, 16)]);
        let nothing = Stock::beside(99, 4096);
        assert_eq!((nothing.quarantine(512 << 10), nothing.quarantine(0), nothing.ready()), (2, 0, 0));
    }
}
