//! Verifying a whole heap, and giving back what it does not need.

use super::core::Core;
use crate::primary::region::{SlotIndex, state};
use crate::thread_cache::ThreadCache;
use crate::violation::{Operation, Violation};
use core::sync::atomic::Ordering;

/// What a heap holds, in bytes unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requested bytes of live chunks.
    pub allocated: usize,
    /// Number of live chunks.
    pub chunks: usize,
    /// Slots of live small chunks, and mappings of live large ones.
    pub active: usize,
    /// Number of live large chunks.
    pub large_chunks: usize,
    /// Requested bytes of live large chunks.
    pub large_allocated: usize,
    /// Freed large chunks whose addresses are in quarantine (address space, not memory).
    pub large_quarantined: usize,
    /// Slabs and mappings with memory behind them.
    pub committed: usize,
    /// Slabs with memory behind them in which every slot is free.
    pub empty: usize,
    /// Number of live zero-sized chunks.
    pub zero_sized: usize,
}

impl Core {
    /// Verifies header and canaries of every live chunk, and that free slots still have their header.
    ///
    /// # Errors
    /// The first damage found.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        for (_, region) in self.arena.regions() {
            let Some(class) = region.size_class() else { continue };
            for index in (0..region.frontier()).map(SlotIndex) {
                if region.state(index).load(Ordering::Acquire) == state::LIVE {
                    // A live chunk that another thread frees at this moment must not take its slab along.
                    let _keeps_slabs = self.class(class).lock();
                    self.verify_slot(region, index, class, Operation::Check)?;
                }
            }
        }
        self.secondary.check(self.large_ground())
    }

    /// Counts what the heap holds, by walking it.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for (_, region) in self.arena.regions() {
            let Some(class) = region.size_class() else { continue };
            for index in (0..region.frontier()).map(SlotIndex) {
                if region.state(index).load(Ordering::Acquire) != state::LIVE {
                    continue;
                }
                let _keeps_slabs = self.class(class).lock();
                if region.state(index).load(Ordering::Acquire) == state::LIVE {
                    let header = crate::chunk::checksum::read(region.chunk(index, class.stride()));
                    stats.allocated += header.fields().size();
                    stats.active += class.stride();
                    stats.chunks += 1;
                }
            }
        }
        for class in &self.classes {
            stats.empty += class.lock().footprint().1;
        }
        let (chunks, bytes, quarantined) = self.secondary.footprint();
        stats.large_chunks = chunks;
        stats.large_allocated = bytes;
        stats.large_quarantined = quarantined;
        stats.allocated += bytes;
        stats.active += bytes;
        stats.chunks += chunks;
        stats.zero_sized = self.zero_sized.lock().live() as usize;
        stats.chunks += stats.zero_sized;
        stats.committed = self.budget.used();
        stats
    }

    /// Gives all free memory back to the system: the cache's own, empty slabs, kept mappings.
    pub(crate) fn purge(&self, cache: &mut ThreadCache) -> Result<(), Violation> {
        self.flush(cache)?;
        for class in &self.classes {
            class.lock().purge(self.ground());
        }
        self.secondary.purge(self.large_ground());
        Ok(())
    }
}
