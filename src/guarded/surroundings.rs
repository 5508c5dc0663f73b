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
    use super::{fill, first_change};

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
