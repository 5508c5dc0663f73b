//! Deallocation: verify the chunk → quarantine it → recycle the one that it displaces.

use super::allocate::not_owned;
use super::core::Core;
use super::demand::Demand;
use super::locate::{Located, Small};
use crate::chunk::canary;
use crate::chunk::checksum;
use crate::chunk::extent::Extent;
use crate::chunk::header::{Fields, Header};
use crate::chunk::vectors::Vectors;
use crate::os::mapping::{self, PAGE, page_ceil, page_floor};
use crate::primary::class::{BATCH, NotOwned};
use crate::primary::region::{OwnedSlot, Region, Slot, SlotIndex, state};
use crate::protections::Protections;
use crate::quarantine::{Pushed, Turned};
use crate::size_class::{ClassId, FINE_MAX};
use crate::thread_cache::ThreadCache;
use crate::violation::{Operation, Violation};
use core::sync::atomic::{AtomicU8, Ordering, fence};

/// What the fast path did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freed {
    /// The chunk was taken back.
    Done,
    /// Nothing, because something is out of the ordinary: [`Core::free`] will tell it in full.
    Unusual,
    /// The chunk was taken back; this slot left the quarantine, and there is no room for it: [`Core::make_room`].
    Overfull(OwnedSlot),
    /// The chunk was taken back, but the quarantine is at its turn: [`Core::turn`].
    AtTurn(OwnedSlot),
}

/// Slots with longer strides than this, in bytes, have pages of their own.
const LONG_SLOT: usize = 2 * PAGE;

/// Gives back the pages that a wiped slot has to itself, which read as zeroes then as before. Several slots of each class wait in
/// quarantine or lie ready, and of long ones that is a good part of a small heap; those of a loop stay in memory.
#[cold]
fn give_pages_back(class: ClassId, slot: OwnedSlot) {
    let (start, end) = (page_ceil(slot.chunk), page_floor(slot.chunk + class.capacity()));
    // Refused for memory that is locked: it stays.
    let _ = mapping::release(start, end - start);
}

impl Core {
    /// The fast path: takes back a small chunk of at most `LONGEST` bytes that passes all checks.
    #[inline(always)]
    pub(crate) fn free_usual<P: Protections, const LONGEST: usize>(
        &self,
        cache: &mut ThreadCache,
        chunk: usize,
        demand: Demand,
    ) -> Freed {
        let Some(region) = self.arena.region_of(chunk) else { return Freed::Unusual };
        let Some(slot) = region.state_at(chunk) else { return Freed::Unusual };
        if slot.load(Ordering::Relaxed) != state::LIVE {
            return Freed::Unusual;
        }
        // A region with slots below its frontier belongs to a class.
        let class = region.own_class();
        let (mark, bin) = cache.mark_and_bin(class);
        let extent = &bin.extent;
        let capacity = extent.capacity();
        if capacity > LONGEST {
            return Freed::Unusual;
        }
        let secrets = &self.seal.secrets;
        let header = checksum::read(chunk);
        let fields = header.fields();
        if header.checksum() != secrets.checksum::<P::Crc>(chunk, fields.0)
            || (fields.0 ^ demand.value) & demand.mask != 0
        {
            return Freed::Unusual;
        }
        if P::canary(&self.options) {
            let memory = core::ptr::with_exposed_provenance(chunk);
            // SAFETY: a live chunk's slot, `capacity` bytes long, a multiple of 8.
            if !unsafe {
                canary::is_intact::<P::Vectors>(
                    LONGEST <= FINE_MAX,
                    memory,
                    fields.size(),
                    capacity,
                    secrets,
                    header.checksum(),
                )
            } {
                return Freed::Unusual;
            }
        }
        if P::neighbours(&self.options) {
            let index = region.index_of(slot);
            if !self.neighbours_are_in_order::<P, LONGEST>(region, index, class, capacity, chunk)
                && self.neighbours_are_damaged(region, index, class, chunk, fields)
            {
                return Freed::Unusual;
            }
        } else if P::canary(&self.options)
            && fields.size() == capacity
            && !self.next_is_sealed::<P::Crc>(chunk, capacity)
        {
            return Freed::Unusual;
        }
        if !self.wipe::<P>(slot, mark, chunk, capacity, extent, fields) {
            return Freed::Unusual;
        }
        let slot = OwnedSlot::new(chunk, slot);
        match bin.ring.exchange(slot) {
            Pushed::Exchanged(old) if bin.ready.push(old) => Freed::Done,
            Pushed::Exchanged(old) => Freed::Overfull(old),
            Pushed::AtTurn => Freed::AtTurn(slot),
        }
    }

    /// Whether a second, longer look at the neighbours finds damage, too. Its arguments fit into registers, and it is not `#[cold]`: either
    /// change costs the first look, which nearly always is the last, four instructions.
    #[inline(never)]
    fn neighbours_are_damaged(
        &self,
        region: &Region,
        index: SlotIndex,
        class: ClassId,
        start: usize,
        fields: Fields,
    ) -> bool {
        let slot = Slot { index, state: region.state(index) };
        self.check_neighbours(&Small { region, class, slot, start, fields }).is_err()
    }

    /// Takes a chunk back, whatever it is.
    #[inline(never)]
    pub(crate) fn free<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        chunk: usize,
        demand: Demand,
    ) -> Result<(), Violation> {
        if self.guarded.contains(chunk) {
            return self.free_guarded(cache, chunk, &demand);
        }
        let located = self.locate(chunk, Operation::Free)?;
        located.check_demand(chunk, &demand, self.options.mismatch)?;
        self.free_located::<P>(cache, chunk, located)
    }

    /// Takes a chunk back that was found and verified; another thread may have done so since.
    #[inline(always)]
    fn free_located<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        chunk: usize,
        located: Located<'_>,
    ) -> Result<(), Violation> {
        match located {
            Located::Small(small) => {
                let Small { class, slot, start, fields, .. } = small;
                if P::neighbours(&self.options) {
                    self.check_neighbours(&small)?;
                } else if P::canary(&self.options) && small.end() == class.capacity() {
                    self.check_next_header(&small, Operation::Free)?;
                }
                if slot.state.load(Ordering::Relaxed) == state::RECORDED {
                    self.forget_slot(slot.state, start);
                }
                let (mark, bin) = cache.mark_and_bin(class);
                if !self.wipe::<P>(slot.state, mark, start, class.capacity(), &bin.extent, fields) {
                    return Err(not_owned(chunk, Operation::Free));
                }
                self.quarantine(cache, class, OwnedSlot::new(start, slot.state))
            }
            Located::ZeroSized(region, _) if self.zero_sized.lock().give_back(&self.arena, region, chunk) => Ok(()),
            Located::Large(_) if self.release_large(chunk) => Ok(()),
            // Another thread has given it back since it was found.
            Located::ZeroSized(..) | Located::Large(_) | Located::Guarded(_) => Err(not_owned(chunk, Operation::Free)),
        }
    }

    /// Takes a guarded chunk back.
    #[cold]
    fn free_guarded(&self, cache: &mut ThreadCache, chunk: usize, demand: &Demand) -> Result<(), Violation> {
        let may = |found: &_| Located::Guarded(*found).check_demand(chunk, demand, self.options.mismatch);
        let ThreadCache { window, remembered, thread, .. } = cache;
        // Asked for when all has been verified, and the slot can't be used again yet.
        let caller = || {
            if self.heap_profile.is_on() {
                self.heap_profile.forget(chunk);
            }
            self.caller(window, remembered, thread)
        };
        self.guarded.free(self.guarded_ground(), chunk, may, caller)
    }

    /// Takes a large chunk back; `false` when another thread was faster.
    fn release_large(&self, chunk: usize) -> bool {
        if self.heap_profile.is_on() {
            self.heap_profile.forget(chunk);
        }
        self.secondary.release(self.large_ground(), chunk)
    }

    /// Makes a verified chunk's slot the cache's, and wipes it. `false` when another thread was faster.
    #[inline(always)]
    fn wipe<P: Protections>(
        &self,
        slot: &AtomicU8,
        mark: &u8,
        start: usize,
        capacity: usize,
        extent: &Extent,
        fields: Fields,
    ) -> bool {
        // First: whoever sees the slot live sees header and canaries in order.
        // Chunks that are quarantined in no order pass no turn, whose fence a plain store counts on.
        if capacity > FINE_MAX || P::atomic_free(&self.options, *mark == state::SHARED_MARK) {
            if slot.compare_exchange(state::LIVE, *mark, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                return false;
            }
        } else {
            slot.store(*mark, Ordering::Release);
        }
        if P::zero_on_free(&self.options) {
            // SAFETY: the slot is this cache's now, and of this extent.
            unsafe { P::Vectors::zero(core::ptr::with_exposed_provenance_mut(start), capacity, extent) };
        }
        let freed = fields.freed();
        checksum::write(start, Header::seal(freed, self.seal.secrets.free_seal(start, freed.0)));
        true
    }

    /// Puts a wiped slot into the quarantine.
    fn quarantine(&self, cache: &mut ThreadCache, class: ClassId, slot: OwnedSlot) -> Result<(), Violation> {
        let bin = cache.bin(class);
        match bin.ring.exchange(slot) {
            Pushed::Exchanged(old) => {
                if !bin.ready.push(old) {
                    return self.make_room(cache, class, old);
                }
                Ok(())
            }
            Pushed::AtTurn => self.turn(cache, class, slot),
        }
    }

    /// The ring is at its turn, or grows.
    #[cold]
    pub(crate) fn turn(&self, cache: &mut ThreadCache, class: ClassId, slot: OwnedSlot) -> Result<(), Violation> {
        /// However little the quarantine may hold, a slot never comes back at once.
        const LEAST: usize = 2;
        // Every slot that was freed by a plain store passes a turn before its next hand-out. Here the mark that it was given is made visible to
        // all, and those of others to this thread: of two racing frees one then finds a mark that is not its own.
        // Without the fence both could read their own out of their CPU's store buffer.
        if class.capacity() <= FINE_MAX {
            fence(Ordering::SeqCst);
        }
        self.refresh_randomness(cache);
        self.decay_now_and_then(cache);
        if class.stride() > LONG_SLOT && self.options.release_interval_ms >= 0 && cache.note_rare_free(class) {
            give_pages_back(class, slot);
        }
        let stride = class.stride().cast_signed();
        let enough = cache.quarantine_room >= stride;
        let (random, bin) = cache.random_and_bin(class);
        let room = enough || bin.ring.length() < LEAST;
        match bin.ring.turn(slot, room, random) {
            Turned::Grown => cache.quarantine_room -= stride,
            Turned::Left(old) => {
                // This one, and, in a ring, those that were exchanged since the turn before.
                let left = if bin.ring.is_scattered() { 1 } else { bin.ring.length().max(1) };
                let pushed = bin.ready.push(old);
                cache.pass_allocations(left);
                if cache.byte_sampler.is_on() {
                    cache.choose_leaving_for_profile(class, old);
                }
                if !pushed {
                    return self.make_room(cache, class, old);
                }
            }
        }
        Ok(())
    }

    /// Gives the older half of the ready slots back to the class, then puts `chunk` in.
    #[cold]
    pub(crate) fn make_room(&self, cache: &mut ThreadCache, class: ClassId, slot: OwnedSlot) -> Result<(), Violation> {
        let mut batch = [OwnedSlot::NONE; BATCH];
        let bin = cache.open_bin(class);
        let count = bin.ready.take_oldest(&mut batch, false);
        bin.ready.push(slot);
        self.give_back(cache.mark, class, batch.get(..count).unwrap_or_default())
            .map_err(|NotOwned(chunk)| not_owned(chunk, Operation::Free))
    }

    /// The class of a slot that a cache owns.
    pub(crate) fn class_of(&self, slot: OwnedSlot) -> ClassId {
        self.arena.own_region(slot.chunk).own_class()
    }

    fn give_back(&self, mark: u8, class: ClassId, slots: &[OwnedSlot]) -> Result<(), NotOwned> {
        self.class(class).lock().give_back(self.ground(), mark, slots)
    }

    /// Gives everything in a cache back: its thread ends, or memory is asked back.
    #[cold]
    pub(crate) fn flush(&self, cache: &mut ThreadCache) -> Result<(), Violation> {
        self.flush_all(cache).map_err(|NotOwned(chunk)| not_owned(chunk, Operation::Free))
    }

    fn flush_all(&self, cache: &mut ThreadCache) -> Result<(), NotOwned> {
        for class in ClassId::all() {
            let mut batch = [OwnedSlot::NONE; BATCH];
            loop {
                let count = cache.bin(class).ready.take_oldest(&mut batch, true);
                if count == 0 {
                    break;
                }
                cache.sampler.take_back(count);
                self.give_back(cache.mark, class, batch.get(..count).unwrap_or_default())?;
            }
            let mut held = [OwnedSlot::NONE; crate::quarantine::PLACES];
            let mut count = 0;
            let left = cache.bin(class).ring.drain(|slot| {
                if let Some(place) = held.get_mut(count) {
                    *place = slot;
                    count += 1;
                }
            });
            cache.quarantine_room += class.stride().cast_signed() * left as isize;
            if count > 0 {
                self.give_back(cache.mark, class, held.get(..count).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
