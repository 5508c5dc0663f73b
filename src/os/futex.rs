//! Sleeping in the kernel until a word changes.

use super::atomic::AtomicU32;
use super::process::Errno;

/// How often to look at a word again before sleeping: a batch flush holds a class lock for well under a microsecond.
pub(crate) const SPINS: u32 = 60;

/// Sleeps while the word has this value. May return at any time; should a sandbox forbid futex, at once.
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    let _errno = Errno::keep();
    // SAFETY: the word outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            core::ptr::null::<libc::timespec>(),
        );
    }
}

/// Wakes one thread that sleeps on the word, if there is one.
pub(crate) fn wake_one(word: &AtomicU32) {
    let _errno = Errno::keep();
    // SAFETY: the word is only named, not used: sleepers wait on its address.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
    }
}
