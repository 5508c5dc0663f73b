//! How much memory a heap may take from the system.

use crate::os::mapping::OutOfMemory;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that a heap has in use and refuses what exceeds its limit.
///
/// Stops a memory bomb in untrusted input: NULL and ENOMEM instead of the OOM killer.
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// The most that was in use.
    peak: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes; `usize::MAX` is no limit.
    pub(crate) const fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// Takes `bytes`.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), OutOfMemory> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            self.refund(bytes);
            return Err(OutOfMemory);
        }
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether `bytes` more would be within the limit.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.limit
    }

    /// Gives `bytes` back.
    pub(crate) fn refund(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn a_budget_refuses_what_exceeds_it_and_takes_back() {
        let budget = Budget::new(100);
        assert!(budget.charge(60).is_ok());
        assert!(budget.charge(41).is_err());
        assert!(budget.charge(40).is_ok());
        budget.refund(60);
        assert_eq!((budget.used(), budget.peak()), (40, 100));
    }
}
