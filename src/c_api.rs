//! The C and C++ allocation functions, without their symbols: `preload/` exports them, so that a
//! Rust program that depends on this crate never has `malloc` exported at it.
//!
//! `errno`, alignment and zero sizes behave as the C standard and glibc's manual say. A violation ends the process
//! with a report.
//!
//! ```
//! use testudo::c_api;
//!
//! let chunk = c_api::malloc(10);
//! assert!(!chunk.is_null());
//! assert_eq!(c_api::usable_size(chunk), 10);
//! c_api::free(chunk);
//! ```

use crate::chunk::header::Origin;
use crate::heap::demand::Demand;
use crate::heap::process;
use crate::heap_profile::HeapProfileError;
use crate::options::Options;
use crate::os::mapping::{PAGE, page_ceil};
use crate::os::process::Errno;
use crate::report;
use crate::size_class::MIN_ALIGN_LOG2;
use crate::stats::{ClassStats, Totals};
use core::ffi::{CStr, c_void};
use core::ptr;

/// Which of C++'s allocation functions was called.
///
/// ```
/// use testudo::c_api::{self, New};
///
/// let array = c_api::new(New::Array, 100);
/// c_api::delete(New::Array, array);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum New {
    /// `operator new`.
    Single,
    /// `operator new[]`.
    Array,
}

impl New {
    const fn origin(self) -> Origin {
        match self {
            Self::Single => Origin::New,
            Self::Array => Origin::NewArray,
        }
    }

    const fn aligned_origin(self) -> Origin {
        match self {
            Self::Single => Origin::AlignedNew,
            Self::Array => Origin::AlignedNewArray,
        }
    }
}

const FREE: Demand = Demand::origin(
    "free() was called on memory that did not come from malloc's family",
    Origin::Malloc,
    &[Origin::Memalign],
);
const REALLOC: Demand = Demand::origin(
    "realloc() was called on memory that did not come from malloc's family",
    Origin::Malloc,
    &[Origin::Memalign],
);
const FREE_SIZED: Demand = Demand::origin(
    "free_sized() was called on memory that did not come from malloc, calloc or realloc",
    Origin::Malloc,
    &[],
);
const FREE_ALIGNED_SIZED: Demand = Demand::origin(
    "free_aligned_sized() was called on memory that did not come from aligned_alloc",
    Origin::Memalign,
    &[],
);

const DELETE: Demand =
    Demand::origin("operator delete was called on memory that did not come from operator new", Origin::New, &[]);
const DELETE_ARRAY: Demand = Demand::origin(
    "operator delete[] was called on memory that did not come from operator new[]",
    Origin::NewArray,
    &[],
);

#[inline(always)]
fn delete_demand(new: New) -> Demand {
    match new {
        New::Single => DELETE,
        New::Array => DELETE_ARRAY,
    }
}

const fn aligned_delete_demand(new: New) -> Demand {
    match new {
        New::Single => Demand::origin(
            "aligned operator delete was called on memory that did not come from aligned operator new",
            Origin::AlignedNew,
            &[],
        ),
        New::Array => Demand::origin(
            "aligned operator delete[] was called on memory that did not come from aligned operator new[]",
            Origin::AlignedNewArray,
            &[],
        ),
    }
}

#[inline(always)]
fn pointer(chunk: usize) -> *mut c_void {
    ptr::with_exposed_provenance_mut(chunk)
}

/// Reads `TESTUDO_OPTIONS`, as the first allocation does: a wrong option ends the process with one line, `help=1` with the list.
///
/// ```
/// testudo::c_api::check_options(); // returns: nothing is wrong
/// ```
pub fn check_options() {
    process::check_options();
}

/// Whether modules that are opened with `RTLD_DEEPBIND` may have the C library's `malloc`: option `deepbind`.
///
/// ```
/// assert!(!testudo::c_api::leaves_deepbind());
/// ```
pub fn leaves_deepbind() -> bool {
    process::leaves_deepbind()
}

/// `malloc`.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::malloc(100);
/// assert!(!chunk.is_null());
/// c_api::free(chunk);
/// ```
#[inline(always)]
#[must_use]
pub fn malloc(size: usize) -> *mut c_void {
    pointer(process::allocate(&Options::DEFAULT, size, MIN_ALIGN_LOG2, Origin::Malloc))
}

/// `calloc`.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::calloc(10, 4);
/// assert_eq!(c_api::usable_size(chunk), 40);
/// c_api::free(chunk);
/// assert!(c_api::calloc(usize::MAX, 2).is_null());
/// ```
#[inline(always)]
#[must_use]
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else {
        Errno::set(libc::ENOMEM);
        return ptr::null_mut();
    };
    pointer(process::allocate_zeroed(&Options::DEFAULT, bytes, MIN_ALIGN_LOG2, Origin::Malloc))
}

/// `free`.
///
/// ```
/// use testudo::c_api;
///
/// c_api::free(c_api::malloc(1));
/// c_api::free(std::ptr::null_mut()); // nothing
/// ```
#[inline(always)]
pub fn free(chunk: *mut c_void) {
    process::free(chunk.expose_provenance(), FREE);
}

/// `realloc`. With size zero it frees and returns NULL, as glibc does.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::realloc(c_api::malloc(10), 1000);
/// assert_eq!(c_api::usable_size(chunk), 1000);
/// assert!(c_api::realloc(chunk, 0).is_null());
/// ```
#[inline]
#[must_use]
pub fn realloc(chunk: *mut c_void, size: usize) -> *mut c_void {
    if chunk.is_null() {
        return malloc(size);
    }
    if size == 0 {
        process::free(chunk.expose_provenance(), REALLOC);
        return ptr::null_mut();
    }
    pointer(process::reallocate(chunk.expose_provenance(), size, REALLOC, MIN_ALIGN_LOG2, Origin::Malloc))
}

/// `reallocarray`.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::reallocarray(std::ptr::null_mut(), 10, 4);
/// assert!(c_api::reallocarray(chunk, usize::MAX, 2).is_null());
/// c_api::free(chunk);
/// ```
#[must_use]
pub fn reallocarray(chunk: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => realloc(chunk, bytes),
        None => {
            Errno::set(libc::ENOMEM);
            ptr::null_mut()
        }
    }
}

fn aligned(align: usize, size: usize, origin: Origin) -> usize {
    process::allocate(&Options::DEFAULT, size, align.ilog2(), origin)
}

/// `memalign`. An alignment that is no power of two is rounded up to the next, as glibc does.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::memalign(256, 10);
/// assert!(chunk.addr().is_multiple_of(256));
/// c_api::free(chunk);
/// ```
#[must_use]
pub fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.max(1).checked_next_power_of_two() {
        Some(align) => pointer(aligned(align, size, Origin::Memalign)),
        None => {
            Errno::set(libc::EINVAL);
            ptr::null_mut()
        }
    }
}

/// `aligned_alloc`. An alignment that is no power of two is EINVAL.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::aligned_alloc(64, 128);
/// assert!(chunk.addr().is_multiple_of(64));
/// c_api::free_aligned_sized(chunk, 64, 128);
/// assert!(c_api::aligned_alloc(3, 128).is_null());
/// ```
#[must_use]
pub fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        Errno::set(libc::EINVAL);
        return ptr::null_mut();
    }
    pointer(aligned(align, size, Origin::Memalign))
}

/// `posix_memalign`. Returns the error; `errno` and, on error, `*place` stay as they were.
///
/// # Safety
/// `place` is writable.
///
/// ```
/// use testudo::c_api;
///
/// let mut chunk = std::ptr::null_mut();
/// // SAFETY: the place is writable.
/// assert_eq!(unsafe { c_api::posix_memalign(&mut chunk, 64, 10) }, 0);
/// assert!(chunk.addr().is_multiple_of(64));
/// c_api::free(chunk);
/// ```
#[must_use]
pub unsafe fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> i32 {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let _errno = Errno::keep();
    let chunk = aligned(align, size, Origin::Memalign);
    if chunk == 0 {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(pointer(chunk)) };
    0
}

/// `valloc`.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::valloc(1);
/// assert!(chunk.addr().is_multiple_of(4096));
/// c_api::free(chunk);
/// ```
#[must_use]
pub fn valloc(size: usize) -> *mut c_void {
    pointer(aligned(PAGE, size, Origin::Memalign))
}

/// `pvalloc`.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::pvalloc(1);
/// assert_eq!(c_api::usable_size(chunk), 4096);
/// c_api::free(chunk);
/// ```
#[must_use]
pub fn pvalloc(size: usize) -> *mut c_void {
    if size > isize::MAX.cast_unsigned() {
        Errno::set(libc::ENOMEM);
        return ptr::null_mut();
    }
    pointer(aligned(PAGE, page_ceil(size), Origin::Memalign))
}

/// `malloc_usable_size`: the requested size, so that slack is never the program's.
///
/// ```
/// use testudo::c_api;
///
/// assert_eq!(c_api::usable_size(std::ptr::null_mut()), 0);
/// ```
#[must_use]
pub fn usable_size(chunk: *mut c_void) -> usize {
    if chunk.is_null() { 0 } else { process::usable_size(chunk.expose_provenance()) }
}

/// C23's `free_sized`.
///
/// ```
/// use testudo::c_api;
///
/// c_api::free_sized(c_api::malloc(100), 100);
/// ```
#[inline(always)]
pub fn free_sized(chunk: *mut c_void, size: usize) {
    process::free(chunk.expose_provenance(), FREE_SIZED.sized(size));
}

/// C23's `free_aligned_sized`.
///
/// ```
/// use testudo::c_api;
///
/// c_api::free_aligned_sized(c_api::aligned_alloc(64, 128), 64, 128);
/// ```
pub fn free_aligned_sized(chunk: *mut c_void, align: usize, size: usize) {
    if !chunk.is_null() {
        let align_log2 = if align.is_power_of_two() { align.ilog2() } else { usize::BITS - 1 };
        process::free(chunk.expose_provenance(), FREE_ALIGNED_SIZED.sized(size).aligned(align_log2));
    }
}

/// `operator new`, with NULL for failure.
///
/// ```
/// use testudo::c_api::{self, New};
///
/// let object = c_api::new(New::Single, 8);
/// c_api::delete_sized(New::Single, object, 8);
/// ```
#[inline(always)]
#[must_use]
pub fn new(kind: New, size: usize) -> *mut c_void {
    pointer(process::allocate(&Options::DEFAULT, size, MIN_ALIGN_LOG2, kind.origin()))
}

/// Aligned `operator new`, with NULL for failure. An alignment that is no power of two fails.
///
/// ```
/// use testudo::c_api::{self, New};
///
/// let object = c_api::new_aligned(New::Single, 8, 128);
/// assert!(object.addr().is_multiple_of(128));
/// c_api::delete_aligned(New::Single, object, Some(8), 128);
/// ```
#[must_use]
pub fn new_aligned(kind: New, size: usize, align: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        return ptr::null_mut();
    }
    pointer(aligned(align, size, kind.aligned_origin()))
}

/// Ends the process by SIGABRT with one line: `operator new` found no memory, and there is nobody to throw `std::bad_alloc`.
///
/// ```no_run
/// use testudo::c_api::{self, New};
///
/// let chunk = c_api::new(New::Single, usize::MAX);
/// if chunk.is_null() {
///     c_api::end_for_want_of_memory();
/// }
/// ```
pub fn end_for_want_of_memory() -> ! {
    report::fatal("operator new failed and there is no C++ runtime to throw std::bad_alloc")
}

/// `operator delete`.
///
/// ```
/// use testudo::c_api::{self, New};
///
/// c_api::delete(New::Single, c_api::new(New::Single, 8));
/// ```
#[inline(always)]
pub fn delete(kind: New, chunk: *mut c_void) {
    process::free(chunk.expose_provenance(), delete_demand(kind));
}

/// Sized `operator delete`.
///
/// ```
/// use testudo::c_api::{self, New};
///
/// c_api::delete_sized(New::Array, c_api::new(New::Array, 80), 80);
/// ```
#[inline(always)]
pub fn delete_sized(kind: New, chunk: *mut c_void, size: usize) {
    process::free(chunk.expose_provenance(), delete_demand(kind).sized(size));
}

/// Aligned `operator delete`, sized where `size` is known.
///
/// ```
/// use testudo::c_api::{self, New};
///
/// c_api::delete_aligned(New::Array, c_api::new_aligned(New::Array, 8, 64), None, 64);
/// ```
pub fn delete_aligned(kind: New, chunk: *mut c_void, size: Option<usize>, align: usize) {
    if !chunk.is_null() {
        let align_log2 = if align.is_power_of_two() { align.ilog2() } else { usize::BITS - 1 };
        let demand = aligned_delete_demand(kind).aligned(align_log2);
        let demand = match size {
            Some(size) => demand.sized(size),
            None => demand,
        };
        process::free(chunk.expose_provenance(), demand);
    }
}

/// Requested size of the live chunk that starts at an address; `None` for any other address.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::malloc(100);
/// assert_eq!(c_api::object_size(chunk), Some(100));
/// assert_eq!(c_api::object_size(chunk.wrapping_byte_add(1)), None);
/// c_api::free(chunk);
/// ```
#[must_use]
pub fn object_size(chunk: *const c_void) -> Option<usize> {
    process::object_size(chunk.expose_provenance())
}

/// Verifies every chunk; a violation ends the process with a report.
///
/// ```
/// use testudo::c_api;
///
/// c_api::check_heap(); // returns: nothing is wrong
/// ```
pub fn check_heap() {
    if let Err(violation) = process::check() {
        process::abort(&violation);
    }
}

/// Gives free memory back to the system; `false` when there was none. What `malloc_trim` returns.
///
/// ```
/// use testudo::c_api;
///
/// c_api::free(c_api::malloc(100_000));
/// c_api::purge();
/// assert!(!c_api::purge());
/// ```
pub fn purge() -> bool {
    process::purge()
}

/// Writes the heap profile to a file, or, without a name, to the one of `heap_profile_path`.
///
/// # Errors
/// Why not: see [`HeapProfileError`].
///
/// ```
/// use testudo::{HeapProfileError, c_api};
///
/// // Nothing is recorded without `heap_profile_kb`.
/// assert_eq!(c_api::write_heap_profile(Some(c"/tmp/profile")), Err(HeapProfileError::Off));
/// ```
pub fn write_heap_profile(path: Option<&CStr>) -> Result<(), HeapProfileError> {
    process::write_heap_profile(path)
}

/// What the heap holds in all, read off its counters. On the way it calls `visit` with what it holds of each size class,
/// smallest first, so that the caller's stack need not have room for them all; `visit` may allocate.
///
/// ```
/// use testudo::c_api;
///
/// let chunk = c_api::malloc(100);
/// let mut live = 0;
/// let totals = c_api::totals(|class| live += class.live);
/// assert!(live > 0 && totals.chunks >= live);
/// c_api::free(chunk);
/// ```
pub fn totals(visit: impl FnMut(&ClassStats)) -> Totals {
    process::totals(visit)
}

/// Verifies every chunk and counts what the heap holds exactly; a violation ends the process with a report.
///
/// ```
/// use testudo::c_api;
///
/// assert!(c_api::check_totals().exact);
/// ```
#[must_use]
pub fn check_totals() -> Totals {
    match process::check_totals() {
        Ok(totals) => totals,
        Err(violation) => process::abort(&violation),
    }
}
