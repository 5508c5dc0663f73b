//! What a check found: a value, never an abort. [`crate::report`] turns it into the end of the process.

use crate::chunk::header::Origin;
use core::fmt;

/// Which rule was broken.
///
/// ```
/// use testudo::{Heap, Options, Kind};
///
/// let heap = Heap::new(Options::DEFAULT)?;
/// let violation = heap.size_of(std::ptr::NonNull::dangling()).unwrap_err();
/// assert_eq!(violation.kind, Kind::NotAChunk);
/// # Ok::<(), testudo::CreateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A chunk that was already given back was given back again.
    DoubleFree,
    /// An operation on a chunk that was given back before.
    Freed,
    /// The address is not the start of a live chunk.
    NotAChunk,
    /// Bytes behind the requested size were changed.
    Overflow,
    /// The header in front of the chunk does not match its checksum.
    CorruptHeader,
    /// A freed chunk was written to.
    WriteAfterFree,
    /// A freed chunk was read or written, and the access faulted.
    UseAfterFree,
    /// Bytes in front of the chunk were read or written, and the access faulted.
    Underflow,
    /// A chunk of no bytes was read or written, and the access faulted.
    ZeroSized,
    /// The chunk was allocated by one family of functions and given back by another.
    Mismatch,
    /// The size given back differs from the size that was asked for.
    WrongSize,
    /// The alignment given back differs from the alignment that was asked for.
    WrongAlignment,
}

/// What the program was doing.
///
/// ```
/// use testudo::{Heap, Options, Operation};
///
/// let heap = Heap::new(Options::DEFAULT)?;
/// let violation = heap.size_of(std::ptr::NonNull::dangling()).unwrap_err();
/// assert_eq!(violation.operation, Operation::UsableSize);
/// # Ok::<(), testudo::CreateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Giving a chunk back.
    Free,
    /// Asking for memory.
    Allocate,
    /// Changing a chunk's size.
    Reallocate,
    /// Asking for a chunk's size.
    UsableSize,
    /// Verifying the heap.
    Check,
    /// Reading memory.
    Read,
    /// Writing memory.
    Write,
}

/// What is known about the chunk concerned.
///
/// ```
/// use std::alloc::Layout;
/// use testudo::{Chunk, Heap, Options};
///
/// let heap = Heap::new(Options::DEFAULT)?;
/// let chunk = heap.allocate(Layout::new::<u64>())?;
/// // SAFETY: nobody uses the chunk; the wrong layout is what the heap finds.
/// let violation = unsafe { heap.deallocate(chunk, Layout::new::<u8>()) }.unwrap_err();
/// assert_eq!(violation.chunk, Some(Chunk { size: 8, origin: Some("Rust") }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Requested size in bytes.
    pub size: usize,
    /// How it was allocated, as a report names it; `None` when its header can't be believed.
    pub origin: Option<&'static str>,
}

/// A broken rule, with what was found.
///
/// ```
/// use std::alloc::Layout;
/// use testudo::{Heap, Kind, Options};
///
/// let heap = Heap::new(Options::DEFAULT)?;
/// let layout = Layout::from_size_align(24, 16)?;
/// let chunk = heap.allocate(layout)?;
/// let wrong = Layout::from_size_align(32, 16)?;
/// // SAFETY: the chunk is used no more. The wrong size is what the heap finds.
/// let violation = unsafe { heap.deallocate(chunk, wrong) }.unwrap_err();
/// assert_eq!(violation.kind, Kind::WrongSize);
/// assert_eq!((violation.expected, violation.seen), (24, 32));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub kind: Kind,
    /// What the program was doing when it was found.
    pub operation: Operation,
    /// The address concerned: of the chunk, or what was passed instead of one.
    pub address: usize,
    /// The chunk, where there is one.
    pub chunk: Option<Chunk>,
    /// What the check expected to find, where that is a number: a word of memory, a size in bytes.
    pub expected: u64,
    /// What it found.
    pub seen: u64,
    /// Bytes from the start of the chunk to the damage, where there is such a place.
    pub offset: Option<isize>,
    /// One sentence about what that means.
    pub detail: &'static str,
}

impl Violation {
    #[cold]
    pub(crate) fn new(kind: Kind, operation: Operation, address: usize, detail: &'static str) -> Self {
        Self { kind, operation, address, chunk: None, expected: 0, seen: 0, offset: None, detail }
    }

    #[cold]
    pub(crate) fn chunk(mut self, size: usize, origin: Option<Origin>) -> Self {
        self.chunk = Some(Chunk { size, origin: origin.map(Origin::name) });
        self
    }

    #[cold]
    pub(crate) fn values(mut self, expected: u64, seen: u64) -> Self {
        self.expected = expected;
        self.seen = seen;
        self
    }

    #[cold]
    pub(crate) fn at(mut self, offset: isize) -> Self {
        self.offset = Some(offset);
        self
    }

    /// The rule in the words that begin a report.
    ///
    /// ```
    /// use testudo::{Heap, Options};
    ///
    /// let heap = Heap::new(Options::DEFAULT)?;
    /// let violation = heap.size_of(std::ptr::NonNull::dangling()).unwrap_err();
    /// assert_eq!(violation.what(), "invalid malloc_usable_size");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn what(&self) -> &'static str {
        match (self.kind, self.operation) {
            (Kind::DoubleFree, _) | (Kind::Freed, Operation::Free) => "double free",
            (Kind::Freed, Operation::Reallocate) => "realloc of a freed chunk",
            (Kind::Freed, _) => "malloc_usable_size of a freed chunk",
            (Kind::NotAChunk, Operation::Reallocate) => "invalid realloc",
            (Kind::NotAChunk, Operation::UsableSize) => "invalid malloc_usable_size",
            (Kind::NotAChunk, _) => "invalid free",
            (Kind::Overflow, Operation::Read) => "buffer overflow by a read",
            (Kind::Overflow, Operation::Write) => "buffer overflow by a write",
            (Kind::Overflow, _) => "buffer overflow",
            (Kind::Underflow, Operation::Read) => "buffer underflow by a read",
            (Kind::Underflow, _) => "buffer underflow by a write",
            (Kind::UseAfterFree, Operation::Read) => "read after free",
            (Kind::UseAfterFree, _) => "write after free",
            (Kind::ZeroSized, Operation::Read) => "read of a zero-sized chunk",
            (Kind::ZeroSized, _) => "write to a zero-sized chunk",
            (Kind::CorruptHeader, _) => "corrupted chunk header",
            (Kind::WriteAfterFree, _) => "write after free",
            (Kind::Mismatch, _) => "mismatched deallocation",
            (Kind::WrongSize, _) => "wrong size",
            (Kind::WrongAlignment, _) => "wrong alignment",
        }
    }
}

impl fmt::Display for Violation {
    /// The first line of a report, without the leading `testudo: `.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {:#x}", self.what(), self.address)?;
        match self.chunk {
            Some(Chunk { size, origin: Some(origin) }) => write!(out, " ({size}-byte {origin} chunk)"),
            Some(Chunk { size, origin: None }) => write!(out, " (slot of {size} bytes)"),
            None => write!(out, " (not a chunk of this heap)"),
        }
    }
}

impl core::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::{Kind, Operation, Violation};

    #[test]
    fn a_report_begins_with_the_rule_that_was_broken_and_by_what() {
        for (kind, operation, words) in [
            (Kind::DoubleFree, Operation::Allocate, "double free"),
            (Kind::Freed, Operation::Free, "double free"),
            (Kind::Freed, Operation::Reallocate, "realloc of a freed chunk"),
            (Kind::Freed, Operation::UsableSize, "malloc_usable_size of a freed chunk"),
            (Kind::NotAChunk, Operation::Free, "invalid free"),
            (Kind::NotAChunk, Operation::Reallocate, "invalid realloc"),
            (Kind::NotAChunk, Operation::UsableSize, "invalid malloc_usable_size"),
            (Kind::Overflow, Operation::Read, "buffer overflow by a read"),
            (Kind::Overflow, Operation::Write, "buffer overflow by a write"),
            (Kind::Overflow, Operation::Check, "buffer overflow"),
            (Kind::Underflow, Operation::Read, "buffer underflow by a read"),
            (Kind::Underflow, Operation::Write, "buffer underflow by a write"),
            (Kind::UseAfterFree, Operation::Read, "read after free"),
            (Kind::UseAfterFree, Operation::Write, "write after free"),
            (Kind::ZeroSized, Operation::Read, "read of a zero-sized chunk"),
            (Kind::ZeroSized, Operation::Write, "write to a zero-sized chunk"),
            (Kind::CorruptHeader, Operation::Free, "corrupted chunk header"),
            (Kind::WriteAfterFree, Operation::Allocate, "write after free"),
            (Kind::Mismatch, Operation::Free, "mismatched deallocation"),
            (Kind::WrongSize, Operation::Free, "wrong size"),
            (Kind::WrongAlignment, Operation::Free, "wrong alignment"),
        ] {
            let violation = Violation::new(kind, operation, 0x1230, "");
            assert_eq!(violation.what(), words, "{kind:?} by {operation:?}");
            assert_eq!(violation.to_string(), format!("{words} at 0x1230 (not a chunk of this heap)"));
            assert_eq!(violation.chunk(9, None).to_string(), format!("{words} at 0x1230 (slot of 9 bytes)"));
        }
    }
}
