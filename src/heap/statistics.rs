//! Reading off what a heap holds.
//!
//! Slots are handed out and taken back without counting anything. But each class knows which of its slots are out, and
//! each cache how many it holds: the difference is the program's.

use super::core::{CORE_BYTES, Core};
use crate::chunk::checksum;
use crate::os::mapping;
use crate::primary::region::{Region, SlotIndex, state};
use crate::primary::slab::{SlabId, slots_log2};
use crate::size_class::ClassId;
use crate::stats::{ClassStats, Stats};
use crate::thread_cache::{CACHE_BYTES, ThreadCache};
use crate::trace::remembered;
use crate::violation::Violation;
use core::sync::atomic::Ordering;

impl Core {
    /// What the heap holds, from its counters: see [`Stats`] for what is approximate.
    pub(crate) fn stats(&self) -> Stats {
        self.collect(false)
    }

    /// Verifies everything, then counts what the heap holds by visiting every chunk.
    ///
    /// # Errors
    /// The first damage found: sizes in damaged headers would be nonsense.
    pub(crate) fn check_stats(&self, mark: u8) -> Result<Stats, Violation> {
        // First: looking at free memory maps pages, if only the kernel's page of zeroes.
        let mut stats = self.collect(true);
        self.check(mark)?;
        stats.exact = true;
        for (number, region) in self.arena.regions() {
            let Some(class) = region.size_class() else { continue };
            let (live, bytes) = self.count_live(number, region, class);
            if let Some(of_class) = stats.classes.get_mut(class.index()) {
                // What was read off the counters makes room for what is counted, of which a class may have several regions.
                of_class.live += live;
                of_class.allocated += bytes;
            }
        }
        stats.add_up_chunks();
        Ok(stats)
    }

    /// Number of live chunks in a region, and their requested bytes.
    fn count_live(&self, number: usize, region: &Region, class: ClassId) -> (usize, usize) {
        let slots = 1 << slots_log2(class);
        let (mut live, mut bytes) = (0, 0);
        for first in (0..region.frontier()).step_by(slots) {
            // Whoever holds the class lock keeps its slabs from being released.
            let keeps_slabs = self.class(class).lock();
            if !keeps_slabs.has_memory(self.ground(), SlabId::new(number, first >> slots_log2(class))) {
                continue;
            }
            for index in (first..first + slots as u32).map(SlotIndex) {
                let state = region.state(index).load(Ordering::Acquire);
                if state::is_live(state) || state == state::RESIZING {
                    live += 1;
                    bytes += checksum::read(region.chunk(index, class.stride())).fields().size();
                }
            }
        }
        (live, bytes)
    }

    /// With `visited`, leaves out what visiting the chunks will tell, and asks the kernel what is in memory.
    fn collect(&self, visited: bool) -> Stats {
        let mut stats = Stats::nothing();
        let caches = self.caches();
        for class in ClassId::all() {
            // The registry keeps caches from changing hands, the class lock keeps slots from moving between them and the slabs.
            let class_state = self.class(class).lock();
            let (mut cached, mut quarantined) = (0, 0);
            caches.for_each(|cache| {
                // SAFETY: caches of the registry stay mapped as long as the heap.
                let (ready, held) = unsafe { ThreadCache::peek(cache, class) };
                cached += ready;
                quarantined += held;
            });
            let census = class_state.census();
            drop(class_state);
            let live = if visited { 0 } else { census.out.saturating_sub(cached + quarantined) };
            if let Some(of_class) = stats.classes.get_mut(class.index()) {
                *of_class = ClassStats {
                    live,
                    allocated: live * class.capacity(),
                    cached,
                    quarantined,
                    retained: census.free,
                    slabs: census.slabs,
                    empty_slabs: census.empty_slabs,
                    ..*of_class
                };
            }
            stats.cached += cached * class.stride();
            stats.quarantined += quarantined * class.stride();
            stats.retained += census.free * class.stride();
            stats.empty += census.empty_slabs * census.slab_bytes;
        }
        caches.for_each(|_| stats.caches += 1);
        if self.guarded.depot().is_settled() {
            stats.metadata += stats.caches * remembered::ACCESSIBLE;
        }
        drop(caches);
        self.collect_large(&mut stats, visited);
        (stats.guarded_chunks, stats.guarded_allocated, stats.guarded_active) = self.guarded.footprint();
        stats.metadata += self.guarded.table_bytes() + self.heap_profile.table_bytes();
        stats.zero_sized = self.zero_sized.lock().live();
        stats.committed = self.budget.used();
        stats.peak = self.budget.peak();
        stats.violations = self.violations();
        self.collect_metadata(&mut stats, visited);
        stats.add_up_chunks();
        stats
    }

    fn collect_large(&self, stats: &mut Stats, measured: bool) {
        let census = self.secondary.census(measured);
        stats.large_chunks = census.chunks;
        stats.large_allocated = census.allocated;
        stats.large_active = census.active;
        stats.large_quarantined = census.quarantined;
        stats.cached += census.kept;
        stats.metadata += census.table.1;
        stats.resident = census.resident;
        if measured {
            stats.resident += mapping::resident(census.table.0, census.table.1);
        }
    }

    /// Tables, caches, the heap itself; and what of all this, and of the slabs, is in memory.
    fn collect_metadata(&self, stats: &mut Stats, measured: bool) {
        let mut add = |start, bytes| {
            let (start, bytes) = (mapping::page_floor(start), mapping::page_ceil(bytes + start % mapping::PAGE));
            stats.metadata += bytes;
            if measured {
                stats.resident += mapping::resident(start, bytes);
            }
        };
        add(core::ptr::from_ref(self).addr(), CORE_BYTES);
        self.arena.for_each_table(&mut add);
        self.caches().for_each(|cache| add(cache, CACHE_BYTES));
        stats.metadata += self.zero_sized.lock().committed();
        if !measured {
            stats.resident = stats.committed + stats.metadata;
            return;
        }
        for (_, region) in self.arena.regions() {
            let Some(class) = region.size_class() else { continue };
            let start = region.slot_start(SlotIndex(0), class.stride());
            stats.resident += mapping::resident(start, region.frontier() as usize * class.stride());
        }
    }
}
