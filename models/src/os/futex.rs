//! A model of futex: the kernel compares the word and puts the caller to sleep as one step, under a lock of its own, and
//! a call that wakes wakes one thread. There is one queue, so a model has one contended lock.

use super::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};

/// One look is as good as sixty, and a model of sixty never ends.
pub(crate) const SPINS: u32 = 1;

loom::lazy_static! {
    static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
}

pub(crate) fn wait(word: &AtomicU32, value: u32) {
    let (queue, sleepers) = &*QUEUE;
    let kernel = queue.lock().expect("nobody panics with it");
    if word.load(Ordering::SeqCst) == value {
        drop(sleepers.wait(kernel).expect("nobody panics with it"));
    }
}

pub(crate) fn wake_one(_word: &AtomicU32) {
    let (queue, sleepers) = &*QUEUE;
    let _kernel = queue.lock().expect("nobody panics with it");
    sleepers.notify_one();
}
