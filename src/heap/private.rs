//! Heaps as values: isolated, freed whole when dropped.

use super::allocate::Failure;
use super::core::{Core, CreateError, PRIVATE_ARENA};
use super::demand::Demand;
use super::fork;
use super::free::Freed;
use crate::chunk::header::Origin;
use crate::heap_profile::HeapProfileError;
use crate::options::Options;
use crate::protections::{DefaultProfile, Set, with_mixture, with_set};
use crate::size_class::{FINE_MAX, SMALL_MAX};
use crate::stats::Stats;
use crate::thread_cache::ThreadCache;
use crate::violation::{Operation, Violation};
use core::alloc::Layout;
use core::ffi::CStr;
use core::fmt;
use core::ptr::NonNull;

/// Why a [`Heap`] gave no chunk.
///
/// ```
/// use std::alloc::Layout;
/// use testudo::{AllocateError, Heap, Options};
///
/// let heap = Heap::new(Options { max_alloc_mb: 1, ..Options::DEFAULT })?;
/// assert_eq!(heap.allocate(Layout::array::<u8>(2 << 20)?), Err(AllocateError::OutOfMemory));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateError {
    /// The system or the heap's own limits refused.
    OutOfMemory,
    /// The heap has been tampered with; nothing in it can be trusted any more.
    Violation(Violation),
}

impl fmt::Display for AllocateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => out.write_str("out of memory"),
            Self::Violation(violation) => violation.fmt(out),
        }
    }
}

impl core::error::Error for AllocateError {}

impl From<Failure> for AllocateError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::OutOfMemory => Self::OutOfMemory,
            Failure::Violation(violation) => Self::Violation(violation),
        }
    }
}

/// Why a heap did not do what it was asked.
trait Refusal {
    /// Whether something was found wrong, rather than no memory left.
    fn is_violation(&self) -> bool;
}

impl Refusal for Violation {
    fn is_violation(&self) -> bool {
        true
    }
}

impl Refusal for Failure {
    fn is_violation(&self) -> bool {
        matches!(self, Self::Violation(_))
    }
}

/// An isolated heap: its own address range, secrets, limits and quarantine. For a parser, a request or a plug-in, so that
/// what goes wrong there stays there.
///
/// Dropping it gives everything in it back at once, whether it was freed or not. Nothing may use a chunk after that;
/// collections that borrow the heap (feature `allocator-api2`) leave that to the compiler.
///
/// # Violations
/// Checks return what they find; no method of this type ends the process. After a [`Violation`] other than for a wrong
/// argument, somebody has written where they must not: drop the heap, and trust nothing that was in it. Collections have
/// no way to say so: through `allocator-api2` a violation ends the process with a report, as in the process-wide heap.
///
/// # Limits
/// [`Options::heap_limit_mb`] bounds what is allocated at a time, [`Options::max_alloc_mb`] a single request, both in MiB.
/// Beyond them there is [`AllocateError::OutOfMemory`], and nothing is lost. Every heap reserves 64 GiB of address space
/// (less under `ulimit -v`), which takes no memory.
///
/// # Threads and forks
/// A heap can be sent to and shared by threads, and a chunk given back by another thread than the one that allocated
/// it. All go through one lock, so threads that allocate a lot should have a heap each. `fork` waits until no thread is
/// inside a heap; the child goes on with a copy of each heap, and draws randomness of its own.
///
/// ```
/// use std::alloc::Layout;
/// use testudo::{Heap, Options};
///
/// let heap = Heap::new(Options { heap_limit_mb: 64, ..Options::STRICT })?;
/// let layout = Layout::from_size_align(100, 16)?;
/// let chunk = heap.allocate(layout)?;
/// // SAFETY: the chunk was just allocated with this layout.
/// unsafe { heap.deallocate(chunk, layout) }?;
/// // SAFETY: a mistake, which the heap finds.
/// let twice = unsafe { heap.deallocate(chunk, layout) };
/// assert_eq!(twice.unwrap_err().what(), "double free");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Heap {
    /// Address of the heap proper; nothing in it is reached but through shared references, atomics and locks.
    core: usize,
}

impl Heap {
    /// Makes a heap.
    ///
    /// # Errors
    /// When the system refuses address space, memory or entropy.
    ///
    /// ```
    /// use testudo::{Heap, Options};
    ///
    /// let heap = Heap::new(Options { heap_limit_mb: 16, max_alloc_mb: 4, ..Options::DEFAULT })?;
    /// assert_eq!(heap.stats().chunks, 0);
    /// # Ok::<(), testudo::CreateError>(())
    /// ```
    pub fn new(options: Options) -> Result<Self, CreateError> {
        Self::from_core(Core::create(options, PRIVATE_ARENA)?)
    }

    /// Gives a heap that was just made its cache, and enters it into the list.
    fn from_core(address: usize) -> Result<Self, CreateError> {
        // SAFETY: just made; destroyed below or in `drop`.
        let core = unsafe { Core::at(address) };
        match core.adopt_cache(false) {
            Ok(cache) => *core.shared.lock() = cache,
            Err(_) => {
                // SAFETY: nobody else has seen it yet.
                unsafe { Core::destroy(address) };
                return Err(CreateError::OutOfMemory);
            }
        }
        fork::enlist(core);
        Ok(Self { core: address })
    }

    pub(super) fn core(&self) -> &Core {
        // SAFETY: lives until `drop`.
        unsafe { Core::at(self.core) }
    }

    fn with_cache<T, E: Refusal>(&self, work: impl FnOnce(&Core, &mut ThreadCache) -> Result<T, E>) -> Result<T, E> {
        let core = self.core();
        let cache = core.shared.lock();
        // SAFETY: the heap's only cache, under its lock.
        let outcome = work(core, unsafe { &mut *core::ptr::with_exposed_provenance_mut(*cache) });
        drop(cache);
        self.counted(outcome)
    }

    /// Counts what was found wrong.
    fn counted<T, E: Refusal>(&self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.as_ref().is_err_and(Refusal::is_violation) {
            self.core().count_violation();
        }
        outcome
    }

    /// A chunk for `layout`; its first byte is at the returned address. Zeroed unless [`Options::zero_on_free`] is off or
    /// [`Options::fill_pattern`] on.
    ///
    /// # Errors
    /// When a limit is reached, or the slot that was picked has been written to while it was free.
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use testudo::{AllocateError, Heap, Options};
    /// let heap = Heap::new(Options { max_alloc_mb: 1, ..Options::DEFAULT })?;
    /// let chunk = heap.allocate(Layout::new::<[u64; 100]>())?;
    /// assert!(chunk.cast::<u64>().is_aligned());
    /// let bomb = heap.allocate(Layout::array::<u8>(1 << 40)?);
    /// assert_eq!(bomb, Err(AllocateError::OutOfMemory));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, AllocateError> {
        let chunk = self.with_cache(|core, cache| hand_out(core, cache, layout.size(), layout.align().ilog2()))?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(chunk)).ok_or(AllocateError::OutOfMemory)
    }

    /// The same, and the chunk is zero whatever the options say.
    #[cfg(any(test, feature = "allocator-api2"))]
    pub(super) fn allocate_zeroes(&self, layout: Layout) -> Result<NonNull<u8>, AllocateError> {
        if self.core().options.hands_out_zeroes() {
            return self.allocate(layout);
        }
        let align_log2 = layout.align().ilog2();
        let chunk =
            self.with_cache(|core, cache| core.allocate_zeroed(cache, layout.size(), align_log2, Origin::Rust))?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(chunk)).ok_or(AllocateError::OutOfMemory)
    }

    /// Takes a chunk back.
    ///
    /// # Errors
    /// What is wrong with the chunk or the layout; then the chunk has not been taken back.
    ///
    /// # Safety
    /// Nothing uses the chunk any more. That it is a live chunk of this heap and of this layout is
    /// checked, not required.
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use testudo::{Heap, Kind, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// let chunk = heap.allocate(Layout::new::<u64>())?;
    /// // SAFETY: nobody uses the chunk; that it was allocated otherwise is for the heap to find.
    /// let wrong = unsafe { heap.deallocate(chunk, Layout::new::<[u64; 2]>()) };
    /// assert_eq!(wrong.unwrap_err().kind, Kind::WrongSize);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn deallocate(&self, chunk: NonNull<u8>, layout: Layout) -> Result<(), Violation> {
        let chunk = chunk.as_ptr().expose_provenance();
        self.with_cache(|core, cache| take_back(core, cache, chunk, demand(layout)))
    }

    /// Changes the size of a chunk; returns its new address. Its contents up to the smaller size stay; what it gains
    /// is zeroed unless [`Options::zero_on_free`] is off or [`Options::fill_pattern`] on.
    ///
    /// # Errors
    /// When a limit is reached or the chunk is not what `layout` says; then it is as it was.
    ///
    /// # Safety
    /// Nothing uses the old address any more if this succeeds.
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use testudo::{Heap, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// let layout = Layout::array::<u8>(100)?;
    /// let chunk = heap.allocate(layout)?;
    /// // SAFETY: a live chunk of this layout, whose old address is forgotten.
    /// let longer = unsafe { heap.reallocate(chunk, layout, 1000) }?;
    /// assert_eq!(heap.size_of(longer), Ok(1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn reallocate(
        &self,
        chunk: NonNull<u8>,
        layout: Layout,
        size: usize,
    ) -> Result<NonNull<u8>, AllocateError> {
        let demand = demand(layout);
        let chunk = chunk.as_ptr().expose_provenance();
        let align_log2 = layout.align().ilog2();
        let moved = self.with_cache(|core, cache| {
            with_mixture!(cache.checks, P => {
                core.reallocate::<P>(cache, chunk, size, demand, align_log2, Origin::Rust)
            })
        })?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(moved)).ok_or(AllocateError::OutOfMemory)
    }

    /// The requested size of the live chunk at an address, in bytes.
    ///
    /// # Errors
    /// When there is no such chunk or it was damaged.
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use testudo::{Heap, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// let chunk = heap.allocate(Layout::new::<[u8; 100]>())?;
    /// assert_eq!(heap.size_of(chunk)?, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn size_of(&self, chunk: NonNull<u8>) -> Result<usize, Violation> {
        let chunk = chunk.as_ptr().expose_provenance();
        self.counted(self.core().locate(chunk, Operation::UsableSize)).map(|located| located.size())
    }

    /// Verifies every chunk, live and free.
    ///
    /// # Errors
    /// The first damage found.
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use testudo::{Heap, Kind, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// let chunk = heap.allocate(Layout::array::<u8>(20)?)?;
    /// // SAFETY: a mistake: the byte behind the chunk.
    /// unsafe { chunk.as_ptr().add(20).write_volatile(b'!') };
    /// assert_eq!(heap.check().unwrap_err().kind, Kind::Overflow);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self) -> Result<(), Violation> {
        self.with_cache(|core, cache| core.check(cache.mark))
    }

    /// Gives free memory back to the system; `false` when there was none.
    ///
    /// # Errors
    /// When a freed chunk turns out not to be the heap's.
    ///
    /// ```
    /// # use testudo::{Heap, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// assert!(!heap.purge()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn purge(&self) -> Result<bool, Violation> {
        self.with_cache(|core, cache| core.purge(cache))
    }

    /// Writes the heap's profile to a file, as [`crate::Testudo::write_heap_profile`] does for that of the process.
    ///
    /// # Errors
    /// When nothing is recorded ([`Options::heap_profile_kb`] is 0), and when the file cannot be written.
    ///
    /// ```
    /// # use testudo::{Heap, HeapProfileError, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// assert_eq!(heap.write_heap_profile(c"/tmp/profile"), Err(HeapProfileError::Off));
    /// # Ok::<(), testudo::CreateError>(())
    /// ```
    pub fn write_heap_profile(&self, path: &CStr) -> Result<(), HeapProfileError> {
        self.core().heap_profile.write(path)
    }

    /// What the heap holds, read off its counters; all but `allocated` and `resident` is exact, because the heap has one
    /// cache and its lock is held.
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use testudo::{Heap, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// let chunk = heap.allocate(Layout::new::<u64>())?;
    /// assert_eq!(heap.stats().chunks, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let _still = self.core().shared.lock();
        self.core().stats()
    }

    /// Verifies every chunk and counts what the heap holds exactly, at a cost that grows with the heap.
    ///
    /// # Errors
    /// The first damage found.
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use testudo::{Heap, Options};
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// let chunk = heap.allocate(Layout::new::<u64>())?;
    /// assert_eq!(heap.check_stats()?.allocated, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_stats(&self) -> Result<Stats, Violation> {
        self.with_cache(|core, cache| core.check_stats(cache.mark))
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        fork::delist(self.core());
        // SAFETY: `self` is gone after this, and chunks may not outlive their heap.
        unsafe { Core::destroy(self.core) };
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Heap").field("options", &self.core().options).finish_non_exhaustive()
    }
}

/// Allocates as the process-wide heap does: what is compiled for `default` first, then what is compiled for the heap's
/// set of checks, then the path that tells everything in full.
fn hand_out(core: &Core, cache: &mut ThreadCache, size: usize, align_log2: u32) -> Result<usize, Failure> {
    if cache.set == Some(Set::Default)
        && let Some(chunk) = core.allocate_ready::<DefaultProfile, FINE_MAX>(cache, size, align_log2, Origin::Rust)
    {
        return Ok(chunk);
    }
    if let Some(set) = cache.set
        && let Some(chunk) =
            with_set!(set, P => core.allocate_ready::<P, SMALL_MAX>(cache, size, align_log2, Origin::Rust))
    {
        return Ok(chunk);
    }
    core.allocate(cache, size, align_log2, Origin::Rust)
}

/// Takes a chunk back, in the same order of paths.
fn take_back(core: &Core, cache: &mut ThreadCache, chunk: usize, demand: Demand) -> Result<(), Violation> {
    let mut freed = Freed::Unusual;
    if cache.set == Some(Set::Default) {
        freed = core.free_usual::<DefaultProfile, FINE_MAX>(cache, chunk, demand);
    }
    if freed == Freed::Unusual {
        freed = with_set!(cache.checks, P => core.free_usual::<P, SMALL_MAX>(cache, chunk, demand));
    }
    match freed {
        Freed::Done => Ok(()),
        Freed::Unusual => with_mixture!(cache.checks, P => core.free::<P>(cache, chunk, demand)),
        Freed::Overfull(slot) => core.make_room(cache, core.class_of(slot), slot),
        Freed::AtTurn(slot) => core.turn(cache, core.class_of(slot), slot),
    }
}

/// What Rust's deallocation demands.
#[inline(always)]
pub(crate) fn demand(layout: Layout) -> Demand {
    Demand::origin("Rust's deallocation must meet Rust's allocation", Origin::Rust, &[])
        .sized(layout.size())
        .aligned(layout.align().ilog2())
}

#[cfg(test)]
mod tests {
    use super::{AllocateError, Core, Heap, PRIVATE_ARENA};
    use crate::options::Options;
    use crate::primary::region::state;
    use crate::violation::Kind;
    use core::alloc::Layout;
    use core::ptr::NonNull;
    use core::sync::atomic::Ordering;

    /// A heap as it is on a CPU without the CRC32 instruction.
    fn portable(options: Options) -> Heap {
        let core = Core::create(options, PRIVATE_ARENA).expect("memory");
        // SAFETY: nobody else has seen the heap yet, and nothing in it has been sealed.
        unsafe { (*core::ptr::with_exposed_provenance_mut::<Core>(core)).seal.has_instruction = false };
        Heap::from_core(core).expect("memory")
    }

    #[test]
    fn without_the_instruction_correct_use_passes_and_damage_is_found() {
        for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
            let heap = portable(Options { sample_rate: 0, ..options });
            for size in [8, 24, 100, 4096, 300_000] {
                let layout = Layout::from_size_align(size, 16).expect("a layout");
                for _ in 0..200 {
                    let chunk = heap.allocate(layout).expect("memory");
                    // SAFETY: a live chunk of this layout.
                    unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
                }
                let chunk = heap.allocate(layout).expect("memory");
                // SAFETY: the attack: the byte lies in the header.
                unsafe { *chunk.as_ptr().wrapping_sub(1) ^= 0x10 };
                // SAFETY: what is wrong with the chunk is checked.
                let found = unsafe { heap.deallocate(chunk, layout) }.expect_err("a damaged header");
                assert_eq!(found.kind, Kind::CorruptHeader);
            }
        }
    }

    const LAYOUT: Layout = Layout::new::<[u64; 5]>();

    fn free(heap: &Heap, chunk: NonNull<u8>) -> Result<(), crate::Violation> {
        // SAFETY: the tests do not use what they give back.
        unsafe { heap.deallocate(chunk, LAYOUT) }
    }

    /// Leaves a freed chunk behind as a racing double free does whose other thread was the later one: the slot is in this
    /// heap's cache, and has the mark of another.
    fn lost_race(heap: &Heap) -> NonNull<u8> {
        let chunk = heap.allocate(LAYOUT).expect("memory");
        free(heap, chunk).expect("a correct free");
        let region = heap.core().arena.own_region(chunk.as_ptr().addr());
        region.own_slot(chunk.as_ptr().addr()).state.store(state::SHARED_MARK - 1, Ordering::Relaxed);
        chunk
    }

    #[test]
    fn a_slot_that_another_thread_freed_too_is_not_handed_out() {
        for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
            let heap = Heap::new(options).expect("a heap");
            let lost = lost_race(&heap);
            let found = (0..10_000).find_map(|_| match heap.allocate(LAYOUT) {
                Ok(chunk) => {
                    assert_ne!(chunk, lost);
                    free(&heap, chunk).expect("a correct free");
                    None
                }
                Err(AllocateError::Violation(violation)) => Some(violation.kind),
                Err(AllocateError::OutOfMemory) => None,
            });
            assert_eq!(found, Some(Kind::DoubleFree));
        }
    }

    #[test]
    fn a_slot_that_another_thread_freed_too_does_not_go_back_to_its_slab() {
        for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
            let heap = Heap::new(options).expect("a heap");
            lost_race(&heap);
            assert_eq!(heap.purge().expect_err("somebody else's slot").kind, Kind::DoubleFree);
        }
    }
}
