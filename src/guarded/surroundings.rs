//! The bytes around a guarded chunk that the guard pages do not cover: what alignment leaves behind it, and what lies in
//! front of it in its first page. The nearest are filled when the chunk is handed out, and must be the same when it comes
//! back.

use super::table::Chunk;
use crate::chunk::checksum::Seal;
use crate::chunk::header::Fields;
use crate::os::mapping::page_floor;
use core::ops::Range;

/// So many bytes on either side are filled: those that a loop with a wrong end hits. All of the page would be seen by no more bugs
/// of that kind, and costs more than the two system calls.
const REACH: usize = 256;

/// Where the canary in front of a chunk begins.
pub(super) fn front_of(chunk: usize) -> usize {
    page_floor(chunk).max(chunk.saturating_sub(REACH))
}

/// Where the canary behind a chunk ends, in a slot that ends at `end`.
pub(super) fn back_of(chunk_end: usize, end: usize) -> usize {
    end.min(chunk_end + REACH)
}

/// The canary around a chunk: as hard to guess as those of other chunks.
pub(super) fn canary_of(seal: &Seal, chunk: &Chunk) -> u64 {
    let fields = Fields::allocated(chunk.size, chunk.align_log2.min(15), chunk.origin);
    seal.secrets.canary(seal.checksum(chunk.address, fields.0))
}

/// The byte of the canary that belongs at an address.
const fn byte_at(address: usize, word: u64) -> u8 {
    word.to_le_bytes()[address % 8]
}

/// Fills `[start, end)`.
///
/// # Safety
/// The range is writable and the caller's.
pub(super) unsafe fn fill(start: usize, end: usize, word: u64) {
    let words = words_of(start, end);
    // SAFETY: the caller's promise.
    unsafe {
        for at in (start..words.start).chain(words.end..end) {
            core::ptr::with_exposed_provenance_mut::<u8>(at).write(byte_at(at, word));
        }
        for at in words.step_by(8) {
            core::ptr::with_exposed_provenance_mut::<u64>(at).write(word);
        }
    }
}

/// The whole words in `[start, end)`.
const fn words_of(start: usize, end: usize) -> Range<usize> {
    let first = start.next_multiple_of(8);
    if first > end { end..end } else { first..end & !7 }
}

/// The first address in `[start, end)` that was changed, with the byte that should be there and the one that is.
///
/// # Safety
/// The range is readable.
pub(super) unsafe fn first_change(start: usize, end: usize, word: u64) -> Option<(usize, u8, u8)> {
    // SAFETY: the caller's promise. Volatile: the program may be writing there, against the rules.
    let byte = |at: usize| unsafe { core::ptr::with_exposed_provenance::<u8>(at).read_volatile() };
    // SAFETY: as above.
    let whole = |at: usize| unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_volatile() };
    let words = words_of(start, end);
    // All of it at one go, because nearly always nothing was changed.
    let edges = (start..words.start).chain(words.end..end).fold(0, |sum, at| sum | (byte(at) ^ byte_at(at, word)));
    if edges == 0 && words.step_by(8).fold(0, |sum, at| sum | (whole(at) ^ word)) == 0 {
        return None;
    }
    (start..end).map(|at| (at, byte_at(at, word), byte(at))).find(|(_, expected, seen)| expected != seen)
}

#[cfg(test)]
mod tests {
    use super::{REACH, back_of, canary_of, fill, first_change, front_of};
    use crate::chunk::checksum::{Seal, Secrets};
    use crate::chunk::header::Origin;
    use crate::guarded::table::Chunk;
    use crate::os::mapping::PAGE;
    use crate::random::Random;

    #[test]
    fn the_nearest_bytes_on_either_side_are_canary_as_far_as_the_page_and_the_slot_reach() {
        let page = 0x7000_0000_0000;
        assert_eq!(front_of(page), page);
        assert_eq!(front_of(page + 10), page);
        assert_eq!(front_of(page + REACH + 16), page + 16);
        let end = page + PAGE;
        assert_eq!(back_of(end, end), end);
        assert_eq!(back_of(end - 10, end), end);
        assert_eq!(back_of(end - REACH - 16, end), end - 16);
    }

    #[test]
    fn no_two_chunks_have_the_same_canary() {
        let mut random = Random::from_number(5);
        let seals = [(); 8].map(|()| Seal { secrets: Secrets::draw(&mut random), has_instruction: false });
        let canaries: std::collections::BTreeSet<u64> = seals
            .iter()
            .flat_map(|seal| (0..8).map(move |number| (seal, number)))
            .map(|(seal, number)| {
                let address = 0x7000_0000_0000 + number % 4 * PAGE;
                let size = 100 + number / 4;
                canary_of(seal, &Chunk { address, size, origin: Origin::Malloc, align_log2: 4 })
            })
            .collect();
        assert_eq!(canaries.len(), 64);
    }

    /// A pattern of changes must not cancel out, nor look like no change because nothing is left.
    #[test]
    fn changes_are_found_however_many_there_are_and_whatever_they_leave() {
        let word = 0x8182_8384_8586_8788;
        let mut memory = [0_u64; 8];
        let base = memory.as_mut_ptr().expose_provenance();
        for (start, end) in [(1, 4), (1, 8), (8, 24), (3, 40), (8, 64), (0, 16), (5, 29)] {
            let range = || start..end;
            for (first, step) in range().flat_map(|first| [1, 2, 3, 7, 8, 16].map(|step| (first, step))) {
                for erase in [false, true] {
                    // SAFETY: within `memory`.
                    unsafe {
                        fill(base + start, base + end, word);
                        for at in range().filter(|at| *at >= first && (at - first).is_multiple_of(step)) {
                            let place = core::ptr::with_exposed_provenance_mut::<u8>(base + at);
                            place.write(if erase { 0 } else { place.read() ^ 0x40 });
                        }
                        let found = first_change(base + start, base + end, word).map(|found| found.0 - base);
                        assert_eq!(found, Some(first), "every {step} of {start}..{end}, erased: {erase}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_changed_byte_is_found_and_none_outside_is_touched() {
        let word = 0x8182_8384_8586_8788;
        let mut memory = [0_u64; 8];
        let base = memory.as_mut_ptr().expose_provenance();
        for start in 0..20 {
            for end in start..40 {
                memory.fill(0);
                // SAFETY: within `memory`.
                unsafe { fill(base + start, base + end, word) };
                // SAFETY: as above.
                assert_eq!(unsafe { first_change(base + start, base + end, word) }, None);
                for at in 0..64 {
                    let place = core::ptr::with_exposed_provenance_mut::<u8>(base + at);
                    // SAFETY: as above.
                    unsafe {
                        let old = place.read();
                        assert_eq!(old != 0, (start..end).contains(&at));
                        place.write(old ^ 1);
                        let found = first_change(base + start, base + end, word);
                        place.write(old);
                        assert_eq!(found.map(|found| found.0), (start..end).contains(&at).then_some(base + at));
                    }
                }
            }
        }
    }
}
