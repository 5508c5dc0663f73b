//! Reading a thread's stack without ever faulting: each page is asked for once, then remembered.

use crate::os::mapping::{self, PAGE, page_floor};

/// A stack is followed upwards at most so far.
const MOST_BYTES: usize = 8 << 20;

/// Downwards, a known part grows at most so far at a time; beyond that it is another stack.
const MOST_DOWN: usize = 1 << 20;

/// The part of a thread's stack that is known to be readable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The thread whose stack it is; the stacks of threads that have ended are forgotten.
    thread: i32,
    low: usize,
    high: usize,
}

impl Window {
    pub(crate) const UNKNOWN: Self = Self { thread: 0, low: 0, high: 0 };

    /// Prepares to read from `stack_pointer` upwards in this thread.
    pub(super) fn settle(&mut self, thread: i32, stack_pointer: usize) {
        if self.thread == thread && (self.low..self.high).contains(&stack_pointer) {
            return;
        }
        let start = page_floor(stack_pointer);
        let grows = self.thread == thread && stack_pointer < self.low && self.low - start <= MOST_DOWN;
        if grows && (start..self.low).step_by(PAGE).all(is_readable) {
            self.low = start;
            return;
        }
        // An alternate signal stack or a coroutine's begins anew; after a fault, the register may hold anything.
        let high = if is_readable(start) { start.saturating_add(PAGE) } else { start };
        *self = Self { thread, low: start, high };
    }

    /// A word so many words above an address, if it lies in the part that is known already.
    #[inline(always)]
    pub(super) fn known_word(&self, base: usize, words: u32) -> Option<usize> {
        let address = base.wrapping_add(words as usize * 8);
        if !address.is_multiple_of(8) || address < self.low || address >= self.high {
            return None;
        }
        // SAFETY: as in `word`.
        Some(unsafe { core::ptr::with_exposed_provenance::<usize>(address).read_volatile() })
    }

    /// The word at an address of the stack.
    pub(super) fn word(&mut self, address: usize) -> Option<usize> {
        if !address.is_multiple_of(8) || address < self.low || address >= self.low.saturating_add(MOST_BYTES) {
            return None;
        }
        while address >= self.high {
            if self.high == self.low || !is_readable(self.high) {
                return None;
            }
            self.high += PAGE;
        }
        // SAFETY: the aligned word lies in pages of this thread's stack that were readable, and stay mapped as it runs.
        Some(unsafe { core::ptr::with_exposed_provenance::<usize>(address).read_volatile() })
    }
}

/// Whether a page can be read. `MADV_POPULATE_READ` (Linux 5.14) fails where it cannot, and is a system call that an allocator
/// makes anyway: a sandbox that kills for any other must not kill for this. On older kernels the answer is always "no".
fn is_readable(page: usize) -> bool {
    mapping::populate(page, PAGE).is_ok()
}
