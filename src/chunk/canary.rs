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

/// The bytes of the word at `size & !7` that are slack, as a mask (little-endian).
#[inline(always)]
const fn first_mask(size: usize) -> u64 {
    !0 << ((size & 7) * 8)
}

/// Fills `[size, capacity)` behind `chunk` with canaries; the bytes before stay as they are.
///
/// # Safety
/// `chunk` is 8-byte aligned, writable for `capacity` bytes, and `capacity` is a multiple of 8.
#[inline(always)]
pub(crate) unsafe fn fill(chunk: *mut u8, size: usize, capacity: usize, canary: u64) {
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

/// Compares `[size, capacity)` behind `chunk` with its canary.
///
/// # Safety
/// As for [`fill`], readable.
#[inline(always)]
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
    use super::{check, fill};
    use proptest::prelude::*;

    const CANARY: u64 = 0x8284_8688_8a8c_8e90;

    proptest! {
        #[test]
        fn a_filled_slack_passes_and_keeps_the_chunk(words in 1_usize..40, short in 0_usize..40) {
            let capacity = words * 8;
            let size = capacity.saturating_sub(short);
            let mut memory = vec![0x5a5a_5a5a_5a5a_5a5a_u64; words];
            let chunk = memory.as_mut_ptr().cast::<u8>();
            // SAFETY: `memory` has `capacity` bytes.
            unsafe {
                fill(chunk, size, capacity, CANARY);
                prop_assert_eq!(check(chunk, size, capacity, CANARY), Ok(()));
                for at in 0..size {
                    prop_assert_eq!(chunk.add(at).read(), 0x5a);
                }
            }
        }

        #[test]
        fn every_changed_byte_of_slack_is_found_where_it_is(words in 1_usize..40, short in 1_usize..40, at in 0_usize..40, change in 1_u8..=255) {
            let capacity = words * 8;
            let size = capacity.saturating_sub(short);
            let at = size + at % (capacity - size);
            let mut memory = vec![0_u64; words];
            let chunk = memory.as_mut_ptr().cast::<u8>();
            // SAFETY: `memory` has `capacity` bytes and `at` is below that.
            unsafe {
                fill(chunk, size, capacity, CANARY);
                *chunk.add(at) ^= change;
                prop_assert_eq!(check(chunk, size, capacity, CANARY).map_err(|damage| damage.offset), Err(at));
            }
        }
    }
}
