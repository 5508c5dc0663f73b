//! `os::lock` as it is: exclusion, visibility, and no lost wake-up (loom reports threads that all sleep).

use crate::os::forker;
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

/// Taken and released in different functions.
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

/// Between the handlers of a fork: the thread that forks passes the lock as often as it likes, the other one not before the fork is over.
pub fn the_thread_that_forks_passes_the_lock_that_it_holds() {
    loom::model(|| {
        let shared = Arc::new((RawLock::new(), Watched(UnsafeCell::new(0))));
        let add = |(lock, number): &(RawLock, Watched), more: u32| {
            lock.acquire();
            // SAFETY: the lock is held.
            number.0.with_mut(|number| unsafe { *number += more });
            lock.release();
        };
        shared.0.acquire();
        shared.0.release();
        let other = shared.clone();
        let other = thread::spawn(move || add(&other, 100));
        shared.0.hold_for_fork();
        forker::set_this_thread();
        // SAFETY: the lock is held.
        let before = shared.1.0.with(|number| unsafe { *number });
        add(&shared, 1);
        add(&shared, 1);
        // SAFETY: as above.
        assert_eq!(shared.1.0.with(|number| unsafe { *number }), before + 2);
        forker::forget();
        shared.0.release_after_fork();
        other.join().expect("the thread ends");
        add(&shared, 1);
        // SAFETY: the other thread has ended.
        assert_eq!(shared.1.0.with(|number| unsafe { *number }), 103);
    });
}

/// Of a heap that another thread makes meanwhile: it is in no list yet.
pub fn the_thread_that_forks_waits_for_a_lock_that_it_does_not_hold() {
    loom::model(|| {
        let shared = Arc::new((RawLock::new(), Watched(UnsafeCell::new(0))));
        let add = |(lock, number): &(RawLock, Watched)| {
            lock.acquire();
            // SAFETY: the lock is held.
            number.0.with_mut(|number| unsafe { *number += 1 });
            lock.release();
        };
        shared.0.acquire();
        shared.0.release();
        let other = shared.clone();
        let other = thread::spawn(move || add(&other));
        forker::set_this_thread();
        add(&shared);
        // Never held for the fork, so nothing is released after it.
        shared.0.release_after_fork();
        forker::forget();
        other.join().expect("the thread ends");
        add(&shared);
        // SAFETY: the other thread has ended.
        assert_eq!(shared.1.0.with(|number| unsafe { *number }), 3);
    });
}

// SAFETY: as for `Send`; the bare lock stands beside what it guards.
unsafe impl Sync for Watched {}
