//! How much memory a heap may take from the system.

use crate::os::mapping::OutOfMemory;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may lie idle in any heap, and the most in the largest. A program that frees one document and reads the next
/// pays a page fault for every 4 KiB otherwise.
const LEAST_IDLE: usize = 4 << 20;
const MOST_IDLE: usize = 64 << 20;

/// Counts the bytes that a heap has in use and refuses what exceeds its limit.
///
/// Stops a memory bomb in untrusted input: NULL and ENOMEM instead of the OOM killer.
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// The most that was in use.
    peak: AtomicUsize,
    /// The most bytes that may lie idle.
    most_idle: AtomicUsize,
    /// Those of the bytes in use that nobody has: slabs in which every slot is free.
    idle: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes; `usize::MAX` is no limit.
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            most_idle: AtomicUsize::new(MOST_IDLE),
            idle: AtomicUsize::new(0),
        }
    }

    /// Lets no more lie idle than a sixteenth of the memory that there is: with little of it, what one class keeps is
    /// missed by others, or by other programs in the same container.
    pub(crate) fn fit_to(&self, memory: usize) {
        self.most_idle.store(MOST_IDLE.min(memory / 16), Ordering::Relaxed);
    }

    /// Takes `bytes` and with them from the system what they are for.
    ///
    /// # Errors
    /// When that would exceed the limit, or when `take` is refused. Nothing is charged then.
    pub(crate) fn pay<T, E: From<OutOfMemory>>(
        &self,
        bytes: usize,
        take: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.charge(bytes)?;
        match take() {
            Ok(taken) => {
                // Not before: what the system refuses was never in use.
                self.peak.fetch_max(self.used(), Ordering::Relaxed);
                Ok(taken)
            }
            Err(refused) => {
                self.refund(bytes);
                Err(refused)
            }
        }
    }

    /// What would exceed the limit is not even added for a moment: others, who ask for little, would be refused meanwhile.
    fn charge(&self, bytes: usize) -> Result<(), OutOfMemory> {
        let within = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).map(|_| ()).map_err(|_| OutOfMemory)
    }

    /// Counts `bytes` as idle.
    pub(crate) fn lay_idle(&self, bytes: usize) {
        self.idle.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts them no more.
    pub(crate) fn end_idle(&self, bytes: usize) {
        self.idle.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether more is idle than a heap should keep for the moment when it is wanted again: a quarter of the most that it
    /// ever had in use, within bounds; nothing where there is a limit, because one class's idle slabs are of no use to others.
    pub(crate) fn has_surplus(&self) -> bool {
        let bound = self.most_idle.load(Ordering::Relaxed);
        let most = if self.limit == usize::MAX { (self.peak() / 4).clamp(LEAST_IDLE.min(bound), bound) } else { 0 };
        self.idle.load(Ordering::Relaxed) > most
    }

    /// Whether `bytes` more would be within the limit.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.limit
    }

    /// Whether giving back what nobody has could make room for `bytes` more: not for what is beyond the limit or, where there
    /// is none and it was the system that refused, larger than the heap itself.
    pub(crate) fn could_hold(&self, bytes: usize) -> bool {
        bytes <= if self.limit == usize::MAX { self.used() } else { self.limit }
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
    use crate::os::mapping::OutOfMemory;
    use core::sync::atomic::{AtomicBool, Ordering};

    fn pay(budget: &Budget, bytes: usize) -> Result<(), OutOfMemory> {
        budget.pay(bytes, || Ok(()))
    }

    #[test]
    fn little_memory_lets_little_lie_idle() {
        let budget = Budget::new(usize::MAX);
        budget.lay_idle(2 << 20);
        assert!(!budget.has_surplus());
        budget.fit_to(64 << 20);
        assert!(!budget.has_surplus());
        budget.fit_to(16 << 20);
        assert!(budget.has_surplus());
    }

    #[test]
    fn a_budget_refuses_what_exceeds_it_and_takes_back() {
        let budget = Budget::new(100);
        assert_eq!(pay(&budget, 60), Ok(()));
        assert_eq!(pay(&budget, 41), Err(OutOfMemory));
        assert_eq!(pay(&budget, usize::MAX), Err(OutOfMemory));
        assert_eq!(pay(&budget, 40), Ok(()));
        budget.refund(60);
        assert_eq!((budget.used(), budget.peak()), (40, 100));
    }

    #[test]
    fn what_the_system_refuses_is_neither_in_use_nor_the_peak() {
        let budget = Budget::new(usize::MAX);
        assert_eq!(pay(&budget, 60), Ok(()));
        assert_eq!(budget.pay(1 << 62, || Err::<(), _>(OutOfMemory)), Err(OutOfMemory));
        assert_eq!((budget.used(), budget.peak()), (60, 60));
    }

    /// Attack: a thread that asks for too much again and again keeps others from what they may have.
    #[test]
    fn a_request_beyond_the_limit_is_not_felt_by_others() {
        const ROUNDS: usize = 200_000;
        let budget = Budget::new(100);
        let (started, over) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let greedy = scope.spawn(|| {
                let mut granted = 0;
                while !over.load(Ordering::Relaxed) {
                    granted += usize::from(pay(&budget, 1000).is_ok());
                    started.store(true, Ordering::Relaxed);
                }
                granted
            });
            while !started.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let refused = (0..ROUNDS).filter(|_| pay(&budget, 90).map(|()| budget.refund(90)).is_err()).count();
            over.store(true, Ordering::Relaxed);
            assert_eq!((greedy.join().expect("it ends"), refused), (0, 0));
        });
    }

    #[test]
    fn giving_back_makes_no_room_for_what_is_larger_than_the_limit_or_the_heap() {
        let budget = Budget::new(100);
        assert!(budget.could_hold(100) && !budget.could_hold(101));
        let budget = Budget::new(usize::MAX);
        assert!(!budget.could_hold(1));
        assert_eq!(pay(&budget, 60), Ok(()));
        assert!(budget.could_hold(60) && !budget.could_hold(61));
    }
}
