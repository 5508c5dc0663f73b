//! Zeroing what the program gives back, and finding what was written after that.
//!
//! Attacks: reading a freed chunk's secrets, through a dangling pointer or an uninitialised chunk;
//! writing through a dangling pointer. Cost: a few stores at free, as many loads at reuse; the
//! program is about to touch the lines anyway.

use crate::os::mapping::PAGE;
use core::arch::asm;

/// From this many bytes a chunk is zeroed page by page and only where it is not zero: most of a
/// large buffer is often never touched, and zeroing it would make it resident.
const SPARSE: usize = 16 << 10;

/// From this many bytes the C library's `memset` is faster than the loop here.
const LONG: usize = 1 << 10;

/// Keeps the compiler from turning a short loop into a call of `memset`, which costs more than the loop.
#[inline(always)]
fn keep_loop() {
    // SAFETY: no instructions.
    unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
}

/// Zeroes `bytes` bytes.
///
/// # Safety
/// `chunk` is 8-byte aligned and writable for `bytes` bytes, a positive multiple of 8.
#[inline(always)]
pub(crate) unsafe fn zero(chunk: *mut u8, bytes: usize) {
    if bytes > LONG {
        // SAFETY: the caller's promise.
        unsafe { zero_long(chunk, bytes) };
        return;
    }
    if bytes < 16 {
        // SAFETY: `bytes` is 8.
        unsafe { chunk.cast::<u64>().write(0) };
        return;
    }
    let last = bytes - 16;
    let mut at = 0;
    while at < last {
        keep_loop();
        // SAFETY: `at + 16 < bytes`.
        unsafe { chunk.add(at).cast::<u128>().write_unaligned(0) };
        at += 16;
    }
    // SAFETY: the last 16 bytes, which may overlap the ones before.
    unsafe { chunk.add(last).cast::<u128>().write_unaligned(0) };
}

#[cold]
#[inline(never)]
unsafe fn zero_long(chunk: *mut u8, bytes: usize) {
    if bytes < SPARSE {
        // SAFETY: the caller's promise.
        unsafe { chunk.write_bytes(0, bytes) };
        return;
    }
    let mut at = 0;
    while at < bytes {
        let to_page_end = PAGE - (chunk.addr() + at) % PAGE;
        let part = to_page_end.min(bytes - at);
        // SAFETY: `at + part <= bytes`; both are multiples of 8.
        unsafe {
            if first_nonzero(chunk.add(at), part).is_some() {
                chunk.add(at).write_bytes(0, part);
            }
        }
        at += part;
    }
}

/// Whether all `bytes` bytes are zero.
///
/// # Safety
/// `chunk` is 8-byte aligned and readable for `bytes` bytes, a positive multiple of 8.
#[inline(always)]
pub(crate) unsafe fn is_zero(chunk: *const u8, bytes: usize) -> bool {
    if bytes > LONG {
        // SAFETY: the caller's promise.
        return unsafe { first_nonzero(chunk, bytes) }.is_none();
    }
    if bytes < 16 {
        // SAFETY: `bytes` is 8.
        return unsafe { chunk.cast::<u64>().read_volatile() } == 0;
    }
    let last = bytes - 16;
    // SAFETY: the last 16 bytes.
    let mut seen = unsafe { chunk.add(last).cast::<u128>().read_unaligned() };
    let mut at = 0;
    while at < last {
        // SAFETY: `at + 16 < bytes`.
        seen |= unsafe { chunk.add(at).cast::<u128>().read_unaligned() };
        at += 16;
    }
    seen == 0
}

/// Offset of the first byte that is not zero.
///
/// # Safety
/// As for [`is_zero`].
#[inline(never)]
pub(crate) unsafe fn first_nonzero(chunk: *const u8, bytes: usize) -> Option<usize> {
    const BLOCK: usize = 16;
    // SAFETY: the caller's promise: `bytes / 8` aligned words.
    let words = unsafe { core::slice::from_raw_parts(chunk.cast::<u64>(), bytes / 8) };
    let mut base = 0;
    for block in words.chunks(BLOCK) {
        if block.iter().fold(0, |seen, word| seen | word) != 0 {
            for (index, word) in block.iter().enumerate() {
                if *word != 0 {
                    return Some(base + index * 8 + (word.trailing_zeros() / 8) as usize);
                }
            }
        }
        base += BLOCK * 8;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{first_nonzero, is_zero, zero};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn zeroing_clears_all_and_nothing_else(words in 1_usize..4000, offset in 0_usize..4) {
            let mut memory = vec![!0_u64; words + 8];
            // SAFETY: `words` words from `offset` lie inside `memory`.
            unsafe { zero(memory.as_mut_ptr().add(offset).cast(), words * 8) };
            for (index, word) in memory.iter().enumerate() {
                let inside = index >= offset && index < offset + words;
                prop_assert_eq!(*word, if inside { 0 } else { !0 });
            }
        }

        #[test]
        fn every_byte_written_is_found_where_it_is(words in 1_usize..4000, at: prop::sample::Index, value in 1_u8..=255) {
            let mut memory = vec![0_u64; words];
            let at = at.index(words * 8);
            let chunk = memory.as_mut_ptr().cast::<u8>();
            // SAFETY: all within `memory`.
            unsafe {
                prop_assert!(is_zero(chunk, words * 8));
                prop_assert_eq!(first_nonzero(chunk, words * 8), None);
                chunk.add(at).write(value);
                prop_assert!(!is_zero(chunk, words * 8));
                prop_assert_eq!(first_nonzero(chunk, words * 8), Some(at));
            }
        }
    }
}
