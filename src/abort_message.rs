//! The report where crash collectors look for it: glibc keeps a pointer to the text of the last abort, `__abort_msg`, which
//! core dumps hold and systemd-coredump, apport and debuggers show.
//!
//! The symbol is private to glibc, so nothing may be linked against it, and `dlsym` takes locks and may allocate. It is
//! looked up in the loaded modules' own tables; where there is none, nothing happens.

use crate::trace::variable;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Bytes of the text, its end included.
const MOST: usize = 1024;

/// glibc's `struct abort_msg_s`.
#[repr(C)]
struct Message {
    /// Bytes of the whole structure.
    size: u32,
    text: [u8; MOST],
}

struct Place(UnsafeCell<Message>);

// SAFETY: used by whoever has set `TAKEN`, which is never taken back.
unsafe impl Sync for Place {}

static PLACE: Place = Place(UnsafeCell::new(Message { size: size_of::<Message>() as u32, text: [0; MOST] }));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Leaves a text there, unless somebody has left one before.
pub(crate) fn leave(text: &[u8]) {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return;
    }
    let message = PLACE.0.get();
    // SAFETY: taken just now, once and for all. The last byte stays zero.
    let place = unsafe { &mut (*message).text };
    for (place, byte) in place.iter_mut().take(MOST - 1).zip(text) {
        *place = *byte;
    }
    let Some(pointer) = variable::address(c"__abort_msg") else { return };
    // SAFETY: glibc's variable, a pointer to such a structure.
    let pointer = unsafe { &*core::ptr::with_exposed_provenance::<AtomicPtr<Message>>(pointer) };
    let _ = pointer.compare_exchange(core::ptr::null_mut(), message, Ordering::AcqRel, Ordering::Relaxed);
}
