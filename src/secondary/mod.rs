//! The secondary: one mapping per large chunk, guards on both sides.
//!
//! ```text
//! | guard and random gap | ... front canary, header | chunk ......... | guard, room to grow |
//!                        ^ data_start                ^ chunk    data_end ^
//! ```
//!
//! The chunk ends where the mapping ends (as near as its alignment allows), so that an overflow
//! faults at the access. What is known about it lies in [`table`]; header and front canary only
//! tell of an underflow. Freed chunks stay inaccessible in [`address_quarantine`].

pub(crate) mod address_quarantine;
mod layout;
mod mapping_cache;
mod ration;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use crate::budget::Budget;
use crate::chunk::checksum::{self, Seal};
use crate::chunk::header::Origin;
use crate::chunk::{canary, contents};
use crate::options::Options;
use crate::os::lock::{Lock, RawLock};
use crate::os::mapping::{self, NotMoved, OutOfMemory, PAGE, page_ceil};
use crate::primary::arena::random_place;
use crate::random::Random;
use crate::size_class::HEADER;
use crate::violation::{Kind, Operation, Violation};
use address_quarantine::AddressQuarantine;
use layout::{FRONT, HUGE, advise_huge, dress, header_of, is_mostly_resident, map, relocate};
use mapping_cache::MappingCache;
use ration::Ration;
use table::{Entry, Table};

/// The most pages of random gap in front of a mapping.
const GAP_PAGES: u32 = 1024;

/// Bytes of address space that mappings are laid out in before another place is chosen at random.
const ZONE: usize = 1 << 40;

/// State of the secondary under its lock.
struct State {
    table: Table,
    quarantine: AddressQuarantine,
    cache: MappingCache,
    ration: Ration,
    random: Random,
    /// Where the next mapping is asked for, and where the zone ends.
    place: usize,
    zone_end: usize,
}

impl State {
    /// Where to ask for a mapping: behind the last one, after a random gap, in a zone at a random place. So no address
    /// comes back before its zone is full, and the distance to other mappings is not known.
    fn next_place(&mut self, size: usize) -> usize {
        let reach = page_ceil(size);
        if self.place.saturating_add(reach) >= self.zone_end {
            self.place = random_place(&mut self.random);
            self.zone_end = self.place + ZONE;
        }
        let place = self.place + self.random.below(GAP_PAGES) as usize * PAGE;
        self.place = place.saturating_add(reach);
        place
    }

    /// Keeps a freed chunk's mapping; returns the one that has to make room for it, if any, which goes the way of all others.
    fn keep(&mut self, entry: &Entry, heap_bytes: usize) -> Option<Entry> {
        let displaced = self.cache.put(entry, heap_bytes)?;
        self.table.get(displaced).copied()
    }

    /// Queues the addresses of a freed chunk; returns the entry that has to leave for it, if the queue is full.
    fn enqueue(&mut self, chunk: usize, size: usize) -> Option<Entry> {
        let displaced = self.quarantine.push(chunk, size)?;
        self.table.remove(displaced)
    }
}

/// The allocator of large chunks.
pub(crate) struct Secondary {
    state: Lock<State>,
    ration_large: bool,
    release_interval_ms: i32,
}

/// What the secondary needs of its heap.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) budget: &'a Budget,
    pub(crate) seal: &'a Seal,
}

/// What a secondary holds, in bytes unless it says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    /// Number of live chunks.
    pub(crate) chunks: usize,
    /// Requested bytes of live chunks.
    pub(crate) allocated: usize,
    /// Accessible bytes of their mappings.
    pub(crate) active: usize,
    /// Accessible bytes of freed chunks' mappings that are kept.
    pub(crate) kept: usize,
    /// Bytes of freed chunks in the address quarantine.
    pub(crate) quarantined: usize,
    /// Bytes of all these mappings that are in memory, where that was measured.
    pub(crate) resident: usize,
    /// Where the table lies and how many bytes it has.
    pub(crate) table: (usize, usize),
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    Live(Entry),
    Freed(Entry),
    Nothing,
}

/// Another thread has given a chunk back since it was found, or is resizing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenBack;

/// Why a chunk was not resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotResized {
    /// The system or the budget refused.
    OutOfMemory,
    /// Another thread has given the chunk back, or is resizing it.
    GivenBack,
}

impl From<OutOfMemory> for NotResized {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl Secondary {
    /// Sets up a secondary in zeroed memory, which is a valid one that knows no chunk. The 16 KiB of the queue
    /// are not written, so that they take memory only as they are used.
    pub(crate) fn init(&mut self, options: &Options, random: Random) {
        self.ration_large = options.ration_large;
        self.release_interval_ms = options.release_interval_ms;
        let mut state = self.state.lock();
        state.quarantine.set_limit((options.large_quarantine_mb as usize) << 20);
        state.random = random;
    }

    /// The lock, for fork handlers.
    pub(crate) fn for_each_lock(&self, mut visit: impl FnMut(&RawLock)) {
        visit(self.state.raw());
    }

    /// Another source of randomness, and another zone: after a fork, so that sisters do not know each other's addresses.
    pub(crate) fn reseed(&self, random: Random) {
        let mut state = self.state.lock();
        state.random = random;
        state.zone_end = 0;
    }

    /// A chunk of `size` zeroed bytes at a multiple of 2^`align_log2`.
    ///
    /// # Errors
    /// When the system or the heap's budget refuses the memory.
    pub(crate) fn allocate(
        &self,
        ground: Ground<'_>,
        size: usize,
        align_log2: u32,
        origin: Origin,
    ) -> Result<usize, OutOfMemory> {
        let align = 1_usize.checked_shl(align_log2).ok_or(OutOfMemory)?.max(crate::size_class::MIN_ALIGN);
        if size > isize::MAX as usize - (1 << 32) || align > 1 << 40 {
            return Err(OutOfMemory);
        }
        let (entry, dirty) = match self.take_kept(size, align) {
            Some(kept) => (Entry { size, origin, align_log2: align_log2 as u8, ..kept }, true),
            None => {
                let map = || map(ground.budget, |bytes| self.reserve(bytes), size, align, origin, align_log2 as u8);
                (map().or_else(|_| self.make_room(ground, size).and_then(|()| map()))?, false)
            }
        };
        if dirty {
            // SAFETY: the mapping is accessible and this thread's alone since it left the cache.
            unsafe { contents::zero_large(core::ptr::with_exposed_provenance_mut(entry.chunk), size) };
        }
        dress(ground.seal, &entry);
        let mut state = self.state.lock();
        if let Err(refused) = state.table.insert(entry) {
            drop(state);
            mapping::unmap(entry.map_start, entry.map_bytes);
            ground.budget.refund(entry.data_bytes);
            return Err(refused);
        }
        Ok(entry.chunk)
    }

    /// Address space at the next place. Where something else lies there already (a zone may begin in the heap's own
    /// arena), the kernel would choose a place that can be foreseen, so another zone is tried.
    fn reserve(&self, bytes: usize) -> Result<usize, OutOfMemory> {
        for _ in 0..4 {
            let hint = self.state.lock().next_place(bytes);
            let start = mapping::reserve(hint, bytes)?;
            if start == hint {
                return Ok(start);
            }
            mapping::unmap(start, bytes);
            self.state.lock().zone_end = 0;
        }
        mapping::reserve(0, bytes)
    }

    /// Gives back all that is held for speed or against use after free: the system or the budget has refused, and a
    /// failing program is worse than a dangling pointer that is noticed less long.
    ///
    /// # Errors
    /// When there was nothing to give back.
    ///
    /// The address quarantine only goes where that can help: not for a request beyond the budget, nor for one larger
    /// than what is in it; otherwise whoever may ask for absurd sizes could empty it at will.
    #[cold]
    pub(crate) fn make_room(&self, ground: Ground<'_>, size: usize) -> Result<(), OutOfMemory> {
        let (kept, quarantined) = {
            let state = self.state.lock();
            (!state.cache.is_empty(), state.quarantine.bytes())
        };
        self.drop_kept(ground, MappingCache::take_any);
        if size <= quarantined && ground.budget.allows(size) {
            self.evict(AddressQuarantine::pop);
        } else if !kept {
            return Err(OutOfMemory);
        }
        Ok(())
    }

    /// A kept mapping in which such a chunk fits well.
    fn take_kept(&self, size: usize, align: usize) -> Option<Entry> {
        if align > PAGE {
            return None;
        }
        let needed = page_ceil(size + FRONT + align);
        let mut state = self.state.lock();
        let old = state.cache.take(needed)?;
        // The old address is free to be handed out again, so it is not known as freed any more.
        let mut entry = state.table.remove(old)?;
        entry.chunk = (entry.data_end() - size) & !(align - 1);
        entry.live = true;
        Some(entry)
    }

    /// What is known about an address; what surrounds a live chunk there is verified.
    ///
    /// # Errors
    /// When that was changed.
    pub(crate) fn find(&self, ground: Ground<'_>, chunk: usize, operation: Operation) -> Result<Found, Violation> {
        // Under the lock, so that no other thread gives the chunk back while it is read.
        match self.state.lock().table.get(chunk) {
            Some(entry) if entry.live => Self::verify(ground, entry, operation).map(|()| Found::Live(*entry)),
            Some(entry) => Ok(Found::Freed(*entry)),
            None => Ok(Found::Nothing),
        }
    }

    /// Takes a live chunk out of everybody's hands while its pages are moved, so that another thread that gives it back
    /// meanwhile is told so. `false` when one was faster.
    fn hold(&self, entry: &Entry) -> bool {
        match self.state.lock().table.get(entry.chunk) {
            Some(known) if known.size == entry.size && known.map_start == entry.map_start => {
                core::mem::replace(&mut known.live, false)
            }
            _ => false,
        }
    }

    /// Has the contents of a verified live chunk read while no other thread can give it back.
    ///
    /// # Errors
    /// When one was faster.
    pub(crate) fn while_held(&self, entry: &Entry, read: impl FnOnce()) -> Result<(), GivenBack> {
        if !self.hold(entry) {
            return Err(GivenBack);
        }
        read();
        // It is known all the while.
        let _ = self.let_go_of(entry.chunk, *entry);
        Ok(())
    }

    /// Puts a chunk back that was held, as it is now.
    fn let_go_of(&self, chunk: usize, changed: Entry) -> Result<(), OutOfMemory> {
        let mut state = self.state.lock();
        if let Some(known) = state.table.get(changed.chunk) {
            *known = changed;
            return Ok(());
        }
        // Its old addresses stay known as freed. Where that takes memory that is not to be had, they make room: so this
        // cannot fail.
        state.table.insert(changed).or_else(|OutOfMemory| {
            state.table.remove(chunk);
            state.table.insert(changed)
        })
    }

    /// The chunk in whose mapping an address lies, live or freed. Walks the whole table: for reports.
    ///
    /// `None` also when the lock is held, by whoever has just faulted perhaps.
    pub(crate) fn chunk_near(&self, address: usize) -> Option<Entry> {
        let mut near = None;
        let visited: Result<(), core::convert::Infallible> = self.state.try_lock()?.table.for_each(|entry| {
            if (entry.map_start..entry.map_end()).contains(&address) {
                near = Some(*entry);
            }
            Ok(())
        });
        let Ok(()) = visited;
        near
    }

    /// Verifies what surrounds a live chunk.
    pub(crate) fn verify(ground: Ground<'_>, entry: &Entry, operation: Operation) -> Result<(), Violation> {
        let expected = header_of(ground.seal, entry);
        let found = checksum::read(entry.chunk);
        let violation =
            |kind, detail| Violation::new(kind, operation, entry.chunk, detail).chunk(entry.size, Some(entry.origin));
        if found != expected {
            return Err(violation(Kind::CorruptHeader, "the header in front of the chunk was changed")
                .values(expected.0, found.0)
                .at(-(HEADER as isize)));
        }
        let word = ground.seal.secrets.canary(expected.checksum());
        let front = core::ptr::with_exposed_provenance::<u8>(entry.chunk - FRONT);
        // SAFETY: the 32 bytes in front of a live large chunk are mapped.
        if let Err(damage) = unsafe { canary::check(front, 0, FRONT - HEADER, word) } {
            return Err(violation(Kind::CorruptHeader, "the bytes in front of the chunk were changed")
                .values(damage.expected, damage.seen)
                .at(damage.offset as isize - FRONT as isize));
        }
        let chunk = core::ptr::with_exposed_provenance::<u8>(entry.chunk);
        // SAFETY: the chunk is mapped up to `data_end`, and both are multiples of 8.
        if let Err(damage) = unsafe { canary::check(chunk, entry.size, entry.data_end() - entry.chunk, word) } {
            return Err(violation(Kind::Overflow, "the bytes behind the chunk were changed")
                .values(damage.expected, damage.seen)
                .at(damage.offset as isize));
        }
        Ok(())
    }

    /// Takes a verified chunk back. `false` when another thread was faster.
    pub(crate) fn release(&self, ground: Ground<'_>, chunk: usize) -> bool {
        let entry = {
            let mut state = self.state.lock();
            let keep_allowed = self.release_interval_ms != 0;
            let Some(entry) = state.table.get(chunk).filter(|entry| entry.live) else { return false };
            entry.live = false;
            let entry = *entry;
            if keep_allowed && state.cache.takes(entry.data_bytes) {
                // What is longer is never left accessible.
                let rationed = entry.data_bytes <= mapping_cache::ALWAYS;
                if rationed && self.ration_large && !state.ration.spend() {
                    let displaced = state.keep(&entry, ground.budget.used());
                    drop(state);
                    if let Some(displaced) = displaced {
                        self.retire(ground, &displaced);
                    }
                } else {
                    drop(state);
                    if rationed || is_mostly_resident(&entry) {
                        self.keep_elsewhere(ground, &entry);
                    } else {
                        self.retire(ground, &entry);
                    }
                }
                self.decay(ground);
                return true;
            }
            entry
        };
        self.retire(ground, &entry);
        self.decay(ground);
        true
    }

    /// Moves the pages of a freed chunk to an address that nobody knows, and keeps them there: its own addresses become
    /// inaccessible, and the memory is not faulted in anew. Three system calls, a tenth of what the faults cost.
    fn keep_elsewhere(&self, ground: Ground<'_>, entry: &Entry) {
        let mut moved = Entry { live: false, ..*entry };
        if relocate(&mut moved, |bytes| self.reserve(bytes), entry.data_bytes, entry.data_bytes).is_err() {
            return self.retire(ground, entry);
        }
        // The chunk itself stays known as freed all the while: another thread may be giving it back a second time.
        let kept = {
            let mut state = self.state.lock();
            state.table.insert(moved).map(|()| state.keep(&moved, ground.budget.used()))
        };
        self.quarantine_addresses(&Entry { live: false, ..*entry });
        match kept {
            Ok(None) => {}
            Ok(Some(displaced)) => self.retire(ground, &displaced),
            Err(OutOfMemory) => {
                mapping::unmap(moved.map_start, moved.map_bytes);
                ground.budget.refund(moved.data_bytes);
            }
        }
    }

    /// Makes a freed chunk inaccessible, gives its memory back and queues its addresses.
    fn retire(&self, ground: Ground<'_>, entry: &Entry) {
        if mapping::discard(entry.data_start, entry.data_bytes).is_err()
            && mapping::make_inaccessible(entry.data_start, entry.data_bytes).is_err()
        {
            // The mapping limit is reached: unmapping the whole of it needs no split.
            self.state.lock().table.remove(entry.chunk);
            mapping::unmap(entry.map_start, entry.map_bytes);
            ground.budget.refund(entry.data_bytes);
            return;
        }
        ground.budget.refund(entry.data_bytes);
        let displaced = self.state.lock().enqueue(entry.chunk, entry.size);
        self.let_go(displaced);
    }

    /// Unmaps what had to leave the queue, and what is due.
    fn let_go(&self, displaced: Option<Entry>) {
        if let Some(entry) = displaced {
            mapping::unmap(entry.map_start, entry.map_bytes);
        }
        self.evict(AddressQuarantine::pop_due);
    }

    fn evict(&self, mut next: impl FnMut(&mut AddressQuarantine) -> Option<usize>) {
        loop {
            let due = {
                let mut state = self.state.lock();
                let Some(chunk) = next(&mut state.quarantine) else { return };
                state.table.remove(chunk)
            };
            if let Some(entry) = due {
                mapping::unmap(entry.map_start, entry.map_bytes);
            }
        }
    }

    /// Lets go of kept mappings that nobody used for the release interval.
    pub(crate) fn decay(&self, ground: Ground<'_>) {
        if self.release_interval_ms < 0 {
            return;
        }
        let interval = self.release_interval_ms.cast_unsigned();
        self.drop_kept(ground, |cache| cache.take_older_than(interval));
    }

    fn drop_kept(&self, ground: Ground<'_>, mut next: impl FnMut(&mut MappingCache) -> Option<usize>) {
        loop {
            let old = {
                let mut state = self.state.lock();
                let Some(chunk) = next(&mut state.cache) else { return };
                match state.table.get(chunk) {
                    Some(entry) => *entry,
                    None => continue,
                }
            };
            self.retire(ground, &old);
        }
    }

    /// Gives kept mappings back to the system. Quarantined addresses have no memory behind them and stay.
    pub(crate) fn purge(&self, ground: Ground<'_>) {
        self.drop_kept(ground, MappingCache::take_any);
    }

    /// Changes the size of a verified live chunk without copying it, and its origin; returns its new address.
    ///
    /// # Errors
    /// When the system or the budget refuses, or another thread has given the chunk back; then it is as it was.
    pub(crate) fn resize(
        &self,
        ground: Ground<'_>,
        entry: &Entry,
        size: usize,
        origin: Origin,
    ) -> Result<usize, NotResized> {
        if !self.hold(entry) {
            return Err(NotResized::GivenBack);
        }
        let resized = self.resize_held(ground, &Entry { origin, ..*entry }, size);
        let changed = resized.unwrap_or(*entry);
        self.let_go_of(entry.chunk, changed)?;
        if changed.chunk != entry.chunk {
            self.quarantine_addresses(&Entry { live: false, ..*entry });
        }
        Ok(resized?.chunk)
    }

    fn resize_held(&self, ground: Ground<'_>, entry: &Entry, size: usize) -> Result<Entry, OutOfMemory> {
        let needed = page_ceil(entry.chunk - entry.data_start + size);
        let mut changed = Entry { size, ..*entry };
        if needed < entry.data_bytes {
            let cut = entry.data_bytes - needed;
            let end = entry.data_start + needed;
            if mapping::withdraw(end, cut).or_else(|_| mapping::discard(end, cut)).is_ok() {
                ground.budget.refund(cut);
                changed.data_bytes = needed;
            }
        } else if needed > entry.data_bytes {
            let more = needed - entry.data_bytes;
            ground.budget.charge(more)?;
            let mut grow = || {
                if entry.data_start + needed + PAGE <= entry.map_end() {
                    // There is room behind the chunk.
                    return Ok(mapping::commit(entry.data_end(), more)?);
                }
                let mut relocate = |room| relocate(&mut changed, |bytes| self.reserve(bytes), needed, room);
                match relocate(page_ceil(needed + needed / 2)) {
                    // Room to grow is a favour that a limit on memory may not grant.
                    Err(NotMoved::OutOfMemory) => relocate(needed),
                    outcome => outcome,
                }
            };
            let grown = match grow() {
                Err(NotMoved::OutOfMemory) => {
                    self.make_room(ground, size).map_err(NotMoved::from).and_then(|()| grow())
                }
                outcome => outcome,
            };
            if grown.is_err() {
                ground.budget.refund(more);
                return Err(OutOfMemory);
            }
            changed.data_bytes = needed;
            if needed >= HUGE {
                advise_huge(&changed);
            }
        }
        if size < entry.size {
            // What the chunk no longer has must not be found there if it grows again.
            let end = (entry.chunk + entry.size).min(changed.data_end());
            let gone = end.saturating_sub(changed.chunk + size);
            let tail = core::ptr::with_exposed_provenance_mut::<u8>(changed.chunk + size);
            // SAFETY: the tail lies in the accessible part of the chunk, which is the caller's.
            unsafe { tail.write_bytes(0, gone) };
        } else {
            // The canaries behind the old end become contents.
            let start = changed.chunk + entry.size;
            let gone = (page_ceil(start) - start).min(changed.data_end() - start);
            let tail = core::ptr::with_exposed_provenance_mut::<u8>(start);
            // SAFETY: as above; slack never reaches past the page in which the chunk ended.
            unsafe { tail.write_bytes(0, gone) };
        }
        dress(ground.seal, &changed);
        Ok(changed)
    }

    /// Keeps the addresses that a moved chunk has left inaccessible.
    fn quarantine_addresses(&self, old: &Entry) {
        // The pages have moved away and left a hole.
        match mapping::reserve(old.data_start, old.data_bytes) {
            Ok(start) if start == old.data_start => {
                let mut state = self.state.lock();
                if state.table.get(old.chunk).is_some() || state.table.insert(Entry { live: false, ..*old }).is_ok() {
                    let displaced = state.enqueue(old.chunk, old.size);
                    drop(state);
                    return self.let_go(displaced);
                }
                drop(state);
                return mapping::unmap(old.map_start, old.map_bytes);
            }
            Ok(elsewhere) => mapping::unmap(elsewhere, old.data_bytes),
            Err(OutOfMemory) => {}
        }
        {
            let mut state = self.state.lock();
            if state.table.get(old.chunk).is_some_and(|entry| !entry.live) {
                state.table.remove(old.chunk);
            }
        }
        mapping::unmap(old.map_start, old.data_start - old.map_start);
        mapping::unmap(old.data_end(), old.map_end() - old.data_end());
    }

    /// Verifies every live chunk.
    pub(crate) fn check(&self, ground: Ground<'_>) -> Result<(), Violation> {
        self.state
            .lock()
            .table
            .for_each(|entry| if entry.live { Self::verify(ground, entry, Operation::Check) } else { Ok(()) })
    }

    /// What the secondary holds. With `measured`, the kernel is asked which pages are in memory.
    pub(crate) fn census(&self, measured: bool) -> Census {
        let mut state = self.state.lock();
        let mut census = Census {
            kept: state.cache.bytes(),
            quarantined: state.quarantine.bytes(),
            table: state.table.extent(),
            ..Census::default()
        };
        let kept = census.kept;
        let visited: Result<(), core::convert::Infallible> = state.table.for_each(|entry| {
            if entry.live {
                census.chunks += 1;
                census.allocated += entry.size;
                census.active += entry.data_bytes;
            }
            if measured && (entry.live || kept > 0) {
                census.resident += mapping::resident(entry.data_start, entry.data_bytes);
            }
            Ok(())
        });
        let Ok(()) = visited;
        census
    }

    /// Unmaps everything: the heap is going away.
    pub(crate) fn unmap_all(&self) {
        let mut state = self.state.lock();
        let visited: Result<(), core::convert::Infallible> = state.table.for_each(|entry| {
            mapping::unmap(entry.map_start, entry.map_bytes);
            Ok(())
        });
        let Ok(()) = visited;
        state.table.unmap();
        state.table = Table::new();
    }
}
