//! The environment and the limits of the process, read without allocating.

use core::ffi::CStr;
use core::ptr;

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// Whether the program runs with more rights than its caller (set-user-id, file capabilities): then
/// the caller's environment must not steer the allocator.
pub(crate) fn is_privileged() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The value of environment variable `name`, or `None`; always `None` in a privileged program.
///
/// `getenv` is not used: it may be interposed, and the first allocation can come before libc is ready.
pub(crate) fn variable(name: &[u8]) -> Option<&'static [u8]> {
    if is_privileged() {
        return None;
    }
    // SAFETY: set by the loader before any code of ours runs; read once, at start.
    let mut entry = unsafe { environ };
    if entry.is_null() {
        return None;
    }
    loop {
        // SAFETY: the array ends with a null pointer, which stops the loop.
        let text = unsafe { *entry };
        if text.is_null() {
            return None;
        }
        // SAFETY: each entry is a terminated string that lives as long as the process.
        let text = unsafe { CStr::from_ptr(text) }.to_bytes();
        if let Some(value) = text.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"=")) {
            return Some(value);
        }
        // SAFETY: the terminating null has not been reached yet.
        entry = unsafe { entry.add(1) };
    }
}

/// The limit on address space (`ulimit -v`), in bytes; `usize::MAX` when there is none.
pub(crate) fn address_space_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a valid place. A failure leaves "no limit", and reservations fail later instead.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, ptr::from_mut(&mut limit)) };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
