//! What a fork does to heaps: nobody is in the middle of a change when memory is copied, and the child draws
//! randomness of its own.
//!
//! All heaps of the process stand in one list, the process-wide one and private ones alike, so that a
//! forked child can go on with each of them, whatever other threads were doing.

use super::core::Core;
use crate::os::forker;
use crate::os::lock::RawLock;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Address of the first heap in the list; zero when it is empty.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static LIST: RawLock = RawLock::new();

/// Whether the handlers are known to the C library.
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Enters a heap that was just made. May allocate in the process-wide heap, once.
pub(crate) fn enlist(core: &Core) {
    let address = core::ptr::from_ref(core).expose_provenance();
    LIST.acquire();
    let next = FIRST.swap(address, Ordering::Relaxed);
    core.links.next.store(next, Ordering::Relaxed);
    if next != 0 {
        // SAFETY: heaps in the list exist: they leave it before they are destroyed.
        unsafe { Core::at(next) }.links.previous.store(address, Ordering::Relaxed);
    }
    LIST.release();
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // Registered as the first of all in most programs, these run last before a fork and first after it. Handlers that were registered
        // even earlier, in constructors, run between them, and may allocate all the same: the thread that forks passes the locks.
        // SAFETY: the handlers live as long as the process.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child)) };
    }
}

/// Takes a heap out that is about to be destroyed.
pub(crate) fn delist(core: &Core) {
    LIST.acquire();
    let previous = core.links.previous.load(Ordering::Relaxed);
    let next = core.links.next.load(Ordering::Relaxed);
    if previous == 0 {
        FIRST.store(next, Ordering::Relaxed);
    } else {
        // SAFETY: as in `enlist`.
        unsafe { Core::at(previous) }.links.next.store(next, Ordering::Relaxed);
    }
    if next != 0 {
        // SAFETY: as in `enlist`.
        unsafe { Core::at(next) }.links.previous.store(previous, Ordering::Relaxed);
    }
    LIST.release();
}

/// Calls `visit` with every heap, for the holder of the list's lock.
fn for_each(visit: impl Fn(&Core)) {
    let mut address = FIRST.load(Ordering::Relaxed);
    while address != 0 {
        // SAFETY: as in `enlist`.
        let core = unsafe { Core::at(address) };
        visit(core);
        address = core.links.next.load(Ordering::Relaxed);
    }
}

extern "C" fn before_fork() {
    LIST.hold_for_fork();
    for_each(Core::lock_all);
    forker::set_this_thread();
}

extern "C" fn after_fork_in_parent() {
    forker::forget();
    for_each(Core::unlock_all);
    LIST.release_after_fork();
}

extern "C" fn after_fork_in_child() {
    forker::forget();
    for_each(Core::restart_in_child);
    LIST.reset();
}
