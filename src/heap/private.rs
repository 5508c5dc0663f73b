//! Heaps as values: isolated, freed whole when dropped.

use super::allocate::Failure;
use super::check::Stats;
use super::core::{Core, CreateError, PRIVATE_ARENA};
use super::free::Demand;
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::os::lock::Lock;
use crate::protections::with_mixture;
use crate::thread_cache::ThreadCache;
use crate::violation::{Operation, Violation};
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

/// Why a [`Heap`] gave no chunk.
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

/// An isolated heap: its own address range, secrets, limits and quarantine. Dropping it gives everything in it back
/// at once, whether it was freed or not.
///
/// Threads share it through one lock. Checks return what they find; nothing here aborts.
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
    core: usize,
    cache: Lock<usize>,
}

// SAFETY: the heap is reached through shared references and locks, its cache under the lock.
unsafe impl Send for Heap {}

impl Heap {
    /// Makes a heap.
    ///
    /// # Errors
    /// When the system refuses address space, memory or entropy.
    pub fn new(options: Options) -> Result<Self, CreateError> {
        let core = Core::create(options, PRIVATE_ARENA)?;
        // SAFETY: just made; destroyed in `drop` only.
        let cache = unsafe { Core::at(core) }.adopt_cache(false);
        match cache {
            Ok(cache) => Ok(Self { core, cache: Lock::new(cache) }),
            Err(_) => {
                // SAFETY: nobody has seen it yet.
                unsafe { Core::destroy(core) };
                Err(CreateError::OutOfMemory)
            }
        }
    }

    fn core(&self) -> &Core {
        // SAFETY: lives until `drop`.
        unsafe { Core::at(self.core) }
    }

    fn with_cache<R>(&self, work: impl FnOnce(&Core, &mut ThreadCache) -> R) -> R {
        let cache = self.cache.lock();
        // SAFETY: the heap's only cache, under its lock.
        work(self.core(), unsafe { &mut *core::ptr::with_exposed_provenance_mut(*cache) })
    }

    /// A chunk for `layout`; its first byte is at the returned address. Zeroed unless `zero_on_free` is off.
    ///
    /// # Errors
    /// When a limit is reached, or the slot that was picked has been written to while it was free.
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, AllocateError> {
        let align_log2 = layout.align().ilog2();
        let chunk = self.with_cache(|core, cache| {
            with_mixture!(cache.set, P => core.allocate_aligned::<P>(cache, layout.size(), align_log2, Origin::Rust))
        })?;
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
    pub unsafe fn deallocate(&self, chunk: NonNull<u8>, layout: Layout) -> Result<(), Violation> {
        let demand = demand(layout);
        let chunk = chunk.as_ptr().expose_provenance();
        self.with_cache(|core, cache| with_mixture!(cache.set, P => core.free::<P>(cache, chunk, demand)))
    }

    /// Changes the size of a chunk; returns its new address. Its contents up to the smaller size stay.
    ///
    /// # Errors
    /// When a limit is reached or the chunk is not what `layout` says; then it is as it was.
    ///
    /// # Safety
    /// Nothing uses the old address any more if this succeeds.
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
            with_mixture!(cache.set, P => {
                core.reallocate::<P>(cache, chunk, size, demand, align_log2, Origin::Rust)
            })
        })?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(moved)).ok_or(AllocateError::OutOfMemory)
    }

    /// The requested size of the live chunk at an address, in bytes.
    ///
    /// # Errors
    /// When there is no such chunk or it was damaged.
    pub fn size_of(&self, chunk: NonNull<u8>) -> Result<usize, Violation> {
        let chunk = chunk.as_ptr().expose_provenance();
        self.core().locate(chunk, Operation::UsableSize).map(|located| located.size())
    }

    /// Verifies every chunk.
    ///
    /// # Errors
    /// The first damage found.
    pub fn check(&self) -> Result<(), Violation> {
        self.with_cache(|core, cache| core.check(cache.mark))
    }

    /// Gives free memory back to the system.
    ///
    /// # Errors
    /// When a freed chunk turns out not to be the heap's.
    pub fn purge(&self) -> Result<(), Violation> {
        self.with_cache(|core, cache| core.purge(cache))
    }

    /// Counts what the heap holds.
    pub fn stats(&self) -> Stats {
        let _still = self.cache.lock();
        self.core().stats()
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: `self` is gone after this, and chunks may not outlive their heap.
        unsafe { Core::destroy(self.core) };
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Heap").field("options", &self.core().options).finish_non_exhaustive()
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
    use super::{Core, Heap, Lock, PRIVATE_ARENA};
    use crate::options::Options;
    use crate::violation::Kind;
    use core::alloc::Layout;

    /// A heap as it is on a CPU without the CRC32 instruction.
    fn portable(options: Options) -> Heap {
        let core = Core::create(options, PRIVATE_ARENA).expect("memory");
        // SAFETY: nobody else has seen the heap yet, and nothing in it has been sealed.
        unsafe { (*core::ptr::with_exposed_provenance_mut::<Core>(core)).seal.has_instruction = false };
        // SAFETY: just made.
        let cache = unsafe { Core::at(core) }.adopt_cache(false).expect("memory");
        Heap { core, cache: Lock::new(cache) }
    }

    #[test]
    fn without_the_instruction_correct_use_passes_and_damage_is_found() {
        for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
            let heap = portable(options);
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
}
