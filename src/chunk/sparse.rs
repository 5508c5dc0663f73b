//! Zeroing long chunks where they are not zero: most of a large buffer is often never touched, and zeroing it all would
//! make that resident and push other things out of the caches.
//!
//! Looking is done in parts far shorter than a page: a program that writes a line of each page of its buffer has most of it
//! read and little of it written, in one pass that the CPU can see coming.

/// From this many bytes a chunk is zeroed only where it is not zero.
pub(super) const SPARSE: usize = 8 << 10;

/// Bytes in a part.
pub(super) const PART: usize = 512;

/// The most parts that are zeroed without having been looked at: two pages, which are resident from then on.
const MOST_UNSEEN: usize = 16;

/// How far ahead of a look memory is asked for, in bytes. The CPU itself asks no further than to the end of a page.
pub(super) const AHEAD: usize = 2 * PART;

/// Zeroes a long piece of memory. `is_zero` tells whether a whole part is, which begins at a multiple of [`PART`].
///
/// # Safety
/// `chunk` is 8-byte aligned and writable for `bytes` bytes, a multiple of 8.
#[inline(always)]
pub(super) unsafe fn zero(chunk: *mut u8, bytes: usize, is_zero: impl Fn(*const u8) -> bool) {
    let mut at = 0;
    // How many parts were last zeroed unseen: twice as many each time that one had to be zeroed.
    let mut unseen = 0;
    while at < bytes {
        let part = PART - (chunk.addr() + at) % PART;
        if part == PART && at + PART <= bytes && is_zero(chunk.wrapping_add(at)) {
            unseen = 0;
            at += PART;
            continue;
        }
        // The pieces at both ends are zeroed as they are.
        unseen = if part == PART { (unseen * 2).clamp(1, MOST_UNSEEN) } else { 0 };
        let end = (at + part + unseen * PART).min(bytes);
        // SAFETY: `at <= end <= bytes`.
        unsafe { chunk.add(at).write_bytes(0, end - at) };
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_UNSEEN, PART, SPARSE, zero};
    use crate::chunk::extent::Extent;
    use crate::chunk::vectors::{Ordinary, Vectors};
    use core::cell::RefCell;
    use proptest::prelude::*;

    /// What lies in `words` words of `memory` from `offset` on is cleared, and nothing beside them.
    fn clears<V: Vectors>(mut memory: Vec<u64>, offset: usize, words: usize) -> bool {
        // SAFETY: `words` words from `offset` lie inside `memory`.
        unsafe { V::zero(memory[offset..].as_mut_ptr().cast(), words * 8, &Extent::new(words * 8)) };
        let (front, rest) = memory.split_at(offset);
        let (inside, behind) = rest.split_at(words);
        inside.iter().all(|&word| word == 0) && front.iter().chain(behind).all(|&word| word == !0)
    }

    proptest! {
        #[test]
        fn all_that_was_written_is_cleared_and_nothing_else(words in SPARSE / 8..5000, offset in 1_usize..8, written in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..300), 0..8)) {
            let mut memory = vec![0_u64; offset + words + 1];
            for (at, length) in written {
                let at = offset + at.index(words);
                memory[at..(at + length).min(offset + words)].fill(!0);
            }
            memory[..offset].fill(!0);
            memory[offset + words] = !0;
            prop_assert!(clears::<Ordinary>(memory.clone(), offset, words));
            #[cfg(target_arch = "x86_64")]
            if crate::os::process::has_native_vectors() {
                prop_assert!(clears::<crate::chunk::vectors::Wide>(memory, offset, words));
            }
        }
    }

    #[test]
    fn a_full_chunk_is_seldom_looked_at_and_a_sparse_one_written_only_near_what_was_written() {
        let mut memory = vec![!0_u8; 64 * PART];
        let front = memory.as_ptr().align_offset(PART);
        let looks = RefCell::new(Vec::new());
        let look = |part: *const u8| {
            looks.borrow_mut().push(part.addr());
            // SAFETY: a part of `memory`.
            unsafe { core::slice::from_raw_parts(part, PART) }.iter().all(|&byte| byte == 0)
        };
        let chunk = memory[front..].as_mut_ptr();
        // SAFETY: 63 parts from `front` on lie inside `memory`.
        unsafe { zero(chunk, 63 * PART, look) };
        assert!(memory[front..front + 63 * PART].iter().all(|&byte| byte == 0));
        // 2, 3, 5, 9, 17, 17 and 10 parts at a time.
        assert_eq!(looks.borrow().len(), 7);
        assert_eq!(looks.borrow().windows(2).map(|pair| (pair[1] - pair[0]) / PART).max(), Some(MOST_UNSEEN + 1));

        looks.borrow_mut().clear();
        let chunk = memory[front..].as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            chunk.add(20 * PART).write(1);
            zero(chunk, 63 * PART, look);
        }
        // The part behind the one that was written is zeroed unseen.
        assert_eq!(looks.borrow().len(), 62);
    }

    /// Chunks begin behind a header, so never where a part does.
    #[test]
    fn whole_parts_inside_a_chunk_are_looked_at_and_no_others() {
        let mut memory = vec![0_u8; 16 * PART];
        let front = memory.as_ptr().align_offset(PART);
        let base = memory[front..].as_mut_ptr();
        for (start, end) in [(8, 10 * PART), (PART - 8, 9 * PART + 8), (2 * PART, 9 * PART - 8), (16, 8 * PART + 16)] {
            let looks = RefCell::new(Vec::new());
            let look = |part: *const u8| {
                looks.borrow_mut().push(part.addr() - base.addr());
                true
            };
            // SAFETY: inside `memory`.
            unsafe { zero(base.add(start), end - start, look) };
            let whole = (0..15).map(|part| part * PART).filter(|&part| start <= part && part + PART <= end);
            assert!(looks.borrow().iter().copied().eq(whole), "{start}..{end}: {:?}", looks.borrow());
        }
    }
}
