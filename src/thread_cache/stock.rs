//! How much one cache may keep: all that the options say, or less where many share little memory.

/// The most bytes of ready slots of one class in one cache.
pub(super) const READY_BYTES: usize = 32 << 10;

/// So many caches have all that they may have; more share it, down to a quarter each. Batches are then smaller, and the locks of classes
/// taken more often; but what dozens of threads hold back and have ready would outgrow what lives, in memory and in the CPU's
/// caches: 64 threads take a seventh less time so, and a fifth less memory.
///
/// What it costs: a freed slot comes back after fewer frees in the ninth thread and later ones. Eight places of each class stay.
const WHOLE_CACHES: usize = 8;
const LEAST_PART: usize = 4;

/// What one cache may keep, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stock {
    /// How many caches there are.
    caches: usize,
    /// At most so much of chunks that are held back, and about as much of ready slots.
    most: usize,
}

impl Stock {
    /// As much as the options say.
    const WHOLE: usize = 16 * READY_BYTES;

    /// For one more cache beside `caches` others, where `memory` bytes are allowed: a sixteenth of them, divided by the number
    /// of caches. The first few threads have all that they may have; some dozens in a small container have less each, because the
    /// kernel ends the process when what they keep fills it.
    pub(crate) fn beside(caches: usize, memory: usize) -> Self {
        Self { caches: caches + 1, most: memory / 16 / (caches + 1) }
    }

    /// The part of `whole` that each of so many caches has.
    fn share(self, whole: usize) -> usize {
        (whole * WHOLE_CACHES / self.caches).clamp(whole / LEAST_PART, whole)
    }

    /// Bytes of a quarantine for which the options allow so many.
    pub(super) fn quarantine(self, allowed: usize) -> usize {
        // However little that is, some is held back where any is wanted.
        self.share(allowed).min(self.most.max(1))
    }

    /// Bytes of ready slots of one class.
    pub(super) fn ready(self) -> usize {
        self.share(READY_BYTES).min(self.most / (Self::WHOLE / READY_BYTES))
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
    fn dozens_of_caches_hold_back_and_have_ready_a_quarter_each() {
        let keeps = [0, 7, 11, 15, 31, 1 << 20].map(|caches| {
            let stock = Stock::beside(caches, usize::MAX);
            (stock.quarantine(512 << 10) >> 10, stock.ready() >> 10)
        });
        assert_eq!(keeps, [(512, 32), (512, 32), (341, 21), (256, 16), (128, 8), (128, 8)]);
        // The most that the option allows, in KiB.
        assert_eq!(Stock::beside(0, usize::MAX).quarantine(1_048_576 << 10), 1 << 30);
        assert_eq!(Stock::beside(99, usize::MAX).quarantine(0), 0);
    }
}
