//! Allocation: pick a ready slot → seal it → hand it out.

use super::core::Core;
use crate::chunk::checksum;
use crate::chunk::extent::Extent;
use crate::chunk::header::{Fields, Header, MAX_ALIGN_LOG2, Origin};
use crate::chunk::vectors::Vectors;
use crate::chunk::{canary, contents};
use crate::guarded::{GUARDED_MAX, PATTERN};
use crate::os::mapping::{OutOfMemory, PAGE};
use crate::place::reserve_somewhere;
use crate::primary::class::BATCH;
use crate::primary::region::{OwnedSlot, state};
use crate::primary::slab::slots_log2;
use crate::protections::{Protections, with_mixture};
use crate::secondary::Contents;
use crate::size_class::{ClassId, FINE_MAX, MIN_ALIGN, MIN_ALIGN_LOG2, SMALL_MAX};
use crate::thread_cache::ThreadCache;
use crate::trace::remembered::REMEMBERED_BYTES;
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::Ordering;

/// Why there is no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// NULL and ENOMEM.
    OutOfMemory,
    /// The slot that was picked has been tampered with.
    Violation(Violation),
}

impl From<OutOfMemory> for Failure {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl Core {
    /// The fast path: hands out a ready slot that passes all checks, for requests of at most `LONGEST` bytes.
    ///
    /// `None`, and nothing changed, in every other case: [`Self::allocate_aligned`] then tells it in full.
    #[inline(always)]
    pub(crate) fn allocate_ready<P: Protections, const LONGEST: usize>(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Option<usize> {
        // One comparison for "zero" and "too long".
        if size.wrapping_sub(1) >= LONGEST || align_log2 > MIN_ALIGN_LOG2 {
            return None;
        }
        let mark = cache.mark;
        let class = if LONGEST <= FINE_MAX { ClassId::for_fine_size(size) } else { ClassId::for_size(size)? };
        let bin = cache.bin(class);
        let slot = bin.ready.last();
        let extent = &bin.extent;
        let capacity = extent.capacity();
        // SAFETY: the class of a request of at most `LONGEST` bytes holds no more, because `LONGEST` is a class's capacity.
        // Said here, so that the code for longer ones is left out.
        unsafe { core::hint::assert_unchecked(capacity <= LONGEST) };
        // Where no slot is ready, this is one that the cache does not own.
        if !self.is_untouched::<P>(slot, mark, extent) {
            return None;
        }
        // SAFETY: a slot with the cache's mark is not `NONE`.
        unsafe { bin.ready.drop_last() };
        let fields = Fields::allocated(size, align_log2, origin);
        self.seal_for_program::<P>(LONGEST <= FINE_MAX, slot, size, capacity, fields);
        Some(slot.chunk)
    }

    /// Whether a slot is the cache's, and nobody wrote to it while it was free.
    #[inline(always)]
    fn is_untouched<P: Protections>(&self, slot: OwnedSlot, mark: u8, extent: &Extent) -> bool {
        let chunk = slot.chunk;
        if slot.state().load(Ordering::Relaxed) != mark {
            return false;
        }
        let old = checksum::read(chunk);
        if old.checksum() != self.seal.secrets.free_seal(chunk, old.fields().0) {
            return false;
        }
        if !P::write_after_free(&self.options) {
            return true;
        }
        let memory = core::ptr::with_exposed_provenance(chunk);
        let capacity = extent.capacity();
        // SAFETY: the slot is this cache's and of this extent.
        unsafe {
            if capacity > PAGE && old.fields() == Fields::FRESH {
                contents::is_zero_at_edges(memory, capacity)
            } else {
                P::Vectors::is_zero(memory, extent)
            }
        }
    }

    /// Writes header and canaries, and makes the slot the program's.
    #[inline(always)]
    fn seal_for_program<P: Protections>(
        &self,
        fine: bool,
        slot: OwnedSlot,
        size: usize,
        capacity: usize,
        fields: Fields,
    ) {
        let chunk = slot.chunk;
        let secrets = &self.seal.secrets;
        let sum = secrets.checksum::<P::Crc>(chunk, fields.0);
        if P::canary(&self.options) {
            let memory = core::ptr::with_exposed_provenance_mut::<u8>(chunk);
            // SAFETY: the slot is this cache's and `capacity` bytes long, a multiple of 8; slack of fine classes is shorter than 16
            // bytes. Slots that are zeroed when they are freed, and found to be so still, are zero.
            unsafe {
                if fine && P::zero_on_free(&self.options) && P::write_after_free(&self.options) {
                    canary::fill_window::<P::Vectors>(memory, size, capacity, secrets, sum);
                } else {
                    canary::fill(memory, size, capacity, secrets.canary(sum));
                }
            }
        }
        checksum::write(chunk, Header::seal(fields, sum));
        // Last: whoever sees the slot live sees header and canaries in order.
        slot.state().store(state::LIVE, Ordering::Release);
    }

    /// A chunk of a class, from the cache or, when that has none, from the slabs.
    fn allocate_in_class<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        class: ClassId,
        size: usize,
        fields: Fields,
    ) -> Result<usize, Failure> {
        let mark = cache.mark;
        let bin = cache.bin(class);
        let extent = bin.extent;
        let slot = match bin.ready.pop() {
            Some(slot) => slot,
            None => self.refill(cache, class)?,
        };
        let chosen = claim_chosen(slot, mark);
        self.hand_out::<P>(slot, mark, &extent, fields)?;
        if chosen {
            self.record_slot(cache, slot, class, size);
        }
        Ok(slot.chunk)
    }

    /// Verifies that nobody touched a slot while it was free, and seals it for the program.
    ///
    /// The chunk of an over-aligned one lies inside the slot: the header stays where the slot begins, and the bytes between are canaries.
    fn hand_out<P: Protections>(
        &self,
        slot: OwnedSlot,
        mark: u8,
        extent: &Extent,
        fields: Fields,
    ) -> Result<(), Violation> {
        let chunk = slot.chunk;
        let capacity = extent.capacity();
        if !self.is_untouched::<P>(slot, mark, extent) {
            let old = checksum::read(chunk);
            if slot.state().load(Ordering::Relaxed) != mark {
                return Err(not_owned(chunk, Operation::Allocate));
            }
            if old.checksum() != self.seal.secrets.free_seal(chunk, old.fields().0) {
                return Err(self.damaged_free_header(chunk, capacity, old, Operation::Allocate));
            }
            return Err(written_after_free(chunk, capacity, old.fields(), Operation::Allocate));
        }
        let gap = fields.chunk_in_slot(chunk) - chunk;
        // Before the slot is live: from then on others verify these canaries too, as neighbours, in an audit, in a forked child.
        if P::canary(&self.options) && gap != 0 {
            let word = self.seal.secrets.canary(self.seal.secrets.checksum::<P::Crc>(chunk, fields.0));
            // SAFETY: the gap lies in the slot, which is the cache's; it is a multiple of 16 bytes.
            unsafe { canary::fill(core::ptr::with_exposed_provenance_mut(chunk), 0, gap, word) };
        }
        self.seal_for_program::<P>(false, slot, gap + fields.size(), capacity, fields);
        Ok(())
    }

    /// Takes a batch of slots from the class; one to hand out, the others lie ready, lowest address on top.
    #[cold]
    #[inline(never)]
    fn refill(&self, cache: &mut ThreadCache, class: ClassId) -> Result<OwnedSlot, OutOfMemory> {
        self.refresh_randomness(cache);
        self.decay_if_due();
        let mut batch = [OwnedSlot::NONE; BATCH];
        let wanted = cache.open_bin(class).ready.next_batch().clamp(1, BATCH);
        let batch = batch.get_mut(..wanted).unwrap_or_default();
        let mark = cache.mark;
        let (random, bin) = cache.random_and_bin(class);
        let mut taken = self.class(class).lock().take(self.ground(), mark, random, &mut bin.preferred, batch);
        // What is not small may yet have a mapping of its own, and room is made when that is refused.
        if taken.is_err() && class.capacity() < PAGE && !self.lacks_region(class) && self.make_room_for(class) {
            taken = self.class(class).lock().take(self.ground(), mark, random, &mut bin.preferred, batch);
        }
        let taken = taken?;
        let (&first, others) = batch.get(..taken).and_then(<[OwnedSlot]>::split_first).ok_or(OutOfMemory)?;
        cache.pass_allocations(taken);
        cache.choose_for_profile(class, batch.get(..taken).unwrap_or_default());
        let bin = cache.bin(class);
        for &slot in others.iter().rev() {
            // The bin is empty and holds at least twice a batch.
            bin.ready.push(slot);
        }
        Ok(first)
    }

    /// Whether a class can't have slots for want of a region, however much memory there is.
    #[cold]
    fn lacks_region(&self, class: ClassId) -> bool {
        self.arena.is_full() && !self.class(class).lock().has_room(&self.arena)
    }

    /// A chunk that its class has no slot for. A small arena (`ulimit -v`) may have run out of regions while there is memory for
    /// mappings, and while other classes have slots.
    ///
    /// Of the latter only those will do whose slack may be long: what the fast paths know of the fine classes is that it is not.
    #[cold]
    #[inline(never)]
    fn allocate_elsewhere<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        /// What a mapping of its own takes for the smallest chunk, and so the longest slot that is better.
        const MAPPING: usize = 4 * PAGE;
        if size < PAGE {
            // Otherwise it is memory that was refused, and more of it would be for a chunk with a page of its own.
            if !self.arena.is_full() {
                return Err(Failure::OutOfMemory);
            }
            let longer = |class: &ClassId| class.capacity() > FINE_MAX.max(size) && class.stride() <= MAPPING;
            for class in ClassId::all().filter(longer) {
                if !self.class(class).lock().has_room(&self.arena) {
                    continue;
                }
                let fields = Fields::allocated(size, align_log2, origin);
                match self.allocate_in_class::<P>(cache, class, size, fields) {
                    Err(Failure::OutOfMemory) => {}
                    outcome => return outcome,
                }
            }
        }
        self.allocate_large(cache, size, align_log2, origin, self.contents())
    }

    /// Gives back what other classes and the secondary hold and do not need, because the system or the budget refuses a
    /// slab; `false` when that was nothing.
    #[cold]
    #[inline(never)]
    fn make_room_for(&self, class: ClassId) -> bool {
        let purged = self.purge_classes();
        let slab_bytes = class.stride() << slots_log2(class);
        self.secondary.make_room(self.large_ground(), slab_bytes).is_ok() || purged
    }

    /// The same for a large chunk that would exceed the budget where it is: a copy would need room for both. `false`, too, where
    /// it was not the budget that refused.
    #[cold]
    pub(super) fn make_room_to_grow(&self, old_size: usize, size: usize) -> bool {
        let more = size.saturating_sub(old_size);
        if self.budget.allows(more.saturating_add(PAGE)) || !self.budget.could_hold(size) {
            return false;
        }
        let purged = self.purge_classes();
        self.secondary.make_room(self.large_ground(), more).is_ok() || purged
    }

    /// Gives back what the classes hold and nobody has; `false` when that was no slab.
    fn purge_classes(&self) -> bool {
        let before = self.budget.used();
        for class in &self.classes {
            class.lock().purge(self.ground());
        }
        self.budget.used() < before
    }

    /// Everything but small sizes at ordinary alignment: zero, medium, large.
    fn allocate_unusual<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        if size == 0 {
            self.refresh_randomness(cache);
            let taken = self.zero_sized.lock().take(&self.arena, &mut cache.random, origin);
            // Where a small arena (`ulimit -v`) has no address left: the start of a guard, as over-aligned ones have.
            return taken.or_else(|OutOfMemory| self.allocate_large(cache, 0, align_log2, origin, self.contents()));
        }
        if let Some(class) = ClassId::for_size(size)
            && self.arena.fits(class)
        {
            let fields = Fields::allocated(size, align_log2, origin);
            match self.allocate_in_class::<P>(cache, class, size, fields) {
                Err(Failure::OutOfMemory) => return self.allocate_elsewhere::<P>(cache, size, align_log2, origin),
                outcome => return outcome,
            }
        }
        self.allocate_large(cache, size, align_log2, origin, self.contents())
    }

    /// What large chunks hold when they are new, if the caller does not care.
    fn contents(&self) -> Contents {
        if self.options.zero_on_free { Contents::Zeroes } else { Contents::Any }
    }

    #[cold]
    #[inline(never)]
    fn allocate_large(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
        contents: Contents,
    ) -> Result<usize, Failure> {
        if size > self.max_alloc {
            return Err(Failure::OutOfMemory);
        }
        self.decay_if_due();
        let map = || self.secondary.allocate(self.large_ground(), size, align_log2, origin, contents);
        // Each class keeps a slab or two for its next request: together they may be all of a small limit.
        let room = || self.budget.could_hold(size) && self.purge_classes();
        let chunk = map().or_else(|refused| if room() { map() } else { Err(refused) })?;
        self.record_if_hit(cache, chunk, size);
        Ok(chunk)
    }

    /// A chunk of `size` bytes at a multiple of 2^`align_log2`, guarded if it is this one's turn.
    #[inline(never)]
    pub(crate) fn allocate(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        if cache.set.is_none()
            && let Some(chunk) = self.allocate_sampled(cache, size, align_log2, origin)
        {
            return Ok(chunk);
        }
        let chunk = with_mixture!(cache.checks, P => self.allocate_aligned::<P>(cache, size, align_log2, origin))?;
        self.fill_with_pattern(chunk, size);
        Ok(chunk)
    }

    /// The same, and the chunk is zero whatever new chunks are otherwise.
    ///
    /// A large one is so without a write to it: a sparse gigabyte must not become a resident one.
    pub(crate) fn allocate_zeroed(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        const { assert!(GUARDED_MAX <= SMALL_MAX, "what is longer has a mapping of its own") };
        if size > SMALL_MAX {
            return self.allocate_large(cache, size, align_log2, origin, Contents::Zeroes);
        }
        let chunk = self.allocate(cache, size, align_log2, origin)?;
        self.zero_new(chunk, size);
        Ok(chunk)
    }

    /// Zeroes a new chunk, unless new chunks are zero.
    pub(super) fn zero_new(&self, chunk: usize, size: usize) {
        if !self.options.hands_out_zeroes() {
            // SAFETY: a chunk of so many bytes that nobody else knows yet.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk).write_bytes(0, size) };
        }
    }

    /// Fills a new chunk, unless it is to be zero. Of a large one only so much as programs are likely to read before they
    /// write it: a sparse gigabyte must not become a resident one.
    pub(super) fn fill_with_pattern(&self, chunk: usize, size: usize) {
        const MOST: usize = 1 << 20;
        if self.options.fill_pattern {
            // SAFETY: a chunk of so many bytes that nobody else knows yet.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk).write_bytes(PATTERN, size.min(MOST)) };
        }
    }

    /// Counts an allocation; if it is to be sampled, gives it a guarded slot. `None` where the ordinary way serves it: it was
    /// not its turn, it is unfit, or all slots are in use.
    #[cold]
    fn allocate_sampled(&self, cache: &mut ThreadCache, size: usize, align_log2: u32, origin: Origin) -> Option<usize> {
        if !cache.sampler.falls_on_this(&mut cache.random) {
            return None;
        }
        cache.resume_fast_paths();
        self.refresh_randomness(cache);
        let ground = self.guarded_ground();
        let ThreadCache { random, window, remembered, thread, .. } = &mut *cache;
        if !remembered.is_settled() && self.guarded.depot().is_settled() {
            remembered.settle(reserve_somewhere(REMEMBERED_BYTES, random));
        }
        let caller = || self.caller(window, remembered, thread);
        if let Some(chunk) = self.guarded.allocate(ground, random, size, align_log2, origin, caller) {
            self.record_if_hit(cache, chunk, size);
            return Some(chunk);
        }
        // What is too long for a guarded slot can have a mapping of its own, whose end is guarded too.
        if self.options.sample_rate == 1 && size > GUARDED_MAX {
            let chunk = self.allocate_large(cache, size, align_log2, origin, self.contents()).ok()?;
            self.fill_with_pattern(chunk, size);
            return Some(chunk);
        }
        None
    }

    /// A chunk of `size` bytes at a multiple of 2^`align_log2`.
    #[inline(never)]
    pub(crate) fn allocate_aligned<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        if align_log2 <= MIN_ALIGN_LOG2 {
            if size.wrapping_sub(1) >= FINE_MAX {
                return self.allocate_unusual::<P>(cache, size, align_log2, origin);
            }
            let class = ClassId::for_fine_size(size);
            return match self.allocate_in_class::<P>(cache, class, size, Fields::allocated(size, align_log2, origin)) {
                Err(Failure::OutOfMemory) => self.allocate_elsewhere::<P>(cache, size, align_log2, origin),
                outcome => outcome,
            };
        }
        if size == 0 {
            // A mapping of its own, whose chunk is the start of the guard behind it: inaccessible, like all of no bytes.
            return self.allocate_large(cache, 0, align_log2, origin, self.contents());
        }
        if align_log2 <= MAX_ALIGN_LOG2 {
            let reach = size.saturating_add((1 << align_log2) - MIN_ALIGN);
            if let Some(class) = ClassId::for_size(reach)
                && self.arena.fits(class)
            {
                let fields = Fields::allocated(size, align_log2, origin);
                match self.allocate_over_aligned::<P>(cache, class, size, fields) {
                    Err(Failure::OutOfMemory) => {}
                    outcome => return outcome,
                }
            }
        }
        self.allocate_large(cache, size, align_log2, origin, self.contents())
    }

    /// An over-aligned chunk inside a slot.
    fn allocate_over_aligned<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        class: ClassId,
        size: usize,
        fields: Fields,
    ) -> Result<usize, Failure> {
        let mark = cache.mark;
        let bin = cache.bin(class);
        let extent = bin.extent;
        let slot = match bin.ready.pop() {
            Some(slot) => slot,
            None => self.refill(cache, class)?,
        };
        let chosen = claim_chosen(slot, mark);
        self.hand_out::<P>(slot, mark, &extent, fields)?;
        if chosen {
            self.record_slot(cache, slot, class, size);
        }
        Ok(fields.chunk_in_slot(slot.chunk))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn damaged_free_header(
        &self,
        chunk: usize,
        capacity: usize,
        seen: Header,
        operation: Operation,
    ) -> Violation {
        let expected = self.seal.secrets.free_seal(chunk, seen.fields().0);
        Violation::new(
            Kind::WriteAfterFree,
            operation,
            chunk,
            "the header of a free slot was changed: a write after free, or past the end of the chunk in front",
        )
        .chunk(capacity, None)
        .values(Header::seal(seen.fields(), expected).0, seen.0)
        .at(-8)
    }
}

/// Makes a slot that was chosen for the heap profile an ordinary one of the cache's; `false` when it was not chosen.
fn claim_chosen(slot: OwnedSlot, mark: u8) -> bool {
    // Another cache that believes to own the slot too can't have claimed it: then it is not handed out.
    slot.state().load(Ordering::Relaxed) == state::CHOSEN
        && slot.state().compare_exchange(state::CHOSEN, mark, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// A slot in this cache belongs to somebody else: two racing threads gave it back, and both thought that
/// they were first.
#[cold]
#[inline(never)]
pub(crate) fn not_owned(chunk: usize, operation: Operation) -> Violation {
    Violation::new(Kind::DoubleFree, operation, chunk, "two threads gave the chunk back at the same time")
}

#[cold]
#[inline(never)]
pub(crate) fn written_after_free(chunk: usize, capacity: usize, fields: Fields, operation: Operation) -> Violation {
    let memory = core::ptr::with_exposed_provenance::<u8>(chunk);
    // SAFETY: the slot is the caller's and `capacity` bytes long.
    let offset = unsafe { contents::first_nonzero(memory, capacity) }.unwrap_or_default();
    // SAFETY: the word that contains the offset lies in the slot.
    let seen = unsafe { memory.add(offset & !7).cast::<u64>().read() };
    let violation = Violation::new(
        Kind::WriteAfterFree,
        operation,
        chunk,
        "a freed slot is zeroed, and this one is not zero any more",
    );
    let violation = match fields.origin() {
        Some(origin) => violation.chunk(fields.size(), Some(origin)),
        None => violation.chunk(capacity, None),
    };
    violation.values(0, seen).at(offset as isize)
}

#[cfg(test)]
mod tests;
