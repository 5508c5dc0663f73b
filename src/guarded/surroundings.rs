//! The bytes around a guarded chunk that the guard pages do not cover: what alignment leaves behind it, and what lies in
//! front of it in its first page. The nearest are filled when the chunk is handed out, and must be the same when it comes
//! back.

/// So many bytes on either side are filled: those that a loop with a wrong end hits. All of the page would be seen by no more bugs
/// of that kind, and costs more than the two system calls.
pub(super) const REACH: usize = 256;

/// The byte of the canary that belongs at an address.
const fn byte_at(address: usize, word: u64) -> u8 {
    word.to_le_bytes()[address % 8]
}

/// Fills `[start, end)`.
///
/// # Safety
/// The range is writable and the caller's.
pub(super) unsafe fn fill(start: usize, end: usize, word: u64) {
    let mut at = start;
    while at < end {
        // SAFETY: the caller's promise.
        unsafe {
            if at.is_multiple_of(8) && end - at >= 8 {
                core::ptr::with_exposed_provenance_mut::<u64>(at).write(word);
                at += 8;
            } else {
                core::ptr::with_exposed_provenance_mut::<u8>(at).write(byte_at(at, word));
                at += 1;
            }
        }
    }
}

/// The first address in `[start, end)` that was changed, with the byte that should be there and the one that is.
///
/// # Safety
/// The range is readable.
pub(super) unsafe fn first_change(start: usize, end: usize, word: u64) -> Option<(usize, u8, u8)> {
    let mut at = start;
    while at < end {
        // SAFETY: the caller's promise. Volatile: the program may be writing there, against the rules.
        unsafe {
            if at.is_multiple_of(8) && end - at >= 8 {
                let seen = core::ptr::with_exposed_provenance::<u64>(at).read_volatile();
                if seen == word {
                    at += 8;
                    continue;
                }
                at += ((seen ^ word).trailing_zeros() / 8) as usize;
            }
            let seen = core::ptr::with_exposed_provenance::<u8>(at).read_volatile();
            let expected = byte_at(at, word);
            if seen != expected {
                return Some((at, expected, seen));
            }
        }
        at += 1;
    }
    None
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
