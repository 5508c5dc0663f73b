//! Testudo's own functions for C programs; declared in `include/testudo.h`.

use core::ffi::c_void;
use hardened_heap::{Stats, c_api};

/// `struct testudo_stats`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TestudoStats {
    /// Requested bytes of live chunks.
    pub allocated: usize,
    /// Number of live chunks.
    pub chunks: usize,
    /// Slots and mappings of live chunks, in bytes.
    pub active: usize,
    /// Slabs and mappings with memory behind them, in bytes.
    pub committed: usize,
    /// Slabs with memory behind them in which every slot is free, in bytes.
    pub empty: usize,
    /// Number of live large chunks.
    pub large_chunks: usize,
    /// Requested bytes of live large chunks.
    pub large_allocated: usize,
    /// Freed large chunks whose addresses are in quarantine, in bytes.
    pub large_quarantined: usize,
    /// Number of live zero-sized chunks.
    pub zero_sized: usize,
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

/// Counts what the heap holds.
///
/// # Safety
/// `stats` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn testudo_stats(stats: *mut TestudoStats) {
    if stats.is_null() {
        return;
    }
    let Stats {
        allocated,
        chunks,
        active,
        committed,
        empty,
        large_chunks,
        large_allocated,
        large_quarantined,
        zero_sized,
        ..
    } = c_api::stats();
    let counted = TestudoStats {
        allocated,
        chunks,
        active,
        committed,
        empty,
        large_chunks,
        large_allocated,
        large_quarantined,
        zero_sized,
    };
    // SAFETY: the caller's promise.
    unsafe { stats.write(counted) };
}

/// The requested size of the live chunk that starts at `chunk`; `SIZE_MAX` for any other address.
#[unsafe(no_mangle)]
pub extern "C" fn testudo_object_size(chunk: *const c_void) -> usize {
    c_api::object_size(chunk).unwrap_or(usize::MAX)
}
