//! Testudo's own functions for C programs; declared in `include/testudo.h`, which says what they do and what the
//! fields mean.

use core::ffi::{CStr, c_char, c_void};
use hardened_heap::{ClassStats, HeapProfileError, Mappings, Totals, c_api};

/// A struct of C whose fields are called as those of the Rust value that fills it, and some more.
macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident of $source:ident; $($field:ident)+; $($more:ident)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        #[allow(missing_docs, reason = "the header says what they mean")]
        pub struct $name {
            $(pub $field: usize,)+
            $(pub $more: usize,)*
        }

        impl $name {
            fn of(source: &$source $(, $more: usize)*) -> Self {
                Self {
                    $($field: source.$field,)+
                    $($more,)*
                }
            }
        }
    };
}

mirror! {
    /// `struct testudo_stats`.
    TestudoStats of Totals;
    allocated chunks active cached quarantined retained empty committed peak resident metadata large_chunks
    large_allocated large_active large_quarantined guarded_chunks guarded_allocated guarded_active zero_sized caches
    violations;
    mappings mappings_limit exact
}

fn with_mappings(totals: &Totals) -> TestudoStats {
    let (used, limit) = Mappings::of_process().map_or((0, 0), |mappings| (mappings.used, mappings.limit));
    TestudoStats::of(totals, used, limit, usize::from(totals.exact))
}

mirror! {
    /// `struct testudo_class_stats`.
    TestudoClassStats of ClassStats;
    size stride live allocated cached quarantined retained slabs empty_slabs;
}

/// Verifies every chunk. Returns 0; a violation ends the process with a report.
#[unsafe(no_mangle)]
pub extern "C" fn testudo_check_heap() -> i32 {
    c_api::check_heap();
    0
}

/// Gives free memory back to the system.
#[unsafe(no_mangle)]
pub extern "C" fn testudo_purge() {
    c_api::purge();
}

/// What the heap holds, read off its counters.
///
/// # Safety
/// `stats` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn testudo_stats(stats: *mut TestudoStats) {
    if !stats.is_null() {
        // SAFETY: the caller's promise.
        unsafe { stats.write(with_mappings(&c_api::totals(|_| ()))) };
    }
}

/// Verifies every chunk and counts exactly. Returns 0; a violation ends the process with a report.
///
/// # Safety
/// `stats` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn testudo_check_stats(stats: *mut TestudoStats) -> i32 {
    let counted = c_api::check_totals();
    if !stats.is_null() {
        // SAFETY: the caller's promise.
        unsafe { stats.write(with_mappings(&counted)) };
    }
    0
}

/// What the heap holds of the first `count` size classes. Returns how many there are.
///
/// # Safety
/// `classes` is writable for `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn testudo_class_stats(classes: *mut TestudoClassStats, count: usize) -> usize {
    let mut index = 0;
    c_api::totals(|class| {
        if index < count {
            // SAFETY: the caller's promise.
            unsafe { classes.add(index).write(TestudoClassStats::of(class)) };
        }
        index += 1;
    });
    index
}

/// Writes the heap profile to a file, or, without a name, to the one of `heap_profile_path`. Returns 0, or -1 with `errno`.
///
/// # Safety
/// `path` is null or a terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn testudo_heap_profile(path: *const c_char) -> i32 {
    // SAFETY: the caller's promise.
    let path = (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) });
    let error = match c_api::write_heap_profile(path) {
        Ok(()) => return 0,
        Err(HeapProfileError::Off) => libc::ENOTSUP,
        Err(HeapProfileError::File(error)) => error,
        Err(_) => libc::EINVAL,
    };
    // SAFETY: errno of this thread.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// The requested size of the live chunk that starts at `chunk`; `SIZE_MAX` for any other address.
#[unsafe(no_mangle)]
pub extern "C" fn testudo_object_size(chunk: *const c_void) -> usize {
    c_api::object_size(chunk).unwrap_or(usize::MAX)
}

/// The library's version, as `major.minor.patch`. A terminated string that lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn testudo_version() -> *const c_char {
    const TEXT: &core::ffi::CStr =
        match core::ffi::CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => c"",
        };
    TEXT.as_ptr()
}
