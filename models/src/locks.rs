//! `os::lock` as it is: exclusion, visibility, and no lost wake-up (loom reports threads that all sleep).

use crate::os::lock::{Lock, RawLock};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// A number that loom watches: two threads at it at once, or one that does not see the other's work, fail the model.
struct Watched(UnsafeCell<u32>);

// SAFETY: what is claimed, and what loom checks.
unsafe impl Send for Watched {}

fn add_one(lock: &Lock<Watched>) {
    let guard = lock.lock();
    // SAFETY: the lock is held.
    guard.0.with_mut(|number| unsafe { *number += 1 });
}

fn count(threads: u32, rounds: u32) {
    let lock = Arc::new(Lock::new(Watched(UnsafeCell::new(0))));
    // Makes the lock's word while there is one thread.
    drop(lock.lock());
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let lock = lock.clone();
            thread::spawn(move || (0..rounds).for_each(|_| add_one(&lock)))
        })
        .collect();
    (0..rounds).for_each(|_| add_one(&lock));
    for other in others {
        other.join().expect("the thread ends");
    }
    let guard = lock.lock();
    // SAFETY: the lock is held.
    assert_eq!(guard.0.with(|number| unsafe { *number }), threads * rounds);
}

/// Two threads, twice each: nothing is lost, everybody gets in.
pub fn two_threads_exclude_each_other() {
    loom::model(|| count(2, 2));
}

/// Three threads: a sleeper is woken though another thread came in between.
pub fn no_wake_up_is_lost_among_three() {
    let mut model = loom::model::Builder::new();
    // All orders with at most so many preemptions; without a bound there are too many to try.
    model.preemption_bound = Some(3);
    model.check(|| count(3, 1));
}

/// The fork handlers' way: taken and released in different functions.
pub fn the_bare_lock_excludes() {
    loom::model(|| {
        let shared = Arc::new((RawLock::new(), Watched(UnsafeCell::new(0))));
        shared.0.acquire();
        shared.0.release();
        let work = |(lock, number): &(RawLock, Watched)| {
            lock.acquire();
            // SAFETY: the lock is held.
            number.0.with_mut(|number| unsafe { *number += 1 });
            lock.release();
        };
        let other = shared.clone();
        let other = thread::spawn(move || work(&other));
        work(&shared);
        other.join().expect("the thread ends");
    });
}

// SAFETY: as for `Send`; the bare lock stands beside what it guards.
unsafe impl Sync for Watched {}
