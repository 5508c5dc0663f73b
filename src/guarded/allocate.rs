//! Handing a slot out: its pages opened, what surrounds the chunk filled, and who asked for it noted.

use super::surroundings::{self, back_of, canary_of, front_of};
use super::table::{Chunk, Entry, state};
use super::{GUARDED_MAX, Ground, Guarded, LEFT_ALIGNED_ONE_IN, PATTERN};
use crate::chunk::header::Origin;
use crate::os::mapping::{self, PAGE, page_ceil, page_floor};
use crate::os::prefetch;
use crate::random::Random;
use crate::size_class::MIN_ALIGN;
use crate::trace::{Caller, Taken};
use core::sync::atomic::Ordering;

/// Of a chunk, so many bytes are fetched ahead: more lines at a time a CPU does not bring.
const FETCHED: usize = 512;

impl Guarded {
    /// The alignment that a chunk gets. Where none is asked for, the type that it is for is not known, but its size is a
    /// multiple of its alignment: so a chunk can end right at the guard page unless its size was put together.
    pub(super) fn alignment(&self, size: usize, align_log2: u32, origin: Origin) -> usize {
        let asked = 1_usize << align_log2;
        let natural = (1 << size.trailing_zeros().min(MIN_ALIGN.ilog2())).max(self.least_align);
        match origin {
            Origin::Malloc => natural,
            // Clang counts on `__STDCPP_DEFAULT_NEW_ALIGNMENT__`, and clears new memory by instructions that fault elsewhere.
            Origin::New | Origin::NewArray if self.least_align > 1 && size >= MIN_ALIGN => MIN_ALIGN,
            Origin::New | Origin::NewArray => natural,
            // A C program that asks for less than malloc gives may rely on what malloc gives.
            Origin::Memalign | Origin::AlignedNew | Origin::AlignedNewArray => asked.max(natural),
            Origin::Rust => asked,
        }
    }

    /// A chunk in a slot of its own; `None` when it is unfit or no slot is to be had. `caller` is asked for once it is certain that
    /// one is.
    pub(crate) fn allocate(
        &self,
        ground: Ground<'_>,
        random: &mut Random,
        size: usize,
        align_log2: u32,
        origin: Origin,
        caller: impl FnOnce() -> Caller<Taken>,
    ) -> Option<usize> {
        if size == 0 || size > GUARDED_MAX || align_log2 > PAGE.ilog2() {
            return None;
        }
        let (entry, slot) = self.take()?;
        let kept = self.table.kept(slot, &self.depot)?;
        let end = self.end_of(slot);
        let align = self.alignment(size, align_log2, origin);
        let left = random.below(LEFT_ALIGNED_ONE_IN) == 0;
        let address = if left { end - page_ceil(size) } else { (end - size) & !(align - 1) };
        let start = page_floor(address);
        // The slot is this thread's: nothing here needs an operation that waits until all writes before it have found their lines.
        if !entry.set_apart.load(Ordering::Relaxed) {
            entry.set_apart.store(true, Ordering::Relaxed);
            mapping::set_apart(end - PAGE, PAGE);
        }
        if ground.budget.pay(end - start, || mapping::commit(start, end - start)).is_err() {
            self.give_up(entry, slot);
            return None;
        }
        let chunk = Chunk { address, size, origin, align_log2 };
        // Long not used, so far away: the CPU brings the lines all at a time while the stack is looked at.
        let lines = front_of(address)..back_of(address + size, end).min(address + FETCHED);
        lines.step_by(prefetch::LINE).for_each(prefetch::fetch_to_write);
        entry.describe(&chunk, &caller(), kept);
        self.dress(ground, entry, &chunk, end);
        entry.state.store(state::LIVE, Ordering::Release);
        Some(address)
    }

    fn give_up(&self, entry: &Entry, slot: usize) {
        let before = if entry.chunk().is_some() { state::FREED } else { state::UNUSED };
        entry.state.store(before, Ordering::Relaxed);
        self.put_back(slot);
    }

    /// Fills the chunk and what surrounds it.
    fn dress(&self, ground: Ground<'_>, entry: &Entry, chunk: &Chunk, end: usize) {
        let word = canary_of(ground.seal, chunk);
        let Chunk { address, size, .. } = *chunk;
        let dirty = entry.dirty.load(Ordering::Relaxed);
        entry.dirty.store(true, Ordering::Relaxed);
        // SAFETY: the pages from the one that the chunk starts in to the end of the slot are accessible and the caller's.
        unsafe {
            surroundings::fill(front_of(address), address, word);
            surroundings::fill(address + size, back_of(address + size, end), word);
            if self.pattern {
                core::ptr::with_exposed_provenance_mut::<u8>(address).write_bytes(PATTERN, size);
            } else if dirty {
                core::ptr::with_exposed_provenance_mut::<u8>(address).write_bytes(0, size);
            }
        }
    }
}
