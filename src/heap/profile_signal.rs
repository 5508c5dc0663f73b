//! The signal that has the heap profile written.
//!
//! The handler writes it at once, by bare system calls and without waiting for a lock; where it has interrupted whoever is
//! changing the profile, that one writes it in the next moment. A handler that the program installs later for the
//! same signal takes this one's place.

use super::core::Core;
use crate::os::process::Errno;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The heap whose profile is written; zero until the handler is installed.
static HEAP: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler for a process-wide heap.
pub(super) fn serve_from_now_on(core: &'static Core, signal: u8) {
    let _errno = Errno::keep();
    HEAP.store(core::ptr::from_ref(core).expose_provenance(), Ordering::Release);
    // SAFETY: a plain structure, a valid place, and a handler of the type that goes without SA_SIGINFO.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        // The program's system calls go on as if nothing had been.
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(i32::from(signal), &raw const action, core::ptr::null_mut());
    }
}

extern "C" fn on_signal(_: libc::c_int) {
    let _errno = Errno::keep();
    let heap = HEAP.load(Ordering::Acquire);
    if heap != 0 {
        // SAFETY: the process-wide heap is never destroyed.
        unsafe { Core::at(heap) }.heap_profile.write_from_handler();
    }
}
