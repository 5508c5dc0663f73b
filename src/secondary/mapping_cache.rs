//! Kept mappings of freed chunks of 256 KiB to 2 MiB, for hot loops.
//!
//! A fresh mapping costs a page fault for every 4 KiB touched: 238 µs a cycle for chunks around
//! 640 KiB, against 9 for a kept one that is zeroed when it is handed out again. Most lie at an address that the
//! program never knew, because their pages were moved when they were freed; where [`super::ration`] says so they
//! lie where they were.

use super::table::Entry;
use crate::os::process;

const PLACES: usize = 32;
/// Bytes that may be kept in all, to begin with.
const LEAST: usize = 4 << 20;
/// The most bytes that a hot loop can bring that to.
const MOST: usize = 32 << 20;
/// Milliseconds within which a mapping that had to go is missed by a request that might have had it.
const MISSED: u32 = 100;
/// The largest mapping worth keeping: beyond it huge pages win.
const LARGEST: usize = (2 << 20) + (64 << 10);

#[derive(Clone, Copy)]
struct Kept {
    /// Address of the chunk; zero when the place is empty.
    chunk: usize,
    data_bytes: usize,
    since: u32,
}

/// Freed chunks whose mapping is still accessible, oldest first. Zeroes are a valid empty cache.
pub(crate) struct MappingCache {
    kept: [Kept; PLACES],
    count: usize,
    bytes: usize,
    /// Bytes that may be kept beyond the least.
    extra: usize,
    /// When a mapping last had to make room, in milliseconds, truncated.
    evicted_at: u32,
}

impl MappingCache {
    /// Whether mappings of this size are kept.
    pub(crate) const fn takes(data_bytes: usize) -> bool {
        data_bytes <= LARGEST
    }

    /// Whether nothing is kept.
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that are kept.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a mapping; returns the chunk that had to make room.
    pub(crate) fn put(&mut self, entry: &Entry) -> Option<usize> {
        let limit = LEAST + self.extra;
        let full = self.count == PLACES || self.bytes + entry.data_bytes > limit;
        let evicted = if full { self.take_any() } else { None };
        let now = process::milliseconds() as u32;
        if evicted.is_some() {
            self.evicted_at = now;
        }
        if let Some(place) = self.kept.get_mut(self.count) {
            *place = Kept { chunk: entry.chunk, data_bytes: entry.data_bytes, since: now };
            self.count += 1;
            self.bytes += entry.data_bytes;
        }
        evicted
    }

    fn remove(&mut self, place: usize) -> Option<usize> {
        let kept = *self.kept.get(..self.count)?.get(place)?;
        self.kept.copy_within(place + 1..self.count, place);
        self.count -= 1;
        self.bytes -= kept.data_bytes;
        Some(kept.chunk)
    }

    /// The best fitting mapping of at least `needed` bytes that is at most a quarter too large. Where there is none, and one had
    /// to go a moment ago, more may be kept from now on.
    pub(crate) fn take(&mut self, needed: usize) -> Option<usize> {
        let fitting = self.kept.iter().take(self.count).enumerate();
        let best = fitting
            .filter(|(_, kept)| kept.data_bytes >= needed && kept.data_bytes - needed <= needed / 4)
            .min_by_key(|(_, kept)| kept.data_bytes);
        if let Some((place, _)) = best {
            return self.remove(place);
        }
        let now = process::milliseconds() as u32;
        if Self::takes(needed) && self.evicted_at != 0 && now.wrapping_sub(self.evicted_at) < MISSED {
            self.extra = (self.extra + needed).min(MOST - LEAST);
        }
        None
    }

    /// The oldest mapping, if nobody wanted it for so long.
    pub(crate) fn take_older_than(&mut self, milliseconds: u32) -> Option<usize> {
        let oldest = self.kept.first()?;
        let age = (process::milliseconds() as u32).wrapping_sub(oldest.since);
        if self.count > 0 && age >= milliseconds {
            // The loop is over.
            self.extra = 0;
            return self.remove(0);
        }
        None
    }

    /// The oldest mapping.
    pub(crate) fn take_any(&mut self) -> Option<usize> {
        self.remove(0)
    }
}
