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
    let mut entry = entries()?;
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

/// The environment's entries.
///
/// The loader allocates before libc has set `environ`; then they are taken from the process's first stack frame,
/// which the loader knows: argument count, arguments, a null pointer, the entries.
fn entries() -> Option<*const *const libc::c_char> {
    // SAFETY: a word of libc's; written while the process has one thread.
    let known = unsafe { environ };
    if !known.is_null() {
        return Some(known);
    }
    let frame = first_frame()?;
    // SAFETY: the kernel has laid the frame out in this way.
    unsafe {
        let arguments = frame.read();
        Some(frame.add(arguments + 2).cast())
    }
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(".weak __libc_stack_end");

/// Where the stack began: glibc's loader exports it.
#[cfg(target_arch = "x86_64")]
fn first_frame() -> Option<*const usize> {
    let place: *const *const usize;
    // SAFETY: reads the symbol's address from the GOT; null where the loader has no such symbol.
    unsafe {
        core::arch::asm!(
            "mov {place}, qword ptr [rip + __libc_stack_end@GOTPCREL]",
            place = out(reg) place,
            options(nostack, preserves_flags, readonly, pure),
        );
    }
    // SAFETY: not null, so the loader's word.
    unsafe { place.as_ref() }.copied().filter(|frame| !frame.is_null())
}

#[cfg(not(target_arch = "x86_64"))]
fn first_frame() -> Option<*const usize> {
    None
}

/// The limit on address space (`ulimit -v`), in bytes; `usize::MAX` when there is none.
pub(crate) fn address_space_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a valid place. A failure leaves "no limit", and reservations fail later instead.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, ptr::from_mut(&mut limit)) };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
