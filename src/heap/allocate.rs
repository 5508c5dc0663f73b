//! Allocation: pick a ready slot → seal it → hand it out.

use super::core::Core;
use crate::chunk::checksum;
use crate::chunk::header::{Fields, Header, MAX_ALIGN_LOG2, Origin};
use crate::chunk::{canary, contents};
use crate::os::mapping::{OutOfMemory, PAGE};
use crate::primary::class::BATCH;
use crate::primary::region::state;
use crate::protections::Protections;
use crate::size_class::{ClassId, MIN_ALIGN, TABLE_MAX};
use crate::thread_cache::ThreadCache;
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::{AtomicU8, Ordering};

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

/// Logarithm of the alignment that every chunk has.
pub(crate) const MIN_ALIGN_LOG2: u32 = MIN_ALIGN.ilog2();

impl Core {
    /// A chunk of `size` bytes at a multiple of [`MIN_ALIGN`].
    #[inline(always)]
    pub(crate) fn allocate<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        origin: Origin,
    ) -> Result<usize, Failure> {
        // One comparison for "zero" and "not in the table".
        if size.wrapping_sub(1) >= TABLE_MAX {
            return self.allocate_unusual::<P>(cache, size, MIN_ALIGN_LOG2, origin);
        }
        let class = ClassId::for_table_size(size);
        self.allocate_in_class::<P>(cache, class, size, Fields::allocated(size, MIN_ALIGN_LOG2, origin))
    }

    /// A chunk of a class, from the cache or, when that has none, from the slabs.
    #[inline(always)]
    fn allocate_in_class<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        class: ClassId,
        size: usize,
        fields: Fields,
    ) -> Result<usize, Failure> {
        let mark = cache.mark;
        let bin = cache.bin(class);
        let capacity = bin.capacity as usize;
        let chunk = match bin.ready.pop() {
            Some(chunk) => chunk,
            None => self.refill(cache, class)?,
        };
        let slot = self.arena.own_region(chunk).own_slot(chunk);
        self.hand_out::<P>(slot.state, mark, chunk, size, capacity, fields)?;
        Ok(chunk)
    }

    /// Verifies that nobody touched a slot while it was free, and seals it for the program.
    #[inline(always)]
    fn hand_out<P: Protections>(
        &self,
        slot: &AtomicU8,
        mark: u8,
        chunk: usize,
        size: usize,
        capacity: usize,
        fields: Fields,
    ) -> Result<(), Violation> {
        if slot.load(Ordering::Relaxed) != mark {
            return Err(not_owned(chunk, Operation::Allocate));
        }
        let secrets = &self.seal.secrets;
        let old = checksum::read(chunk);
        if old.checksum() != secrets.free::<P::Crc>(chunk, old.fields().0) {
            return Err(self.damaged_free_header(chunk, capacity, old));
        }
        let memory = core::ptr::with_exposed_provenance_mut::<u8>(chunk);
        if P::write_after_free(&self.options) && !(capacity > PAGE && old.fields() == Fields::FRESH) {
            // A fresh slot of several pages is not read: that would fault every page in twice.
            // SAFETY: the slot is this cache's and `capacity` bytes long, a multiple of 8.
            if !unsafe { contents::is_zero(memory, capacity) } {
                return Err(written_after_free(chunk, capacity, old.fields()));
            }
        }
        let sum = secrets.live::<P::Crc>(chunk, fields.0);
        if P::canary(&self.options) {
            // SAFETY: as above, and nobody else reads or writes the slot.
            unsafe { canary::fill(memory, size, capacity, secrets.canary(sum)) };
        }
        checksum::write(chunk, Header::seal(fields, sum));
        // Last: whoever sees the slot live sees header and canaries in order.
        slot.store(state::LIVE, Ordering::Release);
        Ok(())
    }

    /// Takes a batch of slots from the class; one to hand out, the others lie ready, lowest address on top.
    #[cold]
    #[inline(never)]
    fn refill(&self, cache: &mut ThreadCache, class: ClassId) -> Result<usize, OutOfMemory> {
        self.refresh_randomness(cache);
        let mut batch = [0; BATCH];
        let wanted = usize::from(cache.bin(class).ready.most).div_ceil(2).clamp(1, BATCH);
        let batch = batch.get_mut(..wanted).unwrap_or_default();
        let mark = cache.mark;
        let taken = self.class(class).lock().take(self.ground(), mark, &mut cache.random, batch)?;
        let (&mut first, others) = batch.get_mut(..taken).and_then(<[usize]>::split_first_mut).ok_or(OutOfMemory)?;
        let ready = &mut cache.bin(class).ready;
        for &chunk in others.iter().rev() {
            // The bin is empty and holds at least twice a batch.
            ready.push(chunk);
        }
        Ok(first)
    }

    /// Everything but small sizes at ordinary alignment: zero, medium, large.
    #[inline(never)]
    pub(crate) fn allocate_unusual<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, Failure> {
        if size == 0 && align_log2 <= MIN_ALIGN_LOG2 {
            self.refresh_randomness(cache);
            return Ok(self.zero_sized.lock().take(&self.arena, &mut cache.random, origin)?);
        }
        if let Some(class) = ClassId::for_size(size)
            && self.arena.fits(class)
        {
            let fields = Fields::allocated(size, align_log2, origin);
            match self.allocate_in_class::<P>(cache, class, size, fields) {
                // A small arena (`ulimit -v`) may have run out of regions while there is memory for mappings.
                Err(Failure::OutOfMemory) if size >= PAGE => {}
                outcome => return outcome,
            }
        }
        self.allocate_large(size, align_log2, origin)
    }

    #[cold]
    #[inline(never)]
    fn allocate_large(&self, size: usize, align_log2: u32, origin: Origin) -> Result<usize, Failure> {
        if size > self.max_alloc {
            return Err(Failure::OutOfMemory);
        }
        Ok(self.secondary.allocate(self.large_ground(), size, align_log2, origin)?)
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
            if size.wrapping_sub(1) >= TABLE_MAX {
                return self.allocate_unusual::<P>(cache, size, align_log2, origin);
            }
            let class = ClassId::for_table_size(size);
            return self.allocate_in_class::<P>(cache, class, size, Fields::allocated(size, align_log2, origin));
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
        self.allocate_large(size, align_log2, origin)
    }

    /// An over-aligned chunk inside a slot: the header stays where the slot begins, and the bytes between it
    /// and the chunk are canaries.
    fn allocate_over_aligned<P: Protections>(
        &self,
        cache: &mut ThreadCache,
        class: ClassId,
        size: usize,
        fields: Fields,
    ) -> Result<usize, Failure> {
        let mark = cache.mark;
        let capacity = class.capacity();
        let start = match cache.bin(class).ready.pop() {
            Some(chunk) => chunk,
            None => self.refill(cache, class)?,
        };
        let chunk = start.next_multiple_of(1 << fields.align_log2());
        let gap = chunk - start;
        let slot = self.arena.own_region(start).own_slot(start);
        self.hand_out::<P>(slot.state, mark, start, gap + size, capacity, fields)?;
        if P::canary(&self.options) {
            let word = self.seal.secrets.canary(checksum::read(start).checksum());
            // SAFETY: the gap lies in the slot that was just handed to us; it is a multiple of 16 bytes.
            unsafe { canary::fill(core::ptr::with_exposed_provenance_mut(start), 0, gap, word) };
        }
        Ok(chunk)
    }

    #[cold]
    #[inline(never)]
    fn damaged_free_header(&self, chunk: usize, capacity: usize, seen: Header) -> Violation {
        let expected = self.seal.free(chunk, seen.fields().0);
        Violation::new(
            Kind::WriteAfterFree,
            Operation::Allocate,
            chunk,
            "the header of a free slot was changed: a write after free, or past the end of the chunk in front",
        )
        .chunk(capacity, None)
        .values(Header::seal(seen.fields(), expected).0, seen.0)
        .at(-8)
    }
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
fn written_after_free(chunk: usize, capacity: usize, fields: Fields) -> Violation {
    let memory = core::ptr::with_exposed_provenance::<u8>(chunk);
    // SAFETY: the slot is the caller's and `capacity` bytes long.
    let offset = unsafe { contents::first_nonzero(memory, capacity) }.unwrap_or_default();
    // SAFETY: the word that contains the offset lies in the slot.
    let seen = unsafe { memory.add(offset & !7).cast::<u64>().read() };
    let violation = Violation::new(
        Kind::WriteAfterFree,
        Operation::Allocate,
        chunk,
        "a freed slot is zeroed, and this one is not zero any more",
    );
    let violation = match fields.origin() {
        Some(origin) => violation.chunk(fields.size(), Some(origin)),
        None => violation.chunk(capacity, None),
    };
    violation.values(0, seen).at(offset as isize)
}
