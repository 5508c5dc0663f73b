//! The secondary: one mapping per large chunk, guards on both sides.
//!
//! ```text
//! | guard and random gap | ... front canary, header | chunk ......... | guard, room to grow |
//!                        ^ data_start                ^ chunk    data_end ^
//! ```
//!
//! The chunk ends where the mapping ends (as near as its alignment allows), so that an overflow
//! faults at the access. What is known about it lies in [`table`]; header and front canary only
//! tell of an underflow. [`freed`] says what becomes of a chunk that was given back: its addresses stay inaccessible in
//! [`address_quarantine`]. [`resize`] is `realloc`.

pub(crate) mod address_quarantine;
mod freed;
mod layout;
mod mapping_cache;
mod ration;
mod resize;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use crate::budget::Budget;
use crate::chunk::checksum::{self, Seal};
use crate::chunk::header::Origin;
use crate::chunk::{canary, contents};
use crate::options::Options;
use crate::os::lock::{Lock, RawLock};
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};
use crate::place::random_place;
use crate::random::Random;
use crate::size_class::HEADER;
use crate::violation::{Kind, Operation, Violation};
use address_quarantine::AddressQuarantine;
use layout::{FRONT, dress, header_of, map};
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
    /// Accessible bytes of the mappings of live chunks.
    live: usize,
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
    fn keep(&mut self, entry: &Entry) -> Option<Entry> {
        let displaced = self.cache.put(entry, self.live)?;
        self.table.get(displaced).copied()
    }

    /// Queues the addresses of a freed chunk that is in the table, and has it own no more than it has as this entry; returns the entry
    /// that has to leave for it, if the queue is full.
    fn enqueue(&mut self, entry: &Entry) -> Option<Entry> {
        if let Some(known) = self.table.get(entry.chunk) {
            (known.map_start, known.map_bytes) = (entry.map_start, entry.map_bytes);
        }
        let displaced = self.quarantine.push(entry.chunk, entry.size, entry.map_bytes)?;
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

/// What a new chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Zeroes,
    /// Zeroes where the memory is fresh, or what another chunk has left there.
    Any,
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
    /// Sets up a secondary in zeroed memory, which is a valid one that knows no chunk. The 24 KiB of the queue
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

    /// A chunk of `size` bytes at a multiple of 2^`align_log2`. Unless they are to be zeroes, they may be what a freed chunk held,
    /// whose mapping was kept: half of what a loop over such chunks costs is that the caches are filled with zeroes.
    ///
    /// # Errors
    /// When the system or the heap's budget refuses the memory.
    pub(crate) fn allocate(
        &self,
        ground: Ground<'_>,
        size: usize,
        align_log2: u32,
        origin: Origin,
        contents: Contents,
    ) -> Result<usize, OutOfMemory> {
        let align = 1_usize.checked_shl(align_log2).ok_or(OutOfMemory)?.max(crate::size_class::MIN_ALIGN);
        if size > isize::MAX as usize - (1 << 32) || align > 1 << 40 {
            return Err(OutOfMemory);
        }
        let kept = self.take_kept(size, align).map(|entry| (entry, entry.data_bytes));
        let entry = if let Some((kept, used)) = kept.or_else(|| self.take_reshaped(ground, size, align)) {
            if contents == Contents::Zeroes {
                let dirty = used.saturating_sub(kept.chunk - kept.data_start).min(size);
                // SAFETY: the mapping is accessible and this thread's alone since it left the cache.
                unsafe { contents::zero_large(core::ptr::with_exposed_provenance_mut(kept.chunk), dirty) };
            }
            Entry { size, origin, align_log2: align_log2 as u8, ..kept }
        } else {
            let map = || map(ground.budget, |bytes| self.reserve(bytes), size, align, origin, align_log2 as u8);
            map().or_else(|_| self.make_room(ground, size).and_then(|()| map()))?
        };
        dress(ground.seal, &entry);
        let mut state = self.state.lock();
        if let Err(refused) = state.table.insert(entry) {
            drop(state);
            mapping::unmap(entry.map_start, entry.map_bytes);
            ground.budget.refund(entry.data_bytes);
            return Err(refused);
        }
        state.live += entry.data_bytes;
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
        let found = (entry.size, entry.map_start, entry.map_bytes);
        match self.state.lock().table.get(entry.chunk) {
            // Also the length: what another thread has cut off since may be somebody else's by now.
            Some(known) if (known.size, known.map_start, known.map_bytes) == found => {
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
        let _ = self.let_go_of(entry.chunk, entry.data_bytes, *entry);
        Ok(())
    }

    /// Puts a chunk back that was held, as it is now.
    fn let_go_of(&self, chunk: usize, data_bytes: usize, changed: Entry) -> Result<(), OutOfMemory> {
        let mut state = self.state.lock();
        state.live = (state.live + changed.data_bytes).saturating_sub(data_bytes);
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
