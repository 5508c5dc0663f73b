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
use crate::stats::{ClassStats, Stats, Totals};
use crate::thread_cache::{CACHE_BYTES, ThreadCache};
use crate::trace::remembered;
use crate::violation::Violation;
use core::sync::atomic::Ordering;

impl Core {
    /// What the heap holds, from its counters: see [`Stats`] for what is approximate.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::nothing();
        stats.totals = self.totals(stats.keep_classes());
        stats
    }

    /// The same without the classes, each of which `visit` sees in its turn: all of them together are too much for the
    /// stacks of some threads. No lock is held meanwhile, so that `visit` may allocate.
    pub(crate) fn totals(&self, visit: impl FnMut(&ClassStats)) -> Totals {
        let mut totals = Totals::nothing();
        self.collect_classes(&mut totals, |class| self.class_stats(class), visit);
        self.collect_rest(&mut totals, false);
        totals
    }

    /// Verifies everything, then counts what the heap holds by visiting every chunk.
    ///
    /// # Errors
    /// The first damage found: sizes in damaged headers would be nonsense.
    pub(crate) fn check_stats(&self, mark: u8) -> Result<Stats, Violation> {
        let mut stats = Stats::nothing();
        stats.totals = self.check_totals(mark, stats.keep_classes())?;
        Ok(stats)
    }

    /// The same without the classes, as [`Self::totals`].
    ///
    /// # Errors
    /// As for [`Self::check_stats`].
    pub(crate) fn check_totals(&self, mark: u8, visit: impl FnMut(&ClassStats)) -> Result<Totals, Violation> {
        let mut totals = Totals::nothing();
        // First: looking at free memory maps pages, if only the kernel's page of zeroes.
        self.collect_rest(&mut totals, true);
        self.check(mark)?;
        totals.exact = true;
        let counted = |class| {
            let (live, allocated) = self.count_live(class);
            ClassStats { live, allocated, ..self.class_stats(class) }
        };
        self.collect_classes(&mut totals, counted, visit);
        Ok(totals)
    }

    fn collect_classes(
        &self,
        totals: &mut Totals,
        of: impl Fn(ClassId) -> ClassStats,
        mut visit: impl FnMut(&ClassStats),
    ) {
        for class in ClassId::all() {
            let of_class = of(class);
            totals.add(&of_class);
            totals.empty += of_class.empty_slabs * (class.stride() << slots_log2(class));
            visit(&of_class);
        }
    }

    /// What the heap holds of a class, from the counters.
    #[inline(never)]
    fn class_stats(&self, class: ClassId) -> ClassStats {
        // The registry keeps caches from changing hands, the class lock keeps slots from moving between them and the slabs.
        let caches = self.caches();
        let class_state = self.class(class).lock();
        let (mut cached, mut quarantined) = (0, 0);
        caches.for_each(|cache| {
            // SAFETY: caches of the registry stay mapped as long as the heap.
            let (ready, held) = unsafe { ThreadCache::peek(cache, class) };
            cached += ready;
            quarantined += held;
        });
        let census = class_state.census();
        let live = census.out.saturating_sub(cached + quarantined);
        ClassStats {
            live,
            allocated: live * class.capacity(),
            cached,
            quarantined,
            retained: census.free,
            slabs: census.slabs,
            empty_slabs: census.empty_slabs,
            ..ClassStats::nothing(class.index())
        }
    }

    /// Number of live chunks of a class, and their requested bytes.
    fn count_live(&self, class: ClassId) -> (usize, usize) {
        let of_class = self.arena.regions().filter(|(_, region)| region.size_class() == Some(class));
        of_class.fold((0, 0), |(live, bytes), (number, region)| {
            let (more, their_bytes) = self.count_live_in(number, region, class);
            (live + more, bytes + their_bytes)
        })
    }

    fn count_live_in(&self, number: usize, region: &Region, class: ClassId) -> (usize, usize) {
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

    /// What the heap holds beside its classes. With `measured`, the kernel is asked what is in memory.
    #[inline(never)]
    fn collect_rest(&self, totals: &mut Totals, measured: bool) {
        self.caches().for_each(|_| totals.caches += 1);
        if self.guarded.depot().is_settled() {
            totals.metadata += totals.caches * remembered::ACCESSIBLE;
        }
        self.collect_large(totals, measured);
        (totals.guarded_chunks, totals.guarded_allocated, totals.guarded_active) = self.guarded.footprint();
        totals.metadata += self.guarded.table_bytes() + self.heap_profile.table_bytes();
        totals.zero_sized = self.zero_sized.lock().live();
        totals.chunks += totals.large_chunks + totals.guarded_chunks + totals.zero_sized;
        totals.allocated += totals.large_allocated + totals.guarded_allocated;
        totals.active += totals.large_active + totals.guarded_active;
        totals.committed = self.budget.used();
        totals.peak = self.budget.peak();
        totals.violations = self.violations();
        self.collect_metadata(totals, measured);
    }

    fn collect_large(&self, totals: &mut Totals, measured: bool) {
        let census = self.secondary.census(measured);
        totals.large_chunks = census.chunks;
        totals.large_allocated = census.allocated;
        totals.large_active = census.active;
        totals.large_quarantined = census.quarantined;
        totals.cached += census.kept;
        totals.metadata += census.table.1;
        totals.resident = census.resident;
        if measured {
            totals.resident += mapping::resident(census.table.0, census.table.1);
        }
    }

    /// Tables, caches, the heap itself; and what of all this, and of the slabs, is in memory.
    fn collect_metadata(&self, totals: &mut Totals, measured: bool) {
        let mut add = |start, bytes| {
            let (start, bytes) = (mapping::page_floor(start), mapping::page_ceil(bytes + start % mapping::PAGE));
            totals.metadata += bytes;
            if measured {
                totals.resident += mapping::resident(start, bytes);
            }
        };
        add(core::ptr::from_ref(self).addr(), CORE_BYTES);
        self.arena.for_each_table(&mut add);
        self.caches().for_each(|cache| add(cache, CACHE_BYTES));
        totals.metadata += self.zero_sized.lock().committed();
        if !measured {
            totals.resident = totals.committed + totals.metadata;
            return;
        }
        for (_, region) in self.arena.regions() {
            let Some(class) = region.size_class() else { continue };
            let start = region.slot_start(SlotIndex(0), class.stride());
            totals.resident += mapping::resident(start, region.frontier() as usize * class.stride());
        }
    }
}
