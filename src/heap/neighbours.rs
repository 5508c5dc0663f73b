//! What lies before and behind a chunk: the next header tells of an overflow when there is no slack, and in
//! `strict` both neighbours are verified.
//!
//! Neighbours belong to others, who may be changing them at this moment. Headers change by one
//! store, from one whole value to another; and what looks damaged is looked at again before it is
//! reported, because a false alarm would be an outage.

use super::core::Core;
use super::locate::Small;
use crate::chunk::canary;
use crate::chunk::checksum::{self, Crc};
use crate::chunk::header::Header;
use crate::os::process;
use crate::primary::region::{Region, Slot, SlotIndex, state};
use crate::primary::slab::slots_log2;
use crate::protections::Protections;
use crate::size_class::{ClassId, FINE_MAX, HEADER, MIN_ALIGN_LOG2};
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::Ordering;

/// How often a suspicion is looked at again: whoever is just changing what was seen needs no more time than that. Half of the
/// looks give the processor away, which takes long where many wait for it; so looks must not be nested.
const LOOKS: usize = 200;

/// Repeats a look until all is in order, or it has been wrong so often that it is not for another thread's being at it.
fn look_again(mut look: impl FnMut() -> Result<(), Violation>) -> Result<(), Violation> {
    let mut outcome = look();
    for number in 1..LOOKS {
        if outcome.is_ok() {
            return outcome;
        }
        if number > LOOKS / 2 {
            process::yield_now();
        }
        outcome = look();
    }
    outcome
}

impl Core {
    /// Whether a slot's header is one of ours, in whatever state.
    #[inline(always)]
    fn is_sealed<C: Crc>(&self, chunk: usize, header: Header) -> bool {
        self.seal.secrets.reloaded().expected::<C>(chunk, header.fields()) == header.checksum()
    }

    /// Whether the slot behind a chunk has a header of ours; a blank one does not count.
    #[inline(always)]
    pub(crate) fn next_is_sealed<C: Crc>(&self, start: usize, capacity: usize) -> bool {
        let next = start + capacity + HEADER;
        self.is_sealed::<C>(next, checksum::read(next))
    }

    /// Verifies the header behind a chunk that fills its slot: the first bytes that an overflow hits.
    pub(crate) fn check_next_header(&self, small: &Small<'_>, operation: Operation) -> Result<(), Violation> {
        if self.is_next_in_order(small.class, small.start) {
            return Ok(());
        }
        look_again(|| self.look_at_next_header(small, operation))
    }

    #[inline(always)]
    fn is_next_in_order(&self, class: ClassId, start: usize) -> bool {
        let next = start + class.stride();
        let header = checksum::read(next);
        self.seal.expected(next, header.fields()) == header.checksum()
    }

    /// The same, once, for a header that was not in order at a first look: blank perhaps, or just being written.
    #[cold]
    #[inline(never)]
    fn look_at_next_header(&self, small: &Small<'_>, operation: Operation) -> Result<(), Violation> {
        let Small { region, class, slot, start, fields } = *small;
        let next = start + class.stride();
        let header = checksum::read(next);
        let expected = self.seal.expected(next, header.fields());
        // The pages of released and of never used slots are zero.
        let blank =
            header.0 == 0 && region.state(SlotIndex(slot.index.0 + 1)).load(Ordering::Acquire) == state::UNSEALED;
        if expected == header.checksum() || blank {
            return Ok(());
        }
        let chunk = fields.chunk_in_slot(start);
        if operation == Operation::Check && header.fields().has_valid_marker() {
            // An overflow from below hits the lowest byte first, and that is in order: so the damage came from above, by an
            // underflow of the chunk behind.
            return Err(super::locate::corrupted(next, class, header, expected, operation));
        }
        Err(Violation::new(Kind::Overflow, operation, chunk, "the header of the slot behind the chunk was changed")
            .chunk(fields.size(), fields.origin())
            .values(Header::seal(header.fields(), expected).0, header.0)
            .at((next - HEADER).wrapping_sub(chunk) as isize))
    }

    /// Whether at a first look all is in order that [`Self::check_neighbours`] verifies, for a chunk of a slot of `capacity` bytes.
    /// `false` says little: a neighbour may just be changing, or lie in another slab, which may be released meanwhile.
    #[inline(always)]
    pub(crate) fn neighbours_are_in_order<P: Protections, const LONGEST: usize>(
        &self,
        region: &Region,
        index: SlotIndex,
        class: ClassId,
        capacity: usize,
        start: usize,
    ) -> bool {
        let log = slots_log2(class);
        let is_live = |index| state::is_live(region.state(index).load(Ordering::Acquire));
        let (before, behind) = (SlotIndex(index.0.wrapping_sub(1)), SlotIndex(index.0 + 1));
        let next = start + capacity + HEADER;
        // Behind the last slot of all there is a header and a state byte, too.
        if is_live(behind) {
            if behind.0 >> log != index.0 >> log || !self.is_in_order::<P, LONGEST>(next, capacity) {
                return false;
            }
        } else if !self.is_sealed::<P::Crc>(next, checksum::read(next)) {
            return false;
        }
        index.0 == 0
            || !is_live(before)
            || before.0 >> log == index.0 >> log && self.is_in_order::<P, LONGEST>(start - capacity - HEADER, capacity)
    }

    /// Whether header and canaries of a live slot are in order at a first look; never for an over-aligned chunk.
    #[inline(always)]
    fn is_in_order<P: Protections, const LONGEST: usize>(&self, start: usize, capacity: usize) -> bool {
        let secrets = self.seal.secrets.reloaded();
        let header = checksum::read(start);
        let fields = header.fields();
        if !fields.is_allocated()
            || fields.align_log2() > MIN_ALIGN_LOG2
            || header.checksum() != secrets.checksum::<P::Crc>(start, fields.0)
        {
            return false;
        }
        if !P::canary(&self.options) {
            return true;
        }
        let (memory, fine) = (core::ptr::with_exposed_provenance(start), LONGEST <= FINE_MAX);
        // SAFETY: a slot of the slab of a live chunk, which keeps it from being released; `capacity` is a multiple of 8.
        let intact = unsafe {
            canary::is_intact::<P::Vectors>(fine, memory, fields.size(), capacity, secrets, header.checksum())
        };
        intact && (fields.size() < capacity || self.next_is_sealed::<P::Crc>(start, capacity))
    }

    /// Verifies both neighbours: the header behind in any case, and header and canaries of those that are live.
    #[inline(never)]
    pub(crate) fn check_neighbours(&self, small: &Small<'_>) -> Result<(), Violation> {
        self.check_next_header(small, Operation::Free)?;
        let SlotIndex(index) = small.slot.index;
        if let Some(before) = index.checked_sub(1) {
            self.check_neighbour(small, SlotIndex(before))?;
        }
        if index + 1 < small.region.frontier() {
            self.check_neighbour(small, SlotIndex(index + 1))?;
        }
        Ok(())
    }

    /// Verifies a neighbour that is live: most are not, and then nothing is called.
    #[inline(always)]
    fn check_neighbour(&self, small: &Small<'_>, neighbour: SlotIndex) -> Result<(), Violation> {
        if !state::is_live(small.region.state(neighbour).load(Ordering::Acquire)) {
            return Ok(());
        }
        self.verify_neighbour(small, neighbour)
    }

    #[inline(never)]
    fn verify_neighbour(&self, small: &Small<'_>, neighbour: SlotIndex) -> Result<(), Violation> {
        let Small { region, class, .. } = *small;
        let slab = |index: SlotIndex| index.0 >> slots_log2(class);
        if slab(neighbour) == slab(small.slot.index) {
            return self.verify_slot(region, neighbour, class, Operation::Free);
        }
        // The chunk that is being freed keeps its own slab from being released, but not the next one.
        let _keeps_slabs = self.class(class).lock();
        self.verify_slot(region, neighbour, class, Operation::Free)
    }

    /// Verifies header and canaries of a slot, if it is live and stays so while it is looked at.
    ///
    /// The caller sees to it that the slab is not released meanwhile.
    pub(crate) fn verify_slot(
        &self,
        region: &Region,
        index: SlotIndex,
        class: ClassId,
        operation: Operation,
    ) -> Result<(), Violation> {
        let start = region.chunk(index, class.stride());
        let slot = Slot { index, state: region.state(index) };
        look_again(|| {
            if state::is_live(slot.state.load(Ordering::Acquire)) {
                self.look_at(region, class, slot, start, operation)
            } else {
                Ok(())
            }
        })
    }

    fn look_at(
        &self,
        region: &Region,
        class: ClassId,
        slot: Slot<'_>,
        start: usize,
        operation: Operation,
    ) -> Result<(), Violation> {
        let header = checksum::read(start);
        let fields = header.fields();
        let expected = self.seal.checksum(start, fields.0);
        if !fields.is_allocated() || header.checksum() != expected {
            return Err(super::locate::corrupted(start, class, header, expected, operation));
        }
        let small = Small { region, class, slot, start, fields };
        self.verify_canaries(&small, header, operation)?;
        // Once: the caller looks again at all of it.
        if small.end() == class.capacity() && !self.is_next_in_order(class, start) {
            self.look_at_next_header(&small, operation)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
