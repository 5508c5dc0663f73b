//! Telling the CPU which memory is needed next.

/// Bytes in a line of the CPU's cache.
pub(crate) const LINE: usize = 64;

/// Has the CPU bring the line at an address near, to be written. Only a hint: whatever the address is, nothing happens to it.
#[inline(always)]
pub(crate) fn fetch_to_write(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(core::ptr::without_provenance(address));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
