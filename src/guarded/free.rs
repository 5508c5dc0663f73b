//! Taking a chunk back: held, so that nobody else does; verified; its pages closed.

use super::surroundings::{self, back_of, canary_of, front_of};
use super::table::{Chunk, Entry, state};
use super::{Ground, Guarded};
use crate::os::mapping::{self, PAGE, page_floor};
use crate::os::process;
use crate::trace::{Caller, Taken};
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::Ordering;

/// A live chunk that nobody else can take back while this exists.
pub(super) struct Held<'a> {
    entry: &'a Entry,
    slot: usize,
    chunk: Chunk,
}

impl<'a> Held<'a> {
    /// The chunk in a slot that was seen to be live. `None`, and all is as it was, where the slot is not live any more, or what was
    /// read before was about a chunk that was given back since, and the slot used again.
    pub(super) fn take(entry: &'a Entry, slot: usize, address: usize) -> Option<Self> {
        entry.state.compare_exchange(state::LIVE, state::HELD, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        let chunk = entry.chunk().filter(|chunk| chunk.address == address);
        if chunk.is_none() {
            entry.state.store(state::LIVE, Ordering::Release);
        }
        chunk.map(|chunk| Self { entry, slot, chunk })
    }

    fn let_go(self) {
        self.entry.state.store(state::LIVE, Ordering::Release);
    }
}

impl Guarded {
    /// Holds the live chunk that starts at an address, so that it is not given back while it is looked at.
    fn hold(&self, address: usize, operation: Operation) -> Result<Held<'_>, Violation> {
        let not_a_chunk = |detail| Violation::new(Kind::NotAChunk, operation, address, detail);
        let Some(slot) = self.slot_of(address) else { return Err(not_a_chunk("the address lies outside this heap")) };
        let Some(entry) = self.table.entry(slot) else {
            return Err(not_a_chunk("the address lies in a guard page"));
        };
        loop {
            let seen = entry.state.load(Ordering::Acquire);
            let Some(chunk) = entry.chunk().filter(|_| seen != state::UNUSED) else {
                return Err(not_a_chunk("nothing was ever allocated here"));
            };
            let inside = (chunk.address..chunk.address + chunk.size).contains(&address);
            let found = |kind, detail| {
                Some(Err(Violation::new(kind, operation, address, detail).chunk(chunk.size, Some(chunk.origin))))
            };
            let outcome = match seen {
                state::LIVE if chunk.address == address => Held::take(entry, slot, address).map(Ok),
                state::LIVE if inside => found(Kind::NotAChunk, "the address lies inside a chunk, not at its start"),
                state::FREED if chunk.address == address => found(Kind::Freed, "the chunk was given back before"),
                state::FREED if inside => found(Kind::NotAChunk, "the address lies inside a chunk that was given back"),
                state::LIVE | state::FREED => Some(Err(not_a_chunk("the address lies beside a guarded chunk"))),
                _ => None,
            };
            match outcome {
                Some(outcome) => return outcome,
                // Another thread is at it, for the time of a system call.
                None => process::yield_now(),
            }
        }
    }

    /// Verifies what surrounds a chunk that is held.
    fn verify(&self, ground: Ground<'_>, held: &Held<'_>, operation: Operation) -> Result<(), Violation> {
        let Chunk { address, size, origin, .. } = held.chunk;
        let word = canary_of(ground.seal, &held.chunk);
        let violation = |kind, detail, at: usize, expected: u8, seen: u8| {
            Violation::new(kind, operation, address, detail)
                .chunk(size, Some(origin))
                .values(u64::from(expected), u64::from(seen))
                .at(at.wrapping_sub(address).cast_signed())
        };
        // SAFETY: while the chunk is held, its pages are accessible.
        unsafe {
            if let Some((at, expected, seen)) =
                surroundings::first_change(address + size, back_of(address + size, self.end_of(held.slot)), word)
            {
                let detail = "the canary behind the chunk was changed";
                return Err(violation(Kind::Overflow, detail, at, expected, seen));
            }
            if let Some((at, expected, seen)) = surroundings::first_change(front_of(address), address, word) {
                let detail = "the bytes in front of the chunk were changed";
                return Err(violation(Kind::CorruptHeader, detail, at, expected, seen));
            }
        }
        Ok(())
    }

    /// The live chunk that starts at an address, verified.
    ///
    /// # Errors
    /// When there is none, or what surrounds it was changed.
    pub(crate) fn find(&self, ground: Ground<'_>, address: usize, operation: Operation) -> Result<Chunk, Violation> {
        let held = self.hold(address, operation)?;
        let (verified, chunk) = (self.verify(ground, &held, operation), held.chunk);
        held.let_go();
        verified.map(|()| chunk)
    }

    /// Takes back the chunk that starts at an address, if it is in order and `may` agrees.
    ///
    /// # Errors
    /// What is wrong with it; then it is as it was.
    pub(crate) fn free(
        &self,
        ground: Ground<'_>,
        address: usize,
        may: impl FnOnce(&Chunk) -> Result<(), Violation>,
        caller: impl FnOnce() -> Caller<Taken>,
    ) -> Result<(), Violation> {
        let held = self.hold(address, Operation::Free)?;
        if let Err(violation) = may(&held.chunk).and_then(|()| self.verify(ground, &held, Operation::Free)) {
            held.let_go();
            return Err(violation);
        }
        let Held { entry, slot, .. } = held;
        entry.state.store(state::CLOSING, Ordering::Relaxed);
        if let Some(kept) = self.table.kept(slot, &self.depot) {
            entry.freed_by(&caller(), kept);
        }
        let (start, end) = (page_floor(address), self.end_of(slot));
        let closed = self.close(entry, start, end);
        ground.budget.refund(end - start);
        entry.state.store(state::FREED, Ordering::Release);
        if closed {
            self.put_back(slot);
        }
        Ok(())
    }

    /// Makes the pages of a freed chunk inaccessible. `false` when the system refuses: then the slot must not be used again.
    fn close(&self, entry: &Entry, start: usize, end: usize) -> bool {
        if mapping::make_inaccessible(start, end - start).is_err() {
            // Fresh address space in its place needs no memory and at most as many mappings.
            entry.dirty.store(false, Ordering::Relaxed);
            return mapping::discard(start, end - start).is_ok();
        }
        let kept = if self.keeps_pages { PAGE } else { 0 };
        let given_back = end - start - kept;
        if given_back == 0 || mapping::release(start, given_back).is_ok() {
            entry.dirty.store(kept != 0, Ordering::Relaxed);
        }
        true
    }
}
