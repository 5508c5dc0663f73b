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
    // Blocks from the front and the same from the back, which meet or overlap: no loop for what most chunks are.
    // SAFETY: every block lies within the first or the last 8, 16, 32 or 64 bytes, of which there are so many.
    unsafe {
        let end = chunk.add(bytes);
        if bytes <= 32 {
            if bytes < 16 {
                chunk.cast::<u64>().write(0);
                return;
            }
            zero_block(chunk);
            zero_block(end.sub(16));
            return;
        }
        if bytes > 128 {
            let mut at = chunk;
            let last = end.sub(64);
            while at < last {
                keep_loop();
                zero_block(at);
                zero_block(at.add(16));
                zero_block(at.add(32));
                zero_block(at.add(48));
                at = at.add(64);
            }
        } else {
            zero_block(chunk);
            zero_block(chunk.add(16));
            if bytes > 64 {
                zero_block(chunk.add(32));
                zero_block(chunk.add(48));
            }
        }
        if bytes > 64 {
            zero_block(end.sub(64));
            zero_block(end.sub(48));
        }
        zero_block(end.sub(32));
        zero_block(end.sub(16));
    }
}

#[inline(always)]
unsafe fn zero_block(block: *mut u8) {
    // SAFETY: the caller's promise: 16 writable bytes.
    unsafe { block.cast::<u128>().write_unaligned(0) };
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
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `zero`.
    return unsafe { is_zero_short(chunk, bytes) };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    return unsafe { first_nonzero(chunk, bytes) }.is_none();
}

/// Whether `bytes` bytes, at most [`LONG`], are zero.
///
/// # Safety
/// As for [`is_zero`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn is_zero_short(chunk: *const u8, bytes: usize) -> bool {
    use core::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_setzero_si128,
    };
    // SAFETY: every block lies within the first or the last 8, 16, 32 or 64 bytes, of which there are so many; SSE2 is part of
    // x86-64.
    unsafe {
        let block = |at: *const u8| _mm_loadu_si128(at.cast::<__m128i>());
        let is_zero = |seen| _mm_movemask_epi8(_mm_cmpeq_epi8(seen, _mm_setzero_si128())) == 0xffff;
        let end = chunk.add(bytes);
        if bytes <= 32 {
            if bytes < 16 {
                return chunk.cast::<u64>().read_volatile() == 0;
            }
            return is_zero(_mm_or_si128(block(chunk), block(end.sub(16))));
        }
        let mut seen = _mm_or_si128(block(end.sub(32)), block(end.sub(16)));
        let mut add = |at: *const u8| seen = _mm_or_si128(seen, block(at));
        if bytes > 64 {
            add(end.sub(64));
            add(end.sub(48));
        }
        if bytes > 128 {
            let mut at = chunk;
            let last = end.sub(64);
            while at < last {
                add(at);
                add(at.add(16));
                add(at.add(32));
                add(at.add(48));
                at = at.add(64);
            }
        } else {
            add(chunk);
            add(chunk.add(16));
            if bytes > 64 {
                add(chunk.add(32));
                add(chunk.add(48));
            }
        }
        is_zero(seen)
    }
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
