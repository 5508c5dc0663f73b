//! Looking at the slots without changing them: for checks, reports and statistics.

use super::table::{Chunk, Entry, state};
use super::{Ground, Guarded, STRIDE};
use crate::os::mapping::{PAGE, page_floor};
use crate::trace::{History, Trace};
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::Ordering;

impl Guarded {
    /// Who allocated, and who freed, the chunk nearest to an address; `None` outside the pool.
    pub(crate) fn history(&self, address: usize) -> Option<History> {
        self.nearest(address).map(|(slot, entry, _)| self.history_of(slot, entry))
    }

    /// The chunk nearest to an address among the guarded slots, and whether it is live.
    pub(crate) fn chunk_near(&self, address: usize) -> Option<(Chunk, bool)> {
        self.nearest(address).map(|(_, entry, chunk)| (chunk, entry.state.load(Ordering::Acquire) != state::FREED))
    }

    fn history_of(&self, slot: usize, entry: &Entry) -> History {
        let nobody = History { allocated: None, freed: None };
        self.table.kept(slot, &self.depot).map_or(nobody, |kept| entry.history(kept))
    }

    fn nearest(&self, address: usize) -> Option<(usize, &Entry, Chunk)> {
        let slot = self.slot_of(address)?;
        let known = |slot: usize| self.table.entry(slot).and_then(|entry| Some((slot, entry, entry.chunk()?)));
        // The guard page in front is the one behind the slot before.
        let in_guard = (address - self.base.load(Ordering::Relaxed)) % STRIDE < PAGE;
        let before = slot.checked_sub(1).filter(|_| in_guard).and_then(known);
        let distance = |(_, _, chunk): &(usize, &Entry, Chunk)| {
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

    /// Calls `visit` with every group of live chunks that were allocated by the same calls: how many, how many bytes, and
    /// the calls. Nothing is allocated for that, so every pair of chunks may be compared.
    pub(crate) fn for_each_leak(&self, mut visit: impl FnMut(usize, usize, &Trace)) {
        let live = |entry: &&Entry| entry.state.load(Ordering::Acquire) == state::LIVE;
        let calls = |slot: usize, entry: &Entry| self.history_of(slot, entry).allocated.map(|caller| caller.trace);
        for (slot, entry) in self.entries().filter(|(_, entry)| live(entry)) {
            let Some(trace) = calls(slot, entry) else { continue };
            let alike = |at: usize, other: &Entry| other.may_start_like(entry) && calls(at, other) == Some(trace);
            let others = || self.entries().filter(|(at, other)| live(other) && alike(*at, other));
            if others().next().is_none_or(|(first, _)| first < slot) {
                continue;
            }
            let (count, bytes) = others().fold((0, 0), |(count, bytes), (_, other)| {
                (count + 1, bytes + other.chunk().map_or(0, |chunk| chunk.size))
            });
            visit(count, bytes, &trace);
        }
    }
}
