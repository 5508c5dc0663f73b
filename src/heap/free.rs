//! Deallocation: verify the chunk → quarantine it → recycle the one that it displaces.

use super::allocate::not_owned;
use super::core::Core;
use crate::chunk::checksum;
use crate::chunk::header::{Fields, Header, Origin};
use crate::chunk::{canary, contents};
use crate::primary::class::{BATCH, NotOwned};
use crate::primary::region::{Slot, state};
use crate::protections::Protections;
use crate::quarantine::Pushed;
use crate::size_class::ClassId;
use crate::thread_cache::ThreadCache;
use crate::violation::{Operation, Violation};
use core::sync::atomic::Ordering;

/// What a way of giving back demands of the chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Header bits that the fast path compares, and what they must be.
    mask: u32,
    value: u32,
    /// Origins that go with it, as bits.
    pub(crate) origins: u8,
    pub(crate) size: Option<usize>,
    pub(crate) align_log2: Option<u32>,
    /// The name of the function, for reports.
    pub(crate) function: &'static str,
}

impl Demand {
    /// `function` takes back chunks of `origin` (and of `also`), whatever their size.
    pub(crate) const fn origin(function: &'static str, origin: Origin, also: &[Origin]) -> Self {
        let mut origins = 1 << origin as u8;
        let mut index = 0;
        while index < also.len() {
            origins |= 1 << also[index] as u8;
            index += 1;
        }
        let value = Fields::allocated(0, super::allocate::MIN_ALIGN_LOG2, origin).0;
        Self { mask: 0xf000_00ff, value, origins, size: None, align_log2: None, function }
    }

    /// The same, and the size must be right.
    #[inline(always)]
    pub(crate) const fn sized(self, size: usize) -> Self {
        let fields = Fields(self.value);
        let size_bits = Fields::allocated(size, 0, Origin::Malloc).0 & 0x0fff_ff00;
        Self { mask: self.mask | 0x0fff_ff00, value: fields.0 & !0x0fff_ff00 | size_bits, size: Some(size), ..self }
    }

    /// The same, and the alignment must be right.
    #[inline(always)]
    pub(crate) const fn aligned(self, align_log2: u32) -> Self {
        let value = self.value & 0x0fff_ffff | (align_log2 & 15) << 28;
        Self { value, align_log2: Some(align_log2), ..self }
    }
}

impl Core {
    /// Takes a chunk back.
    #[inline(always)]
    pub(crate) fn free<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        chunk: usize,
        demand: Demand,
    ) -> Result<(), Violation> {
        let Some(region) = self.arena.region_of(chunk) else {
            return self.free_unusual(cache, chunk, demand);
        };
        let Some(slot) = region.slot_at(chunk) else {
            return self.free_unusual(cache, chunk, demand);
        };
        // A region with slots below its frontier belongs to a class.
        let class = region.own_class();
        let mark = cache.mark;
        let atomic = P::atomic_free(&self.options, mark == state::SHARED_MARK);
        if atomic {
            if slot.state.compare_exchange(state::LIVE, mark, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                return self.free_unusual(cache, chunk, demand);
            }
        } else if slot.state.load(Ordering::Relaxed) != state::LIVE {
            return self.free_unusual(cache, chunk, demand);
        }
        let secrets = &self.seal.secrets;
        let header = checksum::read(chunk);
        let fields = header.fields();
        let wrong = (fields.0 ^ demand.value) & demand.mask;
        if header.checksum() != secrets.live::<P::Crc>(chunk, fields.0) || wrong != 0 {
            if atomic {
                slot.state.store(state::LIVE, Ordering::Release);
            }
            return self.free_unusual(cache, chunk, demand);
        }
        let capacity = cache.bin(class).capacity as usize;
        let memory = core::ptr::with_exposed_provenance_mut::<u8>(chunk);
        if P::canary(&self.options) {
            let size = fields.size();
            let word = secrets.canary(header.checksum());
            // SAFETY: a live chunk's slot, `capacity` bytes long, a multiple of 8.
            if let Err(damage) = unsafe { canary::check(memory, size, capacity, word) } {
                if !atomic && slot.state.load(Ordering::Acquire) != state::LIVE {
                    return Err(not_owned(chunk, Operation::Free));
                }
                return Err(super::locate::overflowed(chunk, fields, damage, Operation::Free));
            }
            if size == capacity && !P::neighbours(&self.options) {
                self.check_next_header::<P::Crc>(region, slot.index, class, chunk, fields)?;
            }
        }
        if P::neighbours(&self.options) {
            self.check_neighbours::<P::Crc>(region, slot.index, class, chunk, fields)?;
        }
        self.retire::<P>(cache, class, slot, chunk, fields)
    }

    /// Wipes a verified chunk and puts it into the quarantine.
    #[inline(always)]
    fn retire<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        class: ClassId,
        slot: Slot<'_>,
        start: usize,
        fields: Fields,
    ) -> Result<(), Violation> {
        let mark = cache.mark;
        let bin = cache.bin(class);
        let capacity = bin.capacity as usize;
        // First: whoever sees the slot live sees header and canaries in order.
        slot.state.store(mark, Ordering::Release);
        if P::zero_on_free(&self.options) {
            // SAFETY: the slot is this cache's now, `capacity` bytes long, a positive multiple of 8.
            unsafe { contents::zero(core::ptr::with_exposed_provenance_mut(start), capacity) };
        }
        let freed = fields.freed();
        checksum::write(start, Header::seal(freed, self.seal.secrets.free::<P::Crc>(start, freed.0)));
        match bin.ring.exchange(start) {
            Pushed::Exchanged(old) => {
                if !bin.ready.push(old) {
                    return self.flush_half(cache, class, old);
                }
                Ok(())
            }
            Pushed::AtTurn => self.turn(cache, class, start),
        }
    }

    /// The ring is at its turn, or grows.
    #[cold]
    #[inline(never)]
    fn turn(&self, cache: &mut ThreadCache, class: ClassId, chunk: usize) -> Result<(), Violation> {
        /// However little the quarantine may hold, a slot never comes back at once.
        const LEAST: u16 = 2;
        self.refresh_randomness(cache);
        let stride = class.stride().cast_signed();
        let bin = &mut cache.bins[class.index() & (crate::size_class::CLASSES - 1)];
        let room = cache.quarantine_room >= stride || bin.ring.length() < LEAST;
        let mut left = [0; crate::quarantine::PLACES + 1];
        let mut count = 0;
        let grown = bin.ring.turn(chunk, room, &mut cache.random, |old| {
            if let Some(place) = left.get_mut(count) {
                *place = old;
                count += 1;
            }
        });
        cache.quarantine_room -= stride * grown as isize;
        for &old in left.iter().take(count) {
            if !cache.bin(class).ready.push(old) {
                self.flush_half(cache, class, old)?;
            }
        }
        Ok(())
    }

    /// Gives the older half of the ready slots back to the class, then puts `chunk` in.
    #[cold]
    #[inline(never)]
    fn flush_half(&self, cache: &mut ThreadCache, class: ClassId, chunk: usize) -> Result<(), Violation> {
        let mut batch = [0; BATCH];
        let count = cache.bin(class).ready.take_oldest(&mut batch, false);
        self.give_back(cache.mark, class, batch.get(..count).unwrap_or_default())?;
        cache.bin(class).ready.push(chunk);
        Ok(())
    }

    fn give_back(&self, mark: u8, class: ClassId, chunks: &[usize]) -> Result<(), Violation> {
        let outcome = self.class(class).lock().give_back(self.ground(), mark, chunks);
        outcome.map_err(|NotOwned(chunk)| not_owned(chunk, Operation::Free))
    }

    /// Gives everything in a cache back: its thread ends, or memory is asked back.
    #[cold]
    pub(crate) fn flush(&self, cache: &mut ThreadCache) -> Result<(), Violation> {
        for class in ClassId::all() {
            let mut batch = [0; BATCH];
            loop {
                let count = cache.bin(class).ready.take_oldest(&mut batch, true);
                if count == 0 {
                    break;
                }
                self.give_back(cache.mark, class, batch.get(..count).unwrap_or_default())?;
            }
            let mut held = [0; crate::quarantine::PLACES];
            let mut count = 0;
            let left = cache.bin(class).ring.drain(|chunk| {
                if let Some(place) = held.get_mut(count) {
                    *place = chunk;
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

    /// Everything that is not the start of a small chunk given back in the usual way: over-aligned, zero-sized
    /// and large chunks, unusual pairs of functions that are allowed, and everything that is wrong.
    #[cold]
    #[inline(never)]
    fn free_unusual(&self, cache: &mut ThreadCache, chunk: usize, demand: Demand) -> Result<(), Violation> {
        use super::locate::Located;
        let located = self.locate(chunk, Operation::Free)?;
        located.check_demand(chunk, &demand, self.options.mismatch)?;
        match located {
            Located::Small(small) => {
                crate::protections::with_protections!(cache.set, P => {
                    if P::neighbours(&self.options) {
                        self.check_neighbours::<<P as Protections>::Crc>(
                            small.region, small.slot.index, small.class, small.start, small.fields)?;
                    } else if small.end() == small.class.capacity() && P::canary(&self.options) {
                        self.check_next_header::<<P as Protections>::Crc>(
                            small.region, small.slot.index, small.class, small.start, small.fields)?;
                    }
                    let atomic = P::atomic_free(&self.options, cache.mark == state::SHARED_MARK);
                    if atomic
                        && small.slot.state.compare_exchange(
                            state::LIVE, cache.mark, Ordering::AcqRel, Ordering::Relaxed).is_err()
                    {
                        return Err(not_owned(chunk, Operation::Free));
                    }
                    self.retire::<P>(cache, small.class, small.slot, small.start, small.fields)
                })
            }
            Located::ZeroSized(region, _) => {
                self.zero_sized.lock().give_back(region, chunk);
                Ok(())
            }
            Located::Large(_) => {
                if self.secondary.release(self.large_ground(), chunk) {
                    Ok(())
                } else {
                    Err(not_owned(chunk, Operation::Free))
                }
            }
        }
    }
}
