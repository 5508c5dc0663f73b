//! Guarded slots: chunks with pages of their own, between guard pages, inaccessible when freed.
//!
//! ```text
//!  | guard |  up to 15 more pages, inaccessible unless used  | last page          | guard | …
//!                                                    canary | chunk, right-aligned |
//! ```
//!
//! What stops only later elsewhere (overflow, use after free, of reads as well as writes) faults here at the access. A chunk
//! ends where its slot does, as near as its alignment allows; one in eight begins where its pages
//! begin, so that underflows fault too. What lies next to it in its pages is canary. A slot is used again as late as possible.
//!
//! [`allocate`] hands slots out and [`free`] takes them back; [`inspect`] only looks. [`table`] has what is known about each slot, [`queue`]
//! the order in which they are used, [`surroundings`] the canary.
//!
//! Cost: two system calls a chunk. Profiles for production sample, `fuzz` guards all that fit. The number of mappings is
//! bounded by three a slot, however long the process runs: the last page of each slot is set apart from the pages
//! beside it by advice that means nothing for such memory, so that making it accessible neither splits nor joins mappings.

mod allocate;
mod free;
mod inspect;
mod queue;
mod surroundings;
mod table;

use crate::budget::Budget;
use crate::chunk::checksum::Seal;
use crate::options::Options;
use crate::os::lock::{Lock, RawLock};
use crate::os::mapping::{self, PAGE};
use crate::place::reserve_somewhere;
use crate::random::Random;
use crate::trace::depot::{DEPOT_BYTES, Depot};
use core::sync::atomic::{AtomicUsize, Ordering};
use queue::Queue;
pub(crate) use table::Chunk;
use table::{Entry, Table, state};

/// Pages that a chunk may take.
const MOST_PAGES: usize = 16;

/// The largest guarded chunk, in bytes.
pub(crate) const GUARDED_MAX: usize = MOST_PAGES * PAGE;

/// Bytes from one slot to the next: a guard page and the pages of the chunk.
const STRIDE: usize = PAGE + GUARDED_MAX;

/// One chunk in so many is left-aligned.
const LEFT_ALIGNED_ONE_IN: u32 = 8;

/// What uninitialised memory is filled with, if it is not zeroed: no valid pointer, no small number.
pub(crate) const PATTERN: u8 = 0xaa;

struct State {
    queue: Queue,
    random: Random,
    /// The pool could not be made, and is not tried again.
    refused: bool,
}

/// The guarded slots of a heap. They are mapped when the first is needed.
pub(crate) struct Guarded {
    state: Lock<State>,
    /// Where the slots begin; zero before they are mapped.
    base: AtomicUsize,
    bytes: AtomicUsize,
    table: Table,
    /// The traces of those who allocate and free; without memory where only a few chunks are guarded.
    depot: Depot,
    /// Slots that there may be.
    most: u32,
    least_align: usize,
    pattern: bool,
    /// Whether freed slots keep their memory: where every allocation is guarded, the page fault would be half of the cost.
    keeps_pages: bool,
}

/// What the pool needs of its heap.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) budget: &'a Budget,
    pub(crate) seal: &'a Seal,
}

impl Guarded {
    /// Sets a pool up in zeroed memory, which is a valid one without slots.
    pub(crate) fn init(&mut self, options: &Options, random: Random) {
        self.most = if options.sample_rate == 0 { 0 } else { options.guarded_slots };
        self.least_align = usize::from(options.guarded_align).next_power_of_two();
        self.pattern = options.fill_pattern;
        self.keeps_pages = options.sample_rate == 1;
        let mut state = self.state.lock();
        state.queue = Queue::EMPTY;
        state.random = random;
        state.refused = false;
    }

    /// The locks, for fork handlers.
    pub(crate) fn for_each_lock(&self, mut visit: impl FnMut(&RawLock)) {
        visit(self.state.raw());
        visit(self.depot.lock());
    }

    /// Maps the slots.
    #[cold]
    fn map(&self, state: &mut State) -> bool {
        let mut slots = self.most as usize;
        while slots > 0 {
            if self.table.map(slots, &mut state.random).is_ok() {
                let bytes = slots * STRIDE + PAGE;
                if let Ok(base) = reserve_somewhere(bytes, &mut state.random) {
                    mapping::advise_no_huge(base, bytes);
                    // SAFETY: the pool's lock is held.
                    let places = unsafe { self.table.places() };
                    for slot in 0..slots {
                        state.queue.push(places, slot as u16);
                    }
                    for slot in (1..slots).rev() {
                        places.swap(slot, state.random.below(slot as u32 + 1) as usize);
                    }
                    if self.keeps_pages {
                        self.map_depot(&mut state.random);
                    }
                    self.bytes.store(bytes, Ordering::Release);
                    self.base.store(base, Ordering::Release);
                    return true;
                }
                self.table.unmap();
            }
            // A limit on address space: fewer slots are better than none.
            slots /= 2;
        }
        state.refused = true;
        false
    }

    /// Maps the depot; without the memory for it, traces are kept with the slots.
    fn map_depot(&self, random: &mut Random) {
        if let Ok(start) = reserve_somewhere(DEPOT_BYTES, random)
            && self.depot.settle(start).is_err()
        {
            mapping::unmap(start, DEPOT_BYTES);
        }
    }

    /// Where traces are kept.
    pub(crate) fn depot(&self) -> &Depot {
        &self.depot
    }

    /// A slot that may be used, and its number.
    fn take(&self) -> Option<(&Entry, usize)> {
        let mut state = self.state.lock();
        if self.base.load(Ordering::Relaxed) == 0 && (state.refused || self.most == 0 || !self.map(&mut state)) {
            return None;
        }
        // SAFETY: the pool's lock is held.
        let places = unsafe { self.table.places() };
        let State { queue, random, .. } = &mut *state;
        let slot = usize::from(queue.pop(places, random)?);
        if let Some(next) = queue.next(places) {
            self.table.fetch(usize::from(next));
        }
        let entry = self.table.entry(slot)?;
        entry.state.store(state::OPENING, Ordering::Relaxed);
        Some((entry, slot))
    }

    fn put_back(&self, slot: usize) {
        let mut state = self.state.lock();
        // SAFETY: the pool's lock is held.
        state.queue.push(unsafe { self.table.places() }, slot as u16);
    }

    /// Where the pages of a slot end and the guard page behind it begins.
    fn end_of(&self, slot: usize) -> usize {
        self.base.load(Ordering::Relaxed) + (slot + 1) * STRIDE
    }

    /// The slot that an address lies in, guard pages included.
    fn slot_of(&self, address: usize) -> Option<usize> {
        let base = self.base.load(Ordering::Acquire);
        let distance = address.wrapping_sub(base);
        // The last page is a guard page of no slot's.
        (base != 0 && distance < self.bytes.load(Ordering::Relaxed)).then_some(distance / STRIDE)
    }

    /// Whether an address lies among the guarded slots.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.slot_of(address).is_some()
    }

    /// Gives back the memory of freed slots; `false` when none had any.
    pub(crate) fn purge(&self) -> bool {
        let mut released = false;
        // Nobody opens a slot meanwhile.
        let _state = self.state.lock();
        for (slot, entry) in self.entries() {
            if entry.state.load(Ordering::Acquire) == state::FREED && entry.dirty.load(Ordering::Relaxed) {
                let end = self.end_of(slot);
                if mapping::release(end - GUARDED_MAX, GUARDED_MAX).is_ok() {
                    entry.dirty.store(false, Ordering::Relaxed);
                    released = true;
                }
            }
        }
        released
    }

    fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        (0..self.table.slots()).filter_map(|slot| Some((slot, self.table.entry(slot)?)))
    }

    /// Bytes of the table and of the depot.
    pub(crate) fn table_bytes(&self) -> usize {
        self.table.bytes() + self.depot.bytes()
    }

    /// After a fork, in the child: what other threads were about will never be finished.
    pub(crate) fn restart_in_child(&self) {
        for (_, entry) in self.entries() {
            match entry.state.load(Ordering::Relaxed) {
                state::HELD => entry.state.store(state::LIVE, Ordering::Relaxed),
                // The slot is lost to the child.
                state::CLOSING | state::OPENING => entry.state.store(state::FREED, Ordering::Relaxed),
                _ => {}
            }
        }
    }

    /// Another source of randomness: after a fork.
    pub(crate) fn reseed(&self, random: Random) {
        self.state.lock().random = random;
    }

    /// Unmaps everything: the heap is going away.
    pub(crate) fn unmap_all(&self) {
        let base = self.base.swap(0, Ordering::AcqRel);
        if base != 0 {
            mapping::unmap(base, self.bytes.load(Ordering::Relaxed));
            self.table.unmap();
            self.depot.unmap();
        }
    }
}

#[cfg(test)]
mod tests;
