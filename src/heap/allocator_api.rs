//! Collections on a private heap: the `Allocator` trait of the `allocator-api2` package, on stable Rust.
//!
//! The trait can only say "out of memory", and a collection that went on after a violation would go on with memory that
//! cannot be trusted: so here a violation ends the process with a report.

use super::private::{AllocateError, Heap};
use crate::report;
use crate::violation::Violation;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::NonNull;

/// Collections borrow the heap, so the compiler sees to it that none outlives it.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use testudo::{Heap, Options};
///
/// let heap = Heap::new(Options { heap_limit_mb: 8, ..Options::DEFAULT })?;
/// let mut squares = Vec::new_in(&heap);
/// squares.extend((0..1000_u64).map(|number| number * number));
/// assert_eq!(squares[999], 998_001);
/// // More than the heap may hold is an error, not the end.
/// assert!(squares.try_reserve(2 << 20).is_err());
/// # Ok::<(), testudo::CreateError>(())
/// ```
///
/// A violation ends the process with a report.
// SAFETY: chunks have the size and alignment of their layout, and stay where they are until they are given back or the heap
// is dropped, which the borrow forbids for as long as a copy of it exists. All copies are the same heap.
unsafe impl Allocator for &Heap {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        slice(self, Heap::allocate(self, layout), layout.size())
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        slice(self, self.allocate_zeroes(layout), layout.size())
    }

    #[inline]
    unsafe fn deallocate(&self, chunk: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        if let Err(violation) = unsafe { Heap::deallocate(self, chunk, layout) } {
            stop(self, &violation);
        }
    }

    #[inline]
    unsafe fn grow(&self, chunk: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promise.
        unsafe { resize(self, chunk, old, new) }
    }

    #[inline]
    unsafe fn grow_zeroed(&self, chunk: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promise.
        let grown = unsafe { resize(self, chunk, old, new) }?;
        // SAFETY: the chunk has so many bytes and is the caller's.
        unsafe { zero_from(self, grown, old.size()) };
        Ok(grown)
    }

    #[inline]
    unsafe fn shrink(&self, chunk: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promise.
        unsafe { resize(self, chunk, old, new) }
    }
}

/// What the trait calls an allocation; the end of the process on a violation.
/// Ends the process with a report, which says what is known of the chunk's past.
#[cold]
#[inline(never)]
fn stop(heap: &Heap, violation: &Violation) -> ! {
    report::abort(violation, heap.core().guarded.history(violation.address).as_ref())
}

#[inline]
fn slice(heap: &Heap, outcome: Result<NonNull<u8>, AllocateError>, size: usize) -> Result<NonNull<[u8]>, AllocError> {
    match outcome {
        Ok(chunk) => Ok(NonNull::slice_from_raw_parts(chunk, size)),
        Err(AllocateError::OutOfMemory) => Err(AllocError),
        Err(AllocateError::Violation(violation)) => stop(heap, &violation),
    }
}

/// Writes zeroes from byte `from` on, where the heap has not seen to it.
///
/// # Safety
/// The chunk is the caller's.
#[inline]
unsafe fn zero_from(heap: &Heap, chunk: NonNull<[u8]>, from: usize) {
    if !heap.core().options.hands_out_zeroes() {
        let length = chunk.len().saturating_sub(from);
        // SAFETY: the chunk is the caller's and that long.
        unsafe { chunk.cast::<u8>().add(from.min(chunk.len())).write_bytes(0, length) };
    }
}

/// Another size and, rarely, another alignment.
///
/// # Safety
/// As for `Allocator::grow` and `Allocator::shrink`.
unsafe fn resize(heap: &Heap, chunk: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
    if old.align() == new.align() {
        // SAFETY: the caller's promise.
        return slice(heap, unsafe { heap.reallocate(chunk, old, new.size()) }, new.size());
    }
    let moved = slice(heap, heap.allocate(new), new.size())?;
    // SAFETY: both chunks are live and distinct; the old one is the caller's to give back, whatever is found there.
    unsafe {
        moved.cast::<u8>().copy_from_nonoverlapping(chunk, old.size().min(new.size()));
        Allocator::deallocate(&heap, chunk, old);
    }
    Ok(moved)
}
