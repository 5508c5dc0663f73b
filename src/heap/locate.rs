//! From an address to what is known about it, for everything that is not the fast path. Geometry and
//! out-of-band state first; only then is a header read.

use super::core::Core;
use super::demand::Demand;
use crate::chunk::canary::{self, Damage};
use crate::chunk::checksum;
use crate::chunk::header::{Fields, Header, Origin};
use crate::guarded;
use crate::primary::region::{Region, Slot, ZERO_SIZED, state};
use crate::primary::zero_sized;
use crate::secondary;
use crate::secondary::table::Entry;
use crate::size_class::{ClassId, MIN_ALIGN};
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::Ordering;

/// A live small chunk whose header and canaries were verified.
#[derive(Clone, Copy)]
pub(crate) struct Small<'a> {
    pub(crate) region: &'a Region,
    pub(crate) class: ClassId,
    pub(crate) slot: Slot<'a>,
    /// Where the slot's user area begins: the chunk itself, unless that is over-aligned.
    pub(crate) start: usize,
    pub(crate) fields: Fields,
}

impl Small<'_> {
    /// Bytes from the start of the user area to the end of what was asked for.
    pub(crate) fn end(&self) -> usize {
        self.fields.chunk_in_slot(self.start) - self.start + self.fields.size()
    }
}

/// A live chunk.
#[derive(Clone, Copy)]
pub(crate) enum Located<'a> {
    Small(Small<'a>),
    ZeroSized(&'a Region, Origin),
    Large(Entry),
    Guarded(guarded::Chunk),
}

impl Located<'_> {
    /// Requested size in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Small(small) => small.fields.size(),
            Self::ZeroSized(..) => 0,
            Self::Large(entry) => entry.size,
            Self::Guarded(chunk) => chunk.size,
        }
    }

    /// How it was allocated.
    pub(crate) fn origin(&self) -> Option<Origin> {
        match self {
            Self::Small(small) => small.fields.origin(),
            Self::ZeroSized(_, origin) => Some(*origin),
            Self::Large(entry) => Some(entry.origin),
            Self::Guarded(chunk) => Some(chunk.origin),
        }
    }

    /// Requested alignment; that of zero-sized chunks is not recorded.
    fn align_log2(&self) -> Option<u32> {
        match self {
            Self::Small(small) => Some(small.fields.align_log2()),
            Self::ZeroSized(..) => None,
            Self::Large(entry) => Some(u32::from(entry.align_log2)),
            Self::Guarded(chunk) => Some(chunk.align_log2),
        }
    }

    /// Whether it may be given back like this.
    pub(crate) fn check_demand(&self, chunk: usize, demand: &Demand, mismatch: bool) -> Result<(), Violation> {
        if !mismatch {
            return Ok(());
        }
        let (size, origin) = (self.size(), self.origin());
        let violation = |kind, detail| Violation::new(kind, Operation::Free, chunk, detail).chunk(size, origin);
        if origin.is_none_or(|origin| demand.origins & 1 << origin as u8 == 0) {
            return Err(violation(Kind::Mismatch, demand.function));
        }
        if let Some(given) = demand.size
            && given != size
        {
            return Err(violation(Kind::WrongSize, "a size was given back that was not asked for")
                .values(size as u64, given as u64));
        }
        if let (Some(given), Some(asked)) = (demand.align_log2, self.align_log2())
            && given != asked
        {
            return Err(violation(Kind::WrongAlignment, "an alignment was given back that was not asked for")
                .values(1 << asked, 1 << given));
        }
        Ok(())
    }
}

impl Core {
    /// The live chunk that starts at an address, verified.
    ///
    /// # Errors
    /// When there is none, or its header or canaries were damaged.
    #[inline(never)]
    pub(crate) fn locate(&self, chunk: usize, operation: Operation) -> Result<Located<'_>, Violation> {
        if let Some(region) = self.arena.region_of(chunk) {
            if region.class() == ZERO_SIZED && region.slots() != 0 {
                return self.locate_zero_sized(region, chunk, operation);
            }
            if let Some(class) = region.size_class()
                && let Some(slot) = region.slot_around(chunk, class.stride())
            {
                return self.locate_small(region, class, slot, chunk, operation).map(Located::Small);
            }
            return Err(Violation::new(Kind::NotAChunk, operation, chunk, "nothing was ever allocated here"));
        }
        if self.guarded.contains(chunk) {
            return self.guarded.find(self.guarded_ground(), chunk, operation).map(Located::Guarded);
        }
        match self.secondary.find(self.large_ground(), chunk, operation)? {
            secondary::Found::Live(entry) => Ok(Located::Large(entry)),
            secondary::Found::Freed(entry) => {
                Err(Violation::new(Kind::Freed, operation, chunk, "this large chunk was given back before")
                    .chunk(entry.size, Some(entry.origin)))
            }
            secondary::Found::Nothing => Err(Violation::new(
                Kind::NotAChunk,
                operation,
                chunk,
                "the address lies outside this heap, or inside a large chunk",
            )),
        }
    }

    fn locate_zero_sized<'a>(
        &'a self,
        region: &'a Region,
        chunk: usize,
        operation: Operation,
    ) -> Result<Located<'a>, Violation> {
        match self.zero_sized.lock().find(&self.arena, region, chunk) {
            zero_sized::Found::Live(origin) => Ok(Located::ZeroSized(region, origin)),
            zero_sized::Found::Freed => {
                Err(Violation::new(Kind::Freed, operation, chunk, "this zero-sized chunk was given back before")
                    .chunk(0, None))
            }
            zero_sized::Found::Nothing => {
                Err(Violation::new(Kind::NotAChunk, operation, chunk, "no zero-sized chunk has this address"))
            }
        }
    }

    fn locate_small<'a>(
        &self,
        region: &'a Region,
        class: ClassId,
        slot: Slot<'a>,
        chunk: usize,
        operation: Operation,
    ) -> Result<Small<'a>, Violation> {
        let start = region.chunk(slot.index, class.stride());
        let not_a_chunk = |detail| Violation::new(Kind::NotAChunk, operation, chunk, detail);
        match slot.state.load(Ordering::Acquire) {
            state::LIVE | state::RECORDED => self.locate_live(region, class, slot, chunk, operation),
            state::RESIZING => {
                let detail = "another thread is resizing the chunk at this moment";
                Err(Violation::new(Kind::DoubleFree, operation, chunk, detail).chunk(class.capacity(), None))
            }
            // Never sealed yet, or freed at least once or lying ready for the first time.
            state::UNSEALED | state::SEALED => Err(not_a_chunk("the slot at this address is not allocated")),
            _ => {
                let header = checksum::read(start);
                let fields = header.fields();
                let known = self.seal.expected(start, fields) == header.checksum() && !fields.is_allocated();
                Err(match fields.origin() {
                    Some(origin) if known && fields.chunk_in_slot(start) == chunk => {
                        Violation::new(Kind::Freed, operation, chunk, "the chunk was given back before")
                            .chunk(fields.size(), Some(origin))
                    }
                    None if known && start == chunk => not_a_chunk("the slot at this address is not allocated"),
                    _ if !known && start == chunk => Violation::new(
                        Kind::Freed,
                        operation,
                        chunk,
                        "the chunk was given back before, and its header was written to since",
                    )
                    .chunk(class.capacity(), None),
                    _ => not_a_chunk("the address lies inside a slot that is not allocated"),
                })
            }
        }
    }

    /// The chunk of a slot whose state byte said that it is live. What contradicts that is damage, unless another thread has given the
    /// chunk back or resized it since.
    fn locate_live<'a>(
        &self,
        region: &'a Region,
        class: ClassId,
        slot: Slot<'a>,
        chunk: usize,
        operation: Operation,
    ) -> Result<Small<'a>, Violation> {
        let start = region.chunk(slot.index, class.stride());
        let not_a_chunk = |detail| Violation::new(Kind::NotAChunk, operation, chunk, detail);
        let header = checksum::read(start);
        let fields = header.fields();
        let expected = self.seal.checksum(start, fields.0);
        if header.checksum() != expected || !fields.is_allocated() {
            if !state::is_live(slot.state.load(Ordering::Acquire)) {
                // Another thread has given it back in this instant.
                return Err(Violation::new(
                    Kind::DoubleFree,
                    operation,
                    chunk,
                    "two threads gave the chunk back at the same time",
                ));
            }
            if !chunk.is_multiple_of(MIN_ALIGN) {
                return Err(not_a_chunk("the address lies inside a chunk"));
            }
            return Err(corrupted(chunk, class, header, expected, operation));
        }
        if fields.chunk_in_slot(start) != chunk {
            return Err(
                not_a_chunk("the address lies inside a chunk, not at its start").chunk(fields.size(), fields.origin())
            );
        }
        self.verify_live(Small { region, class, slot, start, fields }, header, operation)
    }

    /// Compares the canaries of a chunk that had this header a moment ago.
    fn verify_live<'a>(&self, small: Small<'a>, header: Header, operation: Operation) -> Result<Small<'a>, Violation> {
        let damaged = match self.verify_canaries(&small, header, operation) {
            Ok(()) => return Ok(small),
            Err(damaged) => damaged,
        };
        // Given back and wiped since; or resized, and then the header was changed before the byte said "live" again.
        if !state::is_live(small.slot.state.load(Ordering::Acquire)) || checksum::read(small.start) != header {
            let chunk = small.fields.chunk_in_slot(small.start);
            let detail = "two threads gave the chunk back or resized it at the same time";
            return Err(Violation::new(Kind::DoubleFree, operation, chunk, detail)
                .chunk(small.fields.size(), small.fields.origin()));
        }
        Err(damaged)
    }

    /// Compares the canaries of a chunk whose header was verified.
    pub(crate) fn verify_canaries(
        &self,
        small: &Small<'_>,
        header: Header,
        operation: Operation,
    ) -> Result<(), Violation> {
        if !self.options.canary {
            return Ok(());
        }
        let word = self.seal.secrets.canary(header.checksum());
        let memory = core::ptr::with_exposed_provenance::<u8>(small.start);
        let chunk = small.fields.chunk_in_slot(small.start);
        let gap = chunk - small.start;
        // SAFETY: the slot is live; the gap in front and the slack behind lie inside it, and gap and capacity
        // are multiples of 8.
        unsafe {
            if let Err(damage) = canary::check(memory, 0, gap, word) {
                return Err(Violation::new(
                    Kind::CorruptHeader,
                    operation,
                    chunk,
                    "the bytes in front of an over-aligned chunk were changed",
                )
                .chunk(small.fields.size(), small.fields.origin())
                .values(damage.expected, damage.seen)
                .at(damage.offset as isize - gap as isize));
            }
            if let Err(damage) = canary::check(memory, small.end(), small.class.capacity(), word) {
                let damage = Damage { offset: damage.offset - gap, ..damage };
                return Err(overflowed(chunk, small.fields, damage, operation));
            }
        }
        Ok(())
    }
}

/// Canaries behind a chunk were changed.
#[cold]
#[inline(never)]
pub(crate) fn overflowed(chunk: usize, fields: Fields, damage: Damage, operation: Operation) -> Violation {
    Violation::new(Kind::Overflow, operation, chunk, "the canary behind the chunk was changed")
        .chunk(fields.size(), fields.origin())
        .values(damage.expected, damage.seen)
        .at(damage.offset as isize)
}

/// A live chunk's header does not match its checksum.
#[cold]
#[inline(never)]
pub(crate) fn corrupted(chunk: usize, class: ClassId, seen: Header, expected: u32, operation: Operation) -> Violation {
    Violation::new(Kind::CorruptHeader, operation, chunk, "the header does not match its checksum")
        .chunk(class.capacity(), None)
        .values(Header::seal(seen.fields(), expected).0, seen.0)
        .at(-8)
}

#[cfg(test)]
mod tests;
