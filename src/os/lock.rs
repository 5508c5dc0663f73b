//! A lock that never allocates: one word, spinning briefly, then sleeping in the kernel (futex).
//!
//! Three of its states are Drepper's ("Futexes are tricky", 2011): free, held, held with sleepers. The fourth is that of a lock that is held
//! because of a fork: the thread that forks passes it, because handlers of others may allocate between ours and the fork.

use super::atomic::{AtomicU32, Ordering};
use super::forker;
use super::futex;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;
const FORKED: u32 = 3;

/// The bare lock, for those who must take and release it in different functions (fork).
#[derive(Debug)]
pub(crate) struct RawLock {
    word: AtomicU32,
    /// Not zero while it is held for a fork. The word does not tell: who waits writes over it.
    for_fork: AtomicU32,
}

impl RawLock {
    pub(crate) const fn new() -> Self {
        Self { word: AtomicU32::new(FREE), for_fork: AtomicU32::new(0) }
    }

    #[inline]
    pub(crate) fn acquire(&self) {
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slowly();
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_acquire(&self) -> bool {
        self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn acquire_slowly(&self) {
        if self.is_passed() {
            return;
        }
        for _ in 0..futex::SPINS {
            core::hint::spin_loop();
            if self.word.load(Ordering::Relaxed) == FREE
                && self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
        }
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            futex::wait(&self.word, CONTENDED);
        }
    }

    #[inline]
    pub(crate) fn release(&self) {
        if self.word.compare_exchange(HELD, FREE, Ordering::Release, Ordering::Relaxed).is_err() {
            self.release_slowly();
        }
    }

    #[cold]
    fn release_slowly(&self) {
        // What was passed stays held.
        if !self.is_passed() {
            self.open();
        }
    }

    /// Whether the calling thread holds it for its fork. Of a heap that another thread is just making it does not.
    fn is_passed(&self) -> bool {
        forker::is_this_thread() && self.for_fork.load(Ordering::Relaxed) != 0
    }

    /// Takes the lock for as long as a fork lasts, by a thread that becomes the [`forker`] then.
    pub(crate) fn hold_for_fork(&self) {
        self.acquire();
        self.for_fork.store(1, Ordering::Relaxed);
        // Whoever releases it meanwhile must not find it plainly held. Where somebody sleeps, it is not.
        let _ = self.word.compare_exchange(HELD, FORKED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Releases what [`Self::hold_for_fork`] took, in the parent, by a thread that is the [`forker`] no more.
    pub(crate) fn release_after_fork(&self) {
        // One of a heap that a handler has made was never held.
        if self.for_fork.swap(0, Ordering::Relaxed) != 0 {
            self.open();
        }
    }

    fn open(&self) {
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            futex::wake_one(&self.word);
        }
    }

    /// Forgets all holders and sleepers: only for the child of a fork, which has one thread.
    pub(crate) fn reset(&self) {
        self.for_fork.store(0, Ordering::Relaxed);
        self.word.store(FREE, Ordering::Release);
    }
}

/// A value that is only reached while its lock is held.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is reached only through a guard, and one guard exists at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { raw: RawLock::new(), value: UnsafeCell::new(value) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.raw.acquire();
        Guard { lock: self }
    }

    /// The value, if nobody holds the lock.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Made only when the lock was taken: a guard that is made and dropped in vain would release somebody else's.
        self.raw.try_acquire().then(|| Guard { lock: self })
    }

    /// The lock itself, for fork handlers.
    pub(crate) fn raw(&self) -> &RawLock {
        &self.raw
    }
}

/// Access to a locked value; releases the lock when dropped.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's existence means that the lock is held by this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.release();
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn a_lock_that_could_not_be_taken_stays_held() {
        let lock = Lock::new(1);
        let mut held = lock.lock();
        assert!(lock.try_lock().is_none() && lock.try_lock().is_none());
        *held += 1;
        drop(held);
        assert_eq!(lock.try_lock().map(|value| *value), Some(2));
        // And was given back by the guard that took it.
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn a_lock_lets_one_thread_in_at_a_time() {
        let counter = Lock::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        *counter.lock() += 1;
                    }
                });
            }
        });
        assert_eq!(*counter.lock(), 80_000);
    }
}
