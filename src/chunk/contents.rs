//! Zeroing what the program gives back, and finding what was written after that.
//!
//! Attacks: reading a freed chunk's secrets, through a dangling pointer or an uninitialised chunk;
//! writing through a dangling pointer. Cost: a few stores at free, as many loads at reuse; the
//! program is about to touch the lines anyway.

use super::extent::{BLOCK, Extent, SHORT};
use super::sparse::{self, PART, SPARSE};
use crate::os::mapping::PAGE;
use core::arch::asm;

/// Bytes in a step of the loop for longer chunks.
const STEP: usize = 8 * BLOCK;

/// From this many bytes on the C library's `memset`, or less than that, is faster than the loop here.
pub(super) const LONG: usize = 1 << 10;

/// From this many bytes on zeroing bypasses the caches.
const PAST_CACHES: usize = 2 << 20;

/// Keeps the compiler from turning a short loop into a call of `memset`, which costs more than the loop.
#[inline(always)]
fn keep_loop() {
    // SAFETY: no instructions.
    unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
}

/// Zeroes a user area. `bytes` is the extent's capacity, said once more because the caller knows more about it.
///
/// # Safety
/// `chunk` is 8-byte aligned and writable for the whole extent.
#[inline(always)]
pub(crate) unsafe fn zero(chunk: *mut u8, bytes: usize, extent: &Extent) {
    // The last block.
    let last = chunk.wrapping_add(bytes).wrapping_sub(BLOCK);
    // SAFETY: every block begins at or before the last one.
    unsafe {
        if bytes < BLOCK {
            // A block would begin in the header, and others may be looking at that.
            chunk.cast::<u64>().write(0);
        } else if bytes <= SHORT {
            zero_block(chunk.wrapping_offset(extent.block(0)));
            zero_block(chunk.wrapping_offset(extent.block(1)));
            zero_block(chunk.wrapping_offset(extent.block(2)));
            zero_block(chunk.wrapping_offset(extent.block(3)));
            zero_block(last);
        } else if bytes <= STEP {
            zero_block(chunk);
            zero_block(chunk.add(BLOCK));
            zero_block(chunk.add(2 * BLOCK));
            zero_block(chunk.add(3 * BLOCK));
            zero_block(last.sub(3 * BLOCK));
            zero_block(last.sub(2 * BLOCK));
            zero_block(last.sub(BLOCK));
            zero_block(last);
        } else if bytes <= LONG {
            let last_step = last.sub(STEP - BLOCK);
            let mut at = chunk;
            while at < last_step {
                keep_loop();
                zero_step(at);
                at = at.add(STEP);
            }
            zero_step(last_step);
        } else {
            zero_long(chunk, bytes);
        }
    }
}

#[inline(always)]
unsafe fn zero_block(block: *mut u8) {
    // SAFETY: the caller's promise: 16 writable bytes.
    unsafe { block.cast::<u128>().write_unaligned(0) };
}

#[inline(always)]
unsafe fn zero_step(step: *mut u8) {
    // SAFETY: the caller's promise: `STEP` writable bytes.
    unsafe {
        zero_block(step);
        zero_block(step.add(BLOCK));
        zero_block(step.add(2 * BLOCK));
        zero_block(step.add(3 * BLOCK));
        zero_block(step.add(4 * BLOCK));
        zero_block(step.add(5 * BLOCK));
        zero_block(step.add(6 * BLOCK));
        zero_block(step.add(7 * BLOCK));
    }
}

#[cold]
#[inline(never)]
pub(super) unsafe fn zero_long(chunk: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; the parts lie inside.
    unsafe {
        if bytes < SPARSE {
            chunk.write_bytes(0, bytes);
        } else {
            sparse::zero(chunk, bytes, |part| is_zero_long(part, PART));
        }
    }
}

/// Zeroes so many bytes of a chunk that need not be aligned. Beyond what caches hold, past them: half the time, and what lies in
/// them stays.
///
/// # Safety
/// `chunk` is writable for `bytes` bytes.
pub(crate) unsafe fn zero_large(chunk: *mut u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    if bytes >= PAST_CACHES {
        use core::arch::x86_64::{_mm_setzero_si128, _mm_sfence, _mm_stream_si128};
        const LINE: usize = 64;
        let front = chunk.align_offset(LINE);
        let lines = (bytes - front) / LINE;
        // SAFETY: the caller's promise: `front`, the lines and the rest are all of it. SSE2 is part of x86-64.
        unsafe {
            chunk.write_bytes(0, front);
            let first = chunk.add(front);
            let zero = _mm_setzero_si128();
            for line in 0..lines {
                let line = first.add(line * LINE);
                for block in 0..LINE / BLOCK {
                    _mm_stream_si128(line.add(block * BLOCK).cast(), zero);
                }
            }
            // Such stores become visible in no order.
            _mm_sfence();
            first.add(lines * LINE).write_bytes(0, bytes - front - lines * LINE);
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { chunk.write_bytes(0, bytes) };
}

/// Whether a user area is all zero; with less than 16 bytes, the 8 in front are read too, and do not count.
///
/// # Safety
/// `chunk` is 8-byte aligned and readable for the whole extent and for the 8 bytes in front.
#[inline(always)]
pub(crate) unsafe fn is_zero(chunk: *const u8, extent: &Extent) -> bool {
    #[cfg(target_arch = "x86_64")]
    if extent.capacity() <= LONG {
        // SAFETY: the caller's promise.
        return unsafe { sse2::is_zero(chunk, extent) };
    }
    // SAFETY: the caller's promise.
    unsafe { is_zero_long(chunk, extent.capacity()) }
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use super::{BLOCK, Extent, SHORT, STEP};
    use core::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_setzero_si128,
    };

    #[inline(always)]
    unsafe fn block(block: *const u8) -> __m128i {
        // SAFETY: the caller's promise: 16 readable bytes. SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(block.cast()) }
    }

    #[inline(always)]
    fn or(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_or_si128(a, b) }
    }

    /// A bit for each zero byte.
    #[inline(always)]
    fn zero_bytes(seen: __m128i) -> u32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(seen, _mm_setzero_si128())) as u32 }
    }

    #[inline(always)]
    pub(super) unsafe fn step(step: *const u8) -> __m128i {
        // SAFETY: the caller's promise: `STEP` readable bytes.
        unsafe {
            or(
                or(or(block(step), block(step.add(BLOCK))), or(block(step.add(2 * BLOCK)), block(step.add(3 * BLOCK)))),
                or(
                    or(block(step.add(4 * BLOCK)), block(step.add(5 * BLOCK))),
                    or(block(step.add(6 * BLOCK)), block(step.add(7 * BLOCK))),
                ),
            )
        }
    }

    #[inline(always)]
    pub(super) fn all_zero(seen: __m128i) -> bool {
        zero_bytes(seen) == 0xffff
    }

    /// As the outer function, for up to `LONG` bytes.
    #[inline(always)]
    pub(super) unsafe fn is_zero(chunk: *const u8, extent: &Extent) -> bool {
        let bytes = extent.capacity();
        let last = chunk.wrapping_add(bytes).wrapping_sub(BLOCK);
        // SAFETY: every block begins at or before the last one.
        unsafe {
            if bytes <= SHORT {
                let place = |number| block(chunk.wrapping_offset(extent.block(number)));
                let seen = or(or(place(0), place(1)), or(or(place(2), place(3)), block(last)));
                return zero_bytes(seen) | extent.outside() == 0xffff;
            }
            if bytes <= STEP {
                let front = or(
                    or(block(chunk), block(chunk.add(BLOCK))),
                    or(block(chunk.add(2 * BLOCK)), block(chunk.add(3 * BLOCK))),
                );
                let back = or(
                    or(block(last), block(last.sub(BLOCK))),
                    or(block(last.sub(2 * BLOCK)), block(last.sub(3 * BLOCK))),
                );
                return all_zero(or(front, back));
            }
            let last_step = last.sub(STEP - BLOCK);
            let mut seen = step(last_step);
            let mut at = chunk;
            while at < last_step {
                seen = or(seen, step(at));
                at = at.add(STEP);
            }
            all_zero(seen)
        }
    }
}

/// Whether all of a long piece is zero; stops soon after the first byte that is not.
#[inline(never)]
unsafe fn is_zero_long(chunk: *const u8, bytes: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let mut at = 0;
        while at + STEP <= bytes {
            // SAFETY: `STEP` bytes from `at` lie inside.
            if !sse2::all_zero(unsafe { sse2::step(chunk.add(at)) }) {
                return false;
            }
            at += STEP;
        }
        // SAFETY: the rest.
        at == bytes || unsafe { first_nonzero(chunk.add(at), bytes - at) }.is_none()
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    unsafe { first_nonzero(chunk, bytes) }.is_none()
}

/// Whether the first and the last page of a slot that was never handed out since its slab got memory are zero, as far
/// as they belong to it.
///
/// The pages between are its own, and nobody could write to them while the slab was released; reading them would
/// fault each in twice. Those at the edges it shares with its neighbours, and they stay when a slab is released.
///
/// # Safety
/// As for [`is_zero`], with `bytes` bytes.
pub(crate) unsafe fn is_zero_at_edges(chunk: *const u8, bytes: usize) -> bool {
    let front = (PAGE - chunk.addr() % PAGE).min(bytes);
    let back = ((chunk.addr() + bytes) % PAGE).min(bytes - front);
    // SAFETY: both pieces lie in the slot, and their lengths are multiples of 8.
    unsafe { first_nonzero(chunk, front).is_none() && first_nonzero(chunk.add(bytes - back), back).is_none() }
}

/// Offset of the first byte that is not zero.
///
/// # Safety
/// `chunk` is 8-byte aligned and readable for `bytes` bytes, a multiple of 8.
#[inline(never)]
pub(crate) unsafe fn first_nonzero(chunk: *const u8, bytes: usize) -> Option<usize> {
    // SAFETY: the caller's promise: `bytes / 8` aligned words.
    let words = unsafe { core::slice::from_raw_parts(chunk.cast::<u64>(), bytes / 8) };
    let (index, word) = words.iter().enumerate().find(|(_, word)| **word != 0)?;
    Some(index * 8 + (word.trailing_zeros() / 8) as usize)
}

#[cfg(test)]
mod tests {
    use super::{Extent, PAGE, first_nonzero, is_zero, is_zero_at_edges, zero};
    use crate::chunk::vectors::{Ordinary, Vectors};
    use proptest::prelude::*;

    /// A header's word, `words` words, and one behind that is not the slot's.
    fn slot(words: usize, contents: u64, header: u64) -> Vec<u64> {
        let mut memory = vec![contents; words + 2];
        memory[0] = header;
        memory[words + 1] = !0;
        memory
    }

    /// Lengths of user areas, in words: all short ones, and some of each way to do longer ones.
    fn lengths() -> impl Iterator<Item = usize> {
        (1..=130).chain([143, 144, 145, 161, 513, 1025, 1040, 2049])
    }

    fn zeroing_clears_every_length<V: Vectors>() {
        for words in lengths() {
            let mut memory = slot(words, !0, !0);
            // SAFETY: `words` words behind the header.
            unsafe { V::zero(memory.as_mut_ptr().add(1).cast(), words * 8, &Extent::new(words * 8)) };
            assert!(memory[1..=words].iter().all(|&word| word == 0), "{words} words");
            assert!(memory[words + 1] == !0 && memory[0] == !0, "{words} words");
        }
    }

    fn every_byte_of_every_length_is_looked_at<V: Vectors>() {
        // Blocks of short ones begin in the header, whatever stands there.
        let headers = |words| if words < 16 { &[!0, 0x84][..] } else { &[!0] };
        for (words, &header) in lengths().flat_map(|words| headers(words).iter().map(move |header| (words, header))) {
            let mut memory = slot(words, 0, header);
            let chunk = memory[1..].as_mut_ptr().cast::<u8>();
            let extent = Extent::new(words * 8);
            // SAFETY: all within `memory`.
            unsafe {
                assert!(V::is_zero(chunk, &extent), "{words} words behind {header:#x}");
                for at in 0..words * 8 {
                    for value in [1, 0x80] {
                        chunk.add(at).write(value);
                        assert!(!V::is_zero(chunk, &extent), "byte {at} of {words} words");
                    }
                    chunk.add(at).write(0);
                }
                // The same in two words: what is joined must not cancel out.
                for pair in 1..words.min(12) {
                    let (first, second) = (chunk.cast::<u64>(), chunk.cast::<u64>().add(pair));
                    first.write(0x4141);
                    second.write(0x4141);
                    assert!(!V::is_zero(chunk, &extent), "words 0 and {pair} of {words}");
                    first.write(0);
                    second.write(0);
                }
            }
        }
    }

    #[test]
    fn zeroing_clears_the_user_area_and_nothing_beside_it() {
        zeroing_clears_every_length::<Ordinary>();
        #[cfg(target_arch = "x86_64")]
        if crate::os::process::has_native_vectors() {
            zeroing_clears_every_length::<crate::chunk::vectors::Wide>();
        }
    }

    #[test]
    fn every_byte_that_is_not_zero_is_found_and_neighbours_do_not_count() {
        every_byte_of_every_length_is_looked_at::<Ordinary>();
        #[cfg(target_arch = "x86_64")]
        if crate::os::process::has_native_vectors() {
            every_byte_of_every_length_is_looked_at::<crate::chunk::vectors::Wide>();
        }
    }

    /// The pages between belong to the slot alone, and were released.
    #[test]
    fn only_the_first_and_last_page_of_a_slot_that_share_others_bytes_are_looked_at() {
        let mut memory = vec![0_u64; 5 * PAGE / 8];
        let front = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr();
        let base = memory.as_mut_ptr().cast::<u8>().wrapping_add(front);
        for (start, end) in [
            (8, 3 * PAGE + 80),
            (0, 2 * PAGE + 8),
            (PAGE - 8, 3 * PAGE),
            (PAGE - 16, 3 * PAGE + 16),
            (16, 2000),
            (48, PAGE),
            (PAGE - 32, PAGE + 32),
        ] {
            for at in (start..end).step_by(8).flat_map(|word| [word, word + 7]) {
                // The page that an end lies in; at the end of one, it is that of the next slot.
                let shared = at / PAGE == start / PAGE || at / PAGE == end / PAGE;
                // SAFETY: four pages from `base` on lie in `memory`.
                unsafe {
                    base.add(at).write(1);
                    let zero = is_zero_at_edges(base.add(start), end - start);
                    base.add(at).write(0);
                    assert_eq!(zero, !shared, "byte {at} of {start}..{end}");
                }
            }
            // SAFETY: as above.
            unsafe {
                if start > 0 {
                    base.add(start - 1).write(1);
                }
                base.add(end).write(1);
                assert!(is_zero_at_edges(base.add(start), end - start), "{start}..{end}: neighbours count");
                if start > 0 {
                    base.add(start - 1).write(0);
                }
                base.add(end).write(0);
            }
        }
    }

    proptest! {
        #[test]
        fn zeroing_past_the_caches_clears_all_and_nothing_else(offset in 1_usize..100, short in 0_usize..100) {
            let bytes = super::PAST_CACHES + 100 - short;
            let mut memory = vec![1_u8; offset + bytes + 1];
            // SAFETY: `bytes` bytes from `offset` lie inside `memory`.
            unsafe { super::zero_large(memory.as_mut_ptr().add(offset), bytes) };
            prop_assert!(memory[..offset].iter().all(|&byte| byte == 1) && memory[offset + bytes] == 1);
            prop_assert!(memory[offset..offset + bytes].iter().all(|&byte| byte == 0));
        }

        #[test]
        fn zeroing_clears_all_and_nothing_else(words in 1_usize..4000, offset in 1_usize..4) {
            let mut memory = vec![!0_u64; words + 8];
            // SAFETY: `words` words from `offset` lie inside `memory`.
            unsafe { zero(memory.as_mut_ptr().add(offset).cast(), words * 8, &Extent::new(words * 8)) };
            for (index, word) in memory.iter().enumerate() {
                let inside = index >= offset && index < offset + words;
                prop_assert_eq!(*word, if inside { 0 } else { !0 });
            }
        }

        #[test]
        fn every_byte_written_is_found_where_it_is(words in 1_usize..4000, at: prop::sample::Index, value in 1_u8..=255) {
            // The word in front is a header, which does not count.
            let mut memory = vec![0_u64; words + 1];
            memory[0] = !0;
            let at = at.index(words * 8);
            let chunk = memory[1..].as_mut_ptr().cast::<u8>();
            // SAFETY: all within `memory`.
            unsafe {
                prop_assert!(is_zero(chunk, &Extent::new(words * 8)));
                prop_assert_eq!(first_nonzero(chunk, words * 8), None);
                chunk.add(at).write(value);
                prop_assert!(!is_zero(chunk, &Extent::new(words * 8)));
                prop_assert_eq!(first_nonzero(chunk, words * 8), Some(at));
            }
        }
    }
}
