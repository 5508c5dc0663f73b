//! The thread that is in the middle of a fork: it holds the locks of all heaps, and passes those that it holds.

use core::sync::atomic::{AtomicUsize, Ordering};

/// Its `pthread_t`, which is the same in the child; zero while there is none.
static FORKER: AtomicUsize = AtomicUsize::new(0);

fn this_thread() -> usize {
    // SAFETY: no conditions.
    unsafe { libc::pthread_self() as usize }
}

/// From now on it is the calling thread. Only one at a time: it has taken all locks.
pub(crate) fn set_this_thread() {
    FORKER.store(this_thread(), Ordering::Relaxed);
}

/// The fork is over: before the first of the locks is released.
pub(crate) fn forget() {
    FORKER.store(0, Ordering::Relaxed);
}

/// Whether it is the calling thread. No other thread can take its own identity for the forker's, however late it sees the change.
pub(crate) fn is_this_thread() -> bool {
    FORKER.load(Ordering::Relaxed) == this_thread()
}
