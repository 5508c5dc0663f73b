//! Canaries in the slack: the bytes between the requested size and the end of the slot.
//!
//! Attack: an overflow that stays inside the slot, or the first bytes of one that does not. Cost: one
//! or two stores when a chunk is handed out, as many loads when it comes back.

/// Where a canary was found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Bytes from the start of the chunk to the first damaged byte.
    pub(crate) offset: usize,
    /// The word that should stand there.
    pub(crate) expected: u64,
    /// The word that stands there.
    pub(crate) seen: u64,
}

/// Bytes that are compared or written together. Up to strides of 256 bytes, slack is shorter than this.
const WINDOW: usize = 16;

/// The bytes of the word at `size & !7` that are slack, as a mask (little-endian).
#[inline(always)]
const fn first_mask(size: usize) -> u64 {
    !0 << ((size & 7) * 8)
}

/// Sixteen bytes of nothing and sixteen of everything: read at `16 - from`, a mask of the bytes from `from` on.
static MASKS: [u8; 2 * WINDOW] = {
    let mut masks = [0; 2 * WINDOW];
    let mut at = WINDOW;
    while at < 2 * WINDOW {
        masks[at] = 0xff;
        at += 1;
    }
    masks
};

/// Fills `[size, capacity)` behind `chunk` with canaries. The bytes before stay as they are, or, with
/// `ZERO`, are known to be zero and may be written as such; so may the header in front. With `fine`, the slack is known
/// to be at most 16 bytes.
///
/// # Safety
/// `chunk` is 8-byte aligned, writable for `capacity` bytes and 8 bytes in front, `capacity` is a positive multiple of
/// 8, and `size` is at most that.
#[inline(always)]
pub(crate) unsafe fn fill<const ZERO: bool>(fine: bool, chunk: *mut u8, size: usize, capacity: usize, canary: u64) {
    if ZERO && (fine || capacity - size <= WINDOW) {
        // Where in the last 16 bytes the slack begins; 16 when there is none.
        let from = WINDOW.wrapping_sub(capacity - size) & (2 * WINDOW - 1);
        let pattern = u128::from(canary) | u128::from(canary) << 64;
        // SAFETY: `from` is at most 16 (the mask changes nothing), so the 16 bytes lie in the table; the last 16 bytes of the slot may begin in
        // its header.
        unsafe {
            let mask = MASKS.as_ptr().add(WINDOW - from).cast::<u128>().read_unaligned();
            chunk.add(capacity).sub(WINDOW).cast::<u128>().write_unaligned(pattern & mask);
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { fill_words(chunk, size, capacity, canary) };
}

#[inline(always)]
unsafe fn fill_words(chunk: *mut u8, size: usize, capacity: usize, canary: u64) {
    let mut at = size & !7;
    if at >= capacity {
        return;
    }
    let mask = first_mask(size);
    // SAFETY: `at + 8 <= capacity`, because both are multiples of 8.
    unsafe {
        let word = chunk.add(at).cast::<u64>();
        word.write((word.read() & !mask) | (canary & mask));
    }
    at += 8;
    while at < capacity {
        // SAFETY: as above.
        unsafe { chunk.add(at).cast::<u64>().write(canary) };
        at += 8;
    }
}

/// Whether `[size, capacity)` behind `chunk` is canary: [`check`] for the fast path.
///
/// With `fine`, slack of more than 16 bytes is not looked at and counts as damaged.
///
/// # Safety
/// As for [`fill`], readable.
#[inline(always)]
pub(crate) unsafe fn is_intact(fine: bool, chunk: *const u8, size: usize, capacity: usize, canary: u64) -> bool {
    // A size that is too large can't be in a header whose checksum is right.
    let slack = capacity.wrapping_sub(size);
    #[cfg(target_arch = "x86_64")]
    if slack <= WINDOW {
        use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi64x};
        // SAFETY: the last 16 bytes of the slot, which may begin in its header; SSE2 is part of x86-64.
        let equal = unsafe {
            let window = _mm_loadu_si128(chunk.add(capacity).sub(WINDOW).cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(window, _mm_set1_epi64x(canary.cast_signed())))
        };
        return (equal as u32 ^ 0xffff) >> (WINDOW - slack) == 0;
    }
    // SAFETY: the caller's promise.
    !fine && slack <= capacity && unsafe { check(chunk, size, capacity, canary) }.is_ok()
}

/// Compares `[size, capacity)` behind `chunk` with its canary.
///
/// # Safety
/// As for [`fill`], readable.
#[inline(never)]
pub(crate) unsafe fn check(chunk: *const u8, size: usize, capacity: usize, canary: u64) -> Result<(), Damage> {
    let mut at = size & !7;
    let mut mask = first_mask(size);
    while at < capacity {
        // SAFETY: `at + 8 <= capacity`, because both are multiples of 8.
        let seen = unsafe { chunk.add(at).cast::<u64>().read_volatile() };
        if (seen ^ canary) & mask != 0 {
            return Err(damage(at, seen, canary, mask));
        }
        at += 8;
        mask = !0;
    }
    Ok(())
}

#[cold]
fn damage(at: usize, seen: u64, canary: u64, mask: u64) -> Damage {
    let difference = (seen ^ canary) & mask;
    let first = (difference.trailing_zeros() / 8) as usize;
    Damage { offset: at + first, expected: canary & mask, seen: seen & mask }
}

#[cfg(test)]
mod tests {
    use super::{check, fill, is_intact};
    use proptest::prelude::*;

    const CANARY: u64 = 0x8284_8688_8a8c_8e90;

    /// A slot: a header's place, then `words` words.
    fn slot(words: usize, value: u64) -> Vec<u64> {
        vec![value; words + 1]
    }

    proptest! {
        #[test]
        fn a_filled_slack_passes_and_keeps_the_chunk(words in 1_usize..40, short in 0_usize..40) {
            let capacity = words * 8;
            let size = capacity.saturating_sub(short);
            let mut memory = slot(words, 0x5a5a_5a5a_5a5a_5a5a);
            // SAFETY: `memory` has `capacity` bytes behind its first word.
            unsafe {
                let chunk = memory.as_mut_ptr().add(1).cast::<u8>();
                fill::<false>(false, chunk, size, capacity, CANARY);
                prop_assert_eq!(check(chunk, size, capacity, CANARY), Ok(()));
                prop_assert!(is_intact(false, chunk, size, capacity, CANARY));
                for at in 0..size {
                    prop_assert_eq!(chunk.add(at).read(), 0x5a);
                }
            }
        }

        #[test]
        fn filling_a_zero_slot_gives_the_same_either_way(words in 1_usize..40, short in 0_usize..40) {
            let capacity = words * 8;
            let size = capacity.saturating_sub(short);
            let (mut first, mut second) = (slot(words, 0), slot(words, 0));
            // SAFETY: both have `capacity` bytes behind their first word.
            unsafe {
                fill::<true>(false, first.as_mut_ptr().add(1).cast(), size, capacity, CANARY);
                fill::<false>(false, second.as_mut_ptr().add(1).cast(), size, capacity, CANARY);
            }
            prop_assert_eq!(first, second);
        }

        #[test]
        fn every_changed_byte_of_slack_is_found_where_it_is(words in 1_usize..40, short in 1_usize..40, at in 0_usize..40, change in 1_u8..=255) {
            let capacity = words * 8;
            let size = capacity.saturating_sub(short);
            let at = size + at % (capacity - size);
            let mut memory = slot(words, 0);
            // SAFETY: `memory` has `capacity` bytes behind its first word, and `at` is below that.
            unsafe {
                let chunk = memory.as_mut_ptr().add(1).cast::<u8>();
                fill::<false>(false, chunk, size, capacity, CANARY);
                *chunk.add(at) ^= change;
                prop_assert!(!is_intact(false, chunk, size, capacity, CANARY));
                prop_assert_eq!(check(chunk, size, capacity, CANARY).map_err(|damage| damage.offset), Err(at));
            }
        }
    }
}
