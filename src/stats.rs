//! What a heap holds, as numbers: in all, per size class, and the process's mappings.
//!
//! [`crate::heap`] collects them. Nothing is counted while the program allocates: the numbers are read off what the heap
//! must know anyway, when somebody asks.

use crate::os::file;
use crate::size_class::{CLASSES, ClassId};
use core::fmt;
use core::ops::Deref;

/// What a heap holds: the [`Totals`], to which it dereferences, and the figures of every size class.
///
/// `stats()` reads it off the counters of slabs and caches, at a cost that does not depend on the number of chunks (some
/// 20 µs). Then `allocated` is an upper bound, because only the chunks themselves know their sizes, and so is
/// `resident`. While other threads allocate, a slot that is just passing between a thread and the slabs (at most 64 of
/// them per thread) may be counted as live. `check_stats()` verifies and visits every chunk and counts exactly.
///
/// It takes 7 KiB of stack, and so does whoever passes it on by value. The C functions of [`crate::c_api`] do without it.
///
/// ```
/// use std::alloc::Layout;
/// use testudo::{Heap, Options};
///
/// let heap = Heap::new(Options { sample_rate: 0, ..Options::DEFAULT })?;
/// heap.allocate(Layout::array::<u8>(100)?)?;
/// let stats = heap.check_stats()?;
/// assert_eq!((stats.chunks, stats.allocated), (1, 100));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub(crate) totals: Totals,
    classes: [ClassStats; CLASSES],
}

/// What a heap holds in all, in bytes unless it says otherwise. See [`Stats`] for what is approximate.
///
/// In a heap at rest `committed` is the sum of `active`, `cached`, `quarantined` and `retained`.
///
/// ```
/// use testudo::{Heap, Options, Totals};
///
/// let stats = Heap::new(Options::DEFAULT)?.stats();
/// let totals: &Totals = &stats;
/// assert_eq!(totals.chunks, 0);
/// # Ok::<(), testudo::CreateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Requested bytes of live chunks; when not `exact`, what those chunks could hold.
    pub allocated: usize,
    /// Number of live chunks.
    pub chunks: usize,
    /// Slots of live small chunks, and accessible parts of the mappings of live large ones.
    pub active: usize,
    /// Slots that lie ready in thread caches, and mappings of freed large chunks that are kept for reuse.
    pub cached: usize,
    /// Slots of freed small chunks that are held back from reuse.
    pub quarantined: usize,
    /// Free slots of slabs with memory behind them.
    pub retained: usize,
    /// The part of `retained` that lies in slabs all of whose slots are free: what goes back to the system next.
    pub empty: usize,
    /// Slabs and mappings with memory behind them: what `heap_limit_mb` limits.
    pub committed: usize,
    /// The most that `committed` has been.
    pub peak: usize,
    /// Pages of slabs, mappings and metadata that are in memory; when not `exact`, the most that it can be.
    pub resident: usize,
    /// Accessible memory of slot states, slab descriptors, thread caches and tables. Much of it is never touched and so not
    /// resident.
    pub metadata: usize,
    /// Number of live large chunks.
    pub large_chunks: usize,
    /// Requested bytes of live large chunks.
    pub large_allocated: usize,
    /// Freed large chunks whose addresses are in quarantine (address space, not memory).
    pub large_quarantined: usize,
    /// Accessible parts of the mappings of live large chunks.
    pub large_active: usize,
    /// Number of live guarded chunks, which have pages of their own.
    pub guarded_chunks: usize,
    /// Requested bytes of live guarded chunks.
    pub guarded_allocated: usize,
    /// Their pages.
    pub guarded_active: usize,
    /// Number of live zero-sized chunks.
    pub zero_sized: usize,
    /// Number of thread caches, whether a thread is using them or not.
    pub caches: usize,
    /// Number of violations that the heap has found and returned. A violation in the process-wide heap ends the process.
    pub violations: usize,
    /// Whether every chunk was visited.
    pub exact: bool,
}

/// What a heap holds of one size class, in slots unless it says otherwise.
///
/// ```
/// use std::alloc::Layout;
/// use testudo::{Heap, Options};
///
/// let heap = Heap::new(Options { sample_rate: 0, ..Options::DEFAULT })?;
/// heap.allocate(Layout::array::<u8>(100)?)?;
/// let stats = heap.stats();
/// let class = stats.classes().iter().find(|class| class.size >= 100).unwrap();
/// assert!(class.is_used() && class.live == 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStats {
    /// The largest request that the class serves, in bytes.
    pub size: usize,
    /// Bytes from one slot to the next.
    pub stride: usize,
    /// Slots in the program's hands.
    pub live: usize,
    /// Requested bytes of live chunks; when not [`Totals::exact`], what those chunks could hold.
    pub allocated: usize,
    /// Slots that lie ready in thread caches.
    pub cached: usize,
    /// Slots that are held back from reuse.
    pub quarantined: usize,
    /// Free slots of slabs with memory behind them.
    pub retained: usize,
    /// Number of slabs with memory behind them.
    pub slabs: usize,
    /// Number of those in which every slot is free.
    pub empty_slabs: usize,
}

impl Totals {
    /// A heap that holds nothing.
    pub(crate) fn nothing() -> Self {
        Self {
            allocated: 0,
            chunks: 0,
            active: 0,
            cached: 0,
            quarantined: 0,
            retained: 0,
            empty: 0,
            committed: 0,
            peak: 0,
            resident: 0,
            metadata: 0,
            large_chunks: 0,
            large_allocated: 0,
            large_quarantined: 0,
            large_active: 0,
            guarded_chunks: 0,
            guarded_allocated: 0,
            guarded_active: 0,
            zero_sized: 0,
            caches: 0,
            violations: 0,
            exact: false,
        }
    }

    /// Adds what a class holds, but for what only the class knows: the length of its slabs.
    pub(crate) fn add(&mut self, class: &ClassStats) {
        self.chunks += class.live;
        self.allocated += class.allocated;
        self.active += class.live * class.stride;
        self.cached += class.cached * class.stride;
        self.quarantined += class.quarantined * class.stride;
        self.retained += class.retained * class.stride;
    }
}

impl Stats {
    /// A heap that holds nothing.
    pub(crate) fn nothing() -> Self {
        Self { totals: Totals::nothing(), classes: core::array::from_fn(ClassStats::nothing) }
    }

    /// Puts the classes that it is called with in their places: all of them, smallest first.
    pub(crate) fn keep_classes(&mut self) -> impl FnMut(&ClassStats) {
        let mut places = self.classes.iter_mut();
        move |class| {
            if let Some(place) = places.next() {
                *place = *class;
            }
        }
    }

    /// The size classes, smallest first. All of them: most heaps use a few.
    #[must_use]
    pub fn classes(&self) -> &[ClassStats] {
        &self.classes
    }
}

impl ClassStats {
    pub(crate) fn nothing(index: usize) -> Self {
        let (size, stride) = ClassId::new(index).map_or((0, 0), |class| (class.capacity(), class.stride()));
        Self { size, stride, live: 0, allocated: 0, cached: 0, quarantined: 0, retained: 0, slabs: 0, empty_slabs: 0 }
    }

    /// Whether the class has memory.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.slabs != 0
    }
}

impl Deref for Stats {
    type Target = Totals;

    fn deref(&self) -> &Totals {
        &self.totals
    }
}

impl fmt::Display for Stats {
    /// As [`Totals`]: the classes are left out.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.totals.fmt(out)
    }
}

impl fmt::Display for Totals {
    /// Some lines for people, as `malloc_stats()` writes them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.exact { "" } else { " at most" };
        writeln!(out, "testudo: {} chunks live, {} bytes in their slots", self.chunks, self.active)?;
        writeln!(out, "  requested{most}      {:>14}", self.allocated)?;
        writeln!(out, "  large chunks           {:>14}  in {} chunks", self.large_allocated, self.large_chunks)?;
        writeln!(out, "  guarded chunks         {:>14}  in {} chunks", self.guarded_allocated, self.guarded_chunks)?;
        writeln!(out, "  zero-sized chunks      {:>14}", self.zero_sized)?;
        writeln!(out, "  ready in caches        {:>14}  in {} caches", self.cached, self.caches)?;
        writeln!(out, "  in quarantine          {:>14}", self.quarantined)?;
        writeln!(out, "  free in slabs          {:>14}  of which {} in empty slabs", self.retained, self.empty)?;
        writeln!(out, "  committed              {:>14}  {} at the peak", self.committed, self.peak)?;
        writeln!(out, "  resident{most}       {:>14}", self.resident)?;
        writeln!(out, "  metadata               {:>14}", self.metadata)?;
        writeln!(out, "  addresses quarantined  {:>14}", self.large_quarantined)?;
        writeln!(out, "  violations found       {:>14}", self.violations)
    }
}

/// How many mappings the process has, and how many it may have (`vm.max_map_count`).
///
/// Every guard takes mappings, and so do threads, libraries and files; when none are left, `mmap` fails with memory
/// to spare.
///
/// ```
/// use testudo::Mappings;
///
/// let mappings = Mappings::of_process().expect("/proc is there");
/// assert!(mappings.used < mappings.limit);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mappings {
    /// Lines of `/proc/self/maps`.
    pub used: usize,
    /// The kernel's limit.
    pub limit: usize,
}

impl Mappings {
    /// Counts the mappings of the process. The kernel writes a line for each, which takes it about a millisecond for 1,000.
    ///
    /// `None` where `/proc` cannot be read.
    #[must_use]
    pub fn of_process() -> Option<Self> {
        let used = file::count_lines(c"/proc/self/maps")?;
        let mut text = [0; 32];
        let text = file::read(c"/proc/sys/vm/max_map_count", &mut text)?;
        let limit = core::str::from_utf8(text).ok()?.trim().parse().ok()?;
        Some(Self { used, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::Mappings;

    #[test]
    fn mappings_are_counted_as_the_kernel_lists_them() {
        let mappings = Mappings::of_process().expect("/proc is there");
        let listed = std::fs::read_to_string("/proc/self/maps").expect("/proc is there").lines().count();
        // Other tests map and unmap meanwhile.
        assert!(mappings.used.abs_diff(listed) < 200 + listed / 2, "{} and {listed}", mappings.used);
        assert!(mappings.used > 10 && mappings.limit >= mappings.used, "{mappings:?}");
    }
}
