//! Canaries in the slack: the bytes between the requested size and the end of the slot.
//!
//! Attack: an overflow that stays inside the slot, or the first bytes of one that does not. Cost: one
//! or two stores when a chunk is handed out, as many loads when it comes back.

use super::checksum::Secrets;
use super::vectors::Vectors;
use super::windows::WINDOW;

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

/// Fills `[size, capacity)` behind `chunk` with canaries. The bytes before stay as they are.
///
/// # Safety
/// `chunk` is 8-byte aligned, writable for `capacity` bytes, `capacity` is a multiple of 8, and `size` is at most that.
#[inline]
pub(crate) unsafe fn fill(chunk: *mut u8, size: usize, capacity: usize, canary: u64) {
    // SAFETY: the caller's promise.
    unsafe { fill_words(chunk, size, capacity, canary) };
}

/// [`fill`] for the fast path: of a slot that is zero, with slack of at most 16 bytes. A window that begins in the header leaves that
/// as it is: it is never blank, because whoever frees the chunk in front may be looking at it.
///
/// # Safety
/// `chunk` is 8-byte aligned and writable for `capacity` bytes and 8 bytes in front, `capacity` is a positive multiple of
/// 8, and `size <= capacity <= size + 16`. The CPU has the vectors of `V`.
#[inline(always)]
pub(crate) unsafe fn fill_window<V: Vectors>(
    chunk: *mut u8,
    size: usize,
    capacity: usize,
    secrets: &Secrets,
    checksum: u32,
) {
    // SAFETY: the caller's promise; the last 16 bytes of the slot may begin in its header.
    unsafe { V::fill_window(chunk, capacity, capacity.wrapping_sub(size), secrets, checksum) }
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
    let pair = u128::from(canary) | u128::from(canary) << 64;
    while at + WINDOW <= capacity {
        // SAFETY: as above.
        unsafe { chunk.add(at).cast::<u128>().write_unaligned(pair) };
        at += WINDOW;
    }
    if at < capacity {
        // SAFETY: as above.
        unsafe { chunk.add(at).cast::<u64>().write(canary) };
    }
}

/// Whether `[size, capacity)` behind `chunk` is canary: [`check`] for the fast path. With `fine`, slack is known to be
/// at most 16 bytes, or not looked at and counted as damaged.
///
/// # Safety
/// As for [`fill_window`], readable.
#[inline(always)]
pub(crate) unsafe fn is_intact<V: Vectors>(
    fine: bool,
    chunk: *const u8,
    size: usize,
    capacity: usize,
    secrets: &Secrets,
    checksum: u32,
) -> bool {
    // A size that is too large can't be in a header whose checksum is right.
    let slack = capacity.wrapping_sub(size);
    if slack <= WINDOW {
        // SAFETY: the last 16 bytes of the slot, which may begin in its header.
        return unsafe { V::is_window(chunk, capacity, slack, secrets, checksum) };
    }
    // SAFETY: the caller's promise.
    !fine && slack <= capacity && unsafe { check(chunk, size, capacity, secrets.canary(checksum)) }.is_ok()
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
        // Slack of long slots is long: most of it is compared in wider pieces, and the piece that differs once more in words.
        at += intact_pieces(chunk, at, capacity, canary);
    }
    Ok(())
}

/// Bytes of whole pieces from `at` on that are canary.
#[inline(always)]
fn intact_pieces(chunk: *const u8, at: usize, capacity: usize, canary: u64) -> usize {
    const PIECE: usize = 4 * WINDOW;
    let pair = u128::from(canary) | u128::from(canary) << 64;
    let mut end = at;
    while end + PIECE <= capacity {
        let mut difference = 0;
        for window in 0..PIECE / WINDOW {
            // SAFETY: `end + PIECE <= capacity`, and the caller of `check` promises that so many bytes are readable.
            difference |= unsafe { chunk.add(end + window * WINDOW).cast::<u128>().read_unaligned() } ^ pair;
        }
        if difference != 0 {
            break;
        }
        end += PIECE;
    }
    end - at
}

#[cold]
fn damage(at: usize, seen: u64, canary: u64, mask: u64) -> Damage {
    let difference = (seen ^ canary) & mask;
    let first = (difference.trailing_zeros() / 8) as usize;
    Damage { offset: at + first, expected: canary & mask, seen: seen & mask }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Secrets;
    use super::super::vectors::Ordinary;
    #[cfg(target_arch = "x86_64")]
    use super::super::vectors::Wide;
    use super::{WINDOW, check, fill, fill_window, is_intact};
    use crate::os::mapping::{self, PAGE};
    use crate::random::Random;
    use proptest::prelude::*;

    const CHECKSUM: u32 = 0x1234_5678;

    /// What the vectors of this CPU and those of every CPU say, which must be the same.
    unsafe fn intact(fine: bool, chunk: *const u8, size: usize, capacity: usize) -> bool {
        // SAFETY: the caller's promise; wide vectors only where the CPU has them.
        unsafe {
            let ordinary = is_intact::<Ordinary>(fine, chunk, size, capacity, &secrets(), CHECKSUM);
            #[cfg(target_arch = "x86_64")]
            if crate::os::process::has_native_vectors() {
                assert_eq!(is_intact::<Wide>(fine, chunk, size, capacity, &secrets(), CHECKSUM), ordinary);
            }
            ordinary
        }
    }

    fn secrets() -> Secrets {
        Secrets::draw(&mut Random::from_number(6))
    }

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
                fill(chunk, size, capacity, secrets().canary(CHECKSUM));
                prop_assert_eq!(check(chunk, size, capacity, secrets().canary(CHECKSUM)), Ok(()));
                prop_assert!(intact(false, chunk, size, capacity));
                // More than there can be counts as damaged.
                prop_assert_eq!(intact(true, chunk, size, capacity), capacity - size <= WINDOW);
                for at in 0..size {
                    prop_assert_eq!(chunk.add(at).read(), 0x5a);
                }
            }
        }

        #[test]
        fn filling_a_zero_slot_gives_the_same_either_way(words in 1_usize..40, short in 0_usize..=WINDOW) {
            let capacity = words * 8;
            let size = capacity.saturating_sub(short);
            let zero = || {
                let mut memory = slot(words, 0);
                memory[0] = 0x1234_5678_9abc_def0;
                memory
            };
            let (mut first, mut second) = (zero(), zero());
            // SAFETY: both have `capacity` bytes behind their first word.
            unsafe {
                fill_window::<Ordinary>(first.as_mut_ptr().add(1).cast(), size, capacity, &secrets(), CHECKSUM);
                fill(second.as_mut_ptr().add(1).cast(), size, capacity, secrets().canary(CHECKSUM));
                prop_assert!(intact(true, first.as_ptr().add(1).cast(), size, capacity));
            }
            prop_assert_eq!(&first, &second);
            #[cfg(target_arch = "x86_64")]
            if crate::os::process::has_native_vectors() {
                let mut wide = zero();
                // SAFETY: `capacity` bytes behind the first word.
                unsafe { fill_window::<Wide>(wide.as_mut_ptr().add(1).cast(), size, capacity, &secrets(), CHECKSUM) };
                prop_assert_eq!(wide, second);
            }
        }

        /// Bytes of the chunk itself, which share a word with the canary, are not shown.
        #[test]
        fn damage_shows_the_word_without_the_programs_bytes(size in 1_usize..8, change in 1_u8..=255) {
            let mut memory = slot(1, 0x5a);
            let canary = secrets().canary(CHECKSUM);
            // SAFETY: `memory` has eight bytes behind its first word.
            let damage = unsafe {
                let chunk = memory.as_mut_ptr().add(1).cast::<u8>();
                fill(chunk, size, 8, canary);
                *chunk.add(size) ^= change;
                check(chunk, size, 8, canary)
            };
            let mask = !0 << (size * 8);
            let seen = (canary & mask) ^ u64::from(change) << (size * 8);
            prop_assert_eq!(damage, Err(super::Damage { offset: size, expected: canary & mask, seen }));
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
                fill(chunk, size, capacity, secrets().canary(CHECKSUM));
                *chunk.add(at) ^= change;
                prop_assert!(!intact(false, chunk, size, capacity));
                prop_assert_eq!(check(chunk, size, capacity, secrets().canary(CHECKSUM)).map_err(|damage| damage.offset), Err(at));
            }
        }
    }

    /// Long slack is compared in pieces: an overflow is found wherever in one it begins, whatever it writes.
    #[test]
    fn every_byte_of_long_slack_is_compared_with_its_canary() {
        const CAPACITY: usize = 1000;
        let canary = Secrets::draw(&mut Random::from_number(11)).canary(0x1234_5678);
        for size in [0, 3, 8, 100, 101, 500] {
            let mut memory = [0_u128; CAPACITY / 16 + 1];
            let chunk = memory.as_mut_ptr().cast::<u8>();
            // SAFETY: `memory` is longer than `CAPACITY`, and only used through `chunk`.
            unsafe { super::fill(chunk, size, CAPACITY, canary) };
            // SAFETY: as above.
            let compared = || unsafe { super::check(chunk, size, CAPACITY, canary) }.map_err(|damage| damage.offset);
            assert_eq!(compared(), Ok(()));
            for at in size..CAPACITY {
                for (length, value) in [(1, 0), (1, 0xff), (200, 0), (200, 0x41)] {
                    let length = length.min(CAPACITY - at);
                    // SAFETY: as above.
                    unsafe {
                        let mut before = [0; 200];
                        chunk.add(at).copy_to(before.as_mut_ptr(), length);
                        if before[0] != value {
                            chunk.add(at).write_bytes(value, length);
                            assert_eq!(compared(), Err(at), "{length} times {value:#x}");
                            chunk.add(at).copy_from(before.as_ptr(), length);
                        }
                    }
                }
            }
            assert_eq!(compared(), Ok(()));
        }
    }

    /// Behind the last slot of a region lies a guard page.
    #[test]
    fn no_byte_behind_the_slot_is_read() {
        let start = mapping::reserve(0, 2 * PAGE).expect("address space");
        mapping::commit(start, PAGE).expect("memory");
        let canary = secrets().canary(CHECKSUM);
        for capacity in [8, 24, 56, 72, 104, 488, 1000, 4088] {
            let chunk = core::ptr::with_exposed_provenance_mut::<u8>(start + PAGE - capacity);
            for size in [0, 1, capacity / 2, capacity - 1, capacity] {
                // SAFETY: the last bytes of a page that is ours, behind which reading faults.
                unsafe {
                    chunk.write_bytes(0, capacity);
                    fill(chunk, size, capacity, canary);
                    assert_eq!(check(chunk, size, capacity, canary), Ok(()));
                }
            }
        }
        mapping::unmap(start, 2 * PAGE);
    }
}
