//! Changing a chunk's size: in its slot, in its mapping, or by moving it.

use super::allocate::{Failure, not_owned};
use super::core::Core;
use super::demand::Demand;
use super::locate::{Located, Small};
use crate::chunk::canary;
use crate::chunk::checksum;
use crate::chunk::header::{Fields, Header, Origin};
use crate::guarded::PATTERN;
use crate::primary::region::state;
use crate::protections::Protections;
use crate::secondary::{GivenBack, NotResized};
use crate::size_class::{ClassId, SMALL_MAX};
use crate::thread_cache::ThreadCache;
use crate::violation::{Operation, Violation};
use core::sync::atomic::Ordering;

impl Core {
    /// Gives the chunk at `chunk` another size, at the same alignment and with the same contents; returns its new
    /// address.
    #[inline(never)]
    pub(crate) fn reallocate<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        chunk: usize,
        size: usize,
        demand: Demand,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        let located = self.locate(chunk, Operation::Reallocate)?;
        located.check_demand(chunk, &demand, self.options.mismatch)?;
        self.reallocate_located::<P>(cache, chunk, located, size, demand, align_log2, origin)
    }

    /// The same for a chunk that was found and verified; another thread may have given it back since.
    #[allow(clippy::too_many_arguments, reason = "those of the function above, and what it found")]
    #[inline(always)]
    pub(super) fn reallocate_located<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        chunk: usize,
        located: Located<'_>,
        size: usize,
        demand: Demand,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        let old_size = located.size();
        match located {
            Located::Small(small)
                if small.start == chunk
                    && ClassId::for_size(size) == Some(small.class)
                    && small.fields.align_log2() == align_log2
                    && size != 0 =>
            {
                self.resize_in_slot::<P>(&small, size, origin)?;
                return Ok(chunk);
            }
            Located::Large(entry) if size > SMALL_MAX => {
                if size > self.max_alloc || size > isize::MAX as usize - (1 << 32) {
                    return Err(Failure::OutOfMemory);
                }
                let resize = || self.secondary.resize(self.large_ground(), &entry, size, origin);
                let resized = match resize() {
                    Err(NotResized::OutOfMemory) if self.make_room_to_grow(old_size, size) => resize(),
                    outcome => outcome,
                };
                // Where pages can't be moved, there may yet be room for a copy.
                match resized {
                    Ok(moved) => {
                        if self.heap_profile.is_on() {
                            // As if it had been freed and allocated: what it has grown to was allocated here.
                            self.heap_profile.forget(chunk);
                            self.record_if_hit(cache, moved, size);
                        }
                        self.fill_with_pattern(moved + old_size.min(size), size.saturating_sub(old_size));
                        return Ok(moved);
                    }
                    Err(NotResized::OutOfMemory) => {}
                    Err(NotResized::GivenBack) => return Err(not_owned(chunk, Operation::Reallocate).into()),
                }
            }
            _ => {}
        }
        let moved = self.allocate(cache, size, align_log2, origin)?;
        let from = core::ptr::with_exposed_provenance::<u8>(chunk);
        let to = core::ptr::with_exposed_provenance_mut::<u8>(moved);
        // SAFETY: both chunks are live, distinct, and at least that long.
        let copy = || unsafe { to.copy_from_nonoverlapping(from, old_size.min(size)) };
        match located {
            Located::Large(entry) => {
                self.secondary.while_held(&entry, copy).map_err(|GivenBack| not_owned(chunk, Operation::Reallocate))?
            }
            _ => copy(),
        }
        self.free::<P>(cache, chunk, demand)?;
        Ok(moved)
    }

    /// Another size in the same slot. What the chunk no longer has must not be found there if it grows again,
    /// and what it gains must be zero, not canary. It comes from `origin` now: what realloc returns is given back as such,
    /// wherever it lies.
    fn resize_in_slot<P: Protections>(&self, small: &Small<'_>, size: usize, origin: Origin) -> Result<(), Violation> {
        let old = small.fields;
        let fields = Fields::allocated(size, old.align_log2(), origin);
        let sum = self.seal.checksum(small.start, fields.0);
        // Neighbours that verify this chunk at this moment must not take it for damaged; and nobody else may have it: an
        // exchange, because another thread may have given it back since it was found.
        let before = small.slot.state.load(Ordering::Relaxed);
        if !state::is_live(before)
            || small.slot.state.compare_exchange(before, state::RESIZING, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return Err(not_owned(small.start, Operation::Reallocate));
        }
        let memory = core::ptr::with_exposed_provenance_mut::<u8>(small.start);
        let (low, high) = if size < old.size() { (size, old.size()) } else { (old.size(), size) };
        if P::zero_on_free(&self.options) || size > old.size() {
            let filler = if self.options.fill_pattern && size > old.size() { PATTERN } else { 0 };
            // SAFETY: both sizes lie within the slot of a live chunk.
            unsafe { memory.add(low).write_bytes(filler, high - low) };
        }
        if P::canary(&self.options) {
            let word = self.seal.secrets.canary(sum);
            // SAFETY: as above; the capacity is a multiple of 8.
            unsafe { canary::fill(memory, size, small.class.capacity(), word) };
        }
        checksum::write(small.start, Header::seal(fields, sum));
        small.slot.state.store(before, Ordering::Release);
        Ok(())
    }
}
