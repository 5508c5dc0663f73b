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
//! Cost: two system calls a chunk. Profiles for production sample, `fuzz` guards all that fit. The number of mappings is
//! bounded by three a slot, however long the process runs: the last page of each slot is set apart from the pages
//! beside it by advice that means nothing for such memory, so that making it accessible neither splits nor joins mappings.

mod queue;
mod surroundings;
mod table;

use crate::budget::Budget;
use crate::chunk::checksum::Seal;
use crate::chunk::header::{Fields, Origin};
use crate::options::Options;
use crate::os::lock::{Lock, RawLock};
use crate::os::mapping::{self, PAGE, page_ceil, page_floor};
use crate::os::process;
use crate::primary::arena::reserve_somewhere;
use crate::random::Random;
use crate::size_class::MIN_ALIGN;
use crate::trace::{Caller, History, Trace};
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
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
    live: AtomicU32,
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

/// A live chunk that nobody else can take back while this exists.
struct Held<'a> {
    entry: &'a Entry,
    slot: usize,
    chunk: Chunk,
}

impl Held<'_> {
    fn let_go(self) {
        self.entry.state.store(state::LIVE, Ordering::Release);
    }
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

    /// The lock, for fork handlers.
    pub(crate) fn for_each_lock(&self, mut visit: impl FnMut(&RawLock)) {
        visit(self.state.raw());
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

    /// The alignment that a chunk gets. Where none is asked for, the type that it is for is not known, but its size is a
    /// multiple of its alignment: so a chunk can end right at the guard page unless its size was put together.
    fn alignment(&self, size: usize, align_log2: u32, origin: Origin) -> usize {
        let asked = 1_usize << align_log2;
        let natural = (1 << size.trailing_zeros().min(MIN_ALIGN.ilog2())).max(self.least_align);
        match origin {
            Origin::Malloc | Origin::New | Origin::NewArray => natural,
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
        caller: impl FnOnce() -> Caller,
    ) -> Option<usize> {
        if size == 0 || size > GUARDED_MAX || align_log2 > PAGE.ilog2() {
            return None;
        }
        let (entry, slot) = self.take()?;
        let end = self.end_of(slot);
        let align = self.alignment(size, align_log2, origin);
        let left = random.below(LEFT_ALIGNED_ONE_IN) == 0;
        let address = if left { end - page_ceil(size) } else { (end - size) & !(align - 1) };
        let start = page_floor(address);
        if ground.budget.charge(end - start).is_err() {
            self.give_up(entry, slot);
            return None;
        }
        if !entry.set_apart.swap(true, Ordering::Relaxed) {
            mapping::set_apart(end - PAGE, PAGE);
        }
        if mapping::commit(start, end - start).is_err() {
            ground.budget.refund(end - start);
            self.give_up(entry, slot);
            return None;
        }
        let chunk = Chunk { address, size, origin, align_log2 };
        self.dress(ground, entry, &chunk, end);
        entry.describe(&chunk, &caller());
        self.live.fetch_add(1, Ordering::Relaxed);
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
        let dirty = entry.dirty.swap(true, Ordering::Relaxed);
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
            match seen {
                state::LIVE if chunk.address == address => {
                    let held = state::HELD;
                    if entry.state.compare_exchange_weak(seen, held, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                        // What was read before may be about a chunk that was given back since, and the slot used again.
                        if let Some(chunk) = entry.chunk().filter(|chunk| chunk.address == address) {
                            return Ok(Held { entry, slot, chunk });
                        }
                        entry.state.store(state::LIVE, Ordering::Release);
                    }
                }
                state::LIVE if inside => {
                    return Err(not_a_chunk("the address lies inside a chunk, not at its start")
                        .chunk(chunk.size, Some(chunk.origin)));
                }
                state::FREED if chunk.address == address => {
                    return Err(Violation::new(Kind::Freed, operation, address, "the chunk was given back before")
                        .chunk(chunk.size, Some(chunk.origin)));
                }
                state::FREED if inside => {
                    return Err(not_a_chunk("the address lies inside a chunk that was given back")
                        .chunk(chunk.size, Some(chunk.origin)));
                }
                state::LIVE | state::FREED => {
                    return Err(not_a_chunk("the address lies beside a guarded chunk"));
                }
                // Another thread is at it, for the time of a system call.
                _ => process::yield_now(),
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
        caller: impl FnOnce() -> Caller,
    ) -> Result<(), Violation> {
        let held = self.hold(address, Operation::Free)?;
        if let Err(violation) = may(&held.chunk).and_then(|()| self.verify(ground, &held, Operation::Free)) {
            held.let_go();
            return Err(violation);
        }
        let Held { entry, slot, .. } = held;
        entry.state.store(state::CLOSING, Ordering::Relaxed);
        entry.freed_by(&caller());
        let (start, end) = (page_floor(address), self.end_of(slot));
        let closed = self.close(entry, start, end);
        ground.budget.refund(end - start);
        self.live.fetch_sub(1, Ordering::Relaxed);
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

    /// Who allocated, and who freed, the chunk nearest to an address; `None` outside the pool.
    pub(crate) fn history(&self, address: usize) -> Option<History> {
        self.nearest(address).map(|(entry, _)| entry.history())
    }

    /// The chunk nearest to an address among the guarded slots, and whether it is live.
    pub(crate) fn chunk_near(&self, address: usize) -> Option<(Chunk, bool)> {
        self.nearest(address).map(|(entry, chunk)| (chunk, entry.state.load(Ordering::Acquire) != state::FREED))
    }

    fn nearest(&self, address: usize) -> Option<(&Entry, Chunk)> {
        let slot = self.slot_of(address)?;
        let known = |slot: usize| self.table.entry(slot).and_then(|entry| Some((entry, entry.chunk()?)));
        // The guard page in front is the one behind the slot before.
        let in_guard = (address - self.base.load(Ordering::Relaxed)) % STRIDE < PAGE;
        let before = slot.checked_sub(1).filter(|_| in_guard).and_then(known);
        let distance = |(_, chunk): &(&Entry, Chunk)| {
            if address < chunk.address {
                chunk.address - address
            } else {
                (address + 1).saturating_sub(chunk.address + chunk.size)
            }
        };
        match (before, known(slot)) {
            (Some(before), Some(own)) => Some(if distance(&own) < distance(&before) { own } else { before }),
            (before, own) => before.or(own),
        }
    }

    /// Gives back the memory of freed slots.
    pub(crate) fn purge(&self) {
        // Nobody opens a slot meanwhile.
        let _state = self.state.lock();
        for (slot, entry) in self.entries() {
            if entry.state.load(Ordering::Acquire) == state::FREED && entry.dirty.load(Ordering::Relaxed) {
                let end = self.end_of(slot);
                if mapping::release(end - GUARDED_MAX, GUARDED_MAX).is_ok() {
                    entry.dirty.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        (0..self.table.slots()).filter_map(|slot| Some((slot, self.table.entry(slot)?)))
    }

    /// Verifies every live chunk.
    ///
    /// # Errors
    /// The first damage found.
    pub(crate) fn check(&self, ground: Ground<'_>) -> Result<(), Violation> {
        for (_, entry) in self.entries() {
            if entry.state.load(Ordering::Acquire) != state::LIVE {
                continue;
            }
            let Some(chunk) = entry.chunk() else { continue };
            match self.find(ground, chunk.address, Operation::Check) {
                // It was given back meanwhile.
                Err(Violation { kind: Kind::Freed | Kind::NotAChunk, .. }) | Ok(_) => {}
                Err(damaged) => return Err(damaged),
            }
        }
        Ok(())
    }

    /// Number and requested bytes of live chunks, and bytes of their pages.
    pub(crate) fn footprint(&self) -> (usize, usize, usize) {
        let mut sum = (0, 0, 0);
        for (slot, entry) in self.entries() {
            if matches!(entry.state.load(Ordering::Acquire), state::LIVE | state::HELD)
                && let Some(chunk) = entry.chunk()
            {
                sum.0 += 1;
                sum.1 += chunk.size;
                sum.2 += self.end_of(slot) - page_floor(chunk.address);
            }
        }
        sum
    }

    /// Bytes of the table.
    pub(crate) fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Calls `visit` with every group of live chunks that were allocated by the same calls: how many, how many bytes, and
    /// the calls. Nothing is allocated for that, so every pair of chunks may be compared.
    pub(crate) fn for_each_leak(&self, mut visit: impl FnMut(usize, usize, &Trace)) {
        let live = |entry: &&Entry| entry.state.load(Ordering::Acquire) == state::LIVE;
        let calls = |entry: &Entry| entry.history().allocated.map(|caller| caller.trace);
        for (slot, entry) in self.entries().filter(|(_, entry)| live(entry)) {
            let Some(trace) = calls(entry) else { continue };
            let alike = |other: &&Entry| other.starts_like(entry) && calls(other) == Some(trace);
            let others = || self.entries().filter(|(_, other)| live(other) && alike(other));
            if others().next().is_none_or(|(first, _)| first < slot) {
                continue;
            }
            let (count, bytes) = others().fold((0, 0), |(count, bytes), (_, other)| {
                (count + 1, bytes + other.chunk().map_or(0, |chunk| chunk.size))
            });
            visit(count, bytes, &trace);
        }
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
        }
    }
}

/// Where the canary in front of a chunk begins.
fn front_of(chunk: usize) -> usize {
    page_floor(chunk).max(chunk.saturating_sub(surroundings::REACH))
}

/// Where the canary behind a chunk ends, in a slot that ends at `end`.
fn back_of(chunk_end: usize, end: usize) -> usize {
    end.min(chunk_end + surroundings::REACH)
}

/// The canary around a chunk: as hard to guess as those of other chunks.
fn canary_of(seal: &Seal, chunk: &Chunk) -> u64 {
    let fields = Fields::allocated(chunk.size, chunk.align_log2.min(15), chunk.origin);
    seal.secrets.canary(seal.checksum(chunk.address, fields.0))
}
