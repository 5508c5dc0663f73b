//! Testudo as the allocator of a Rust program.

use crate::chunk::header::Origin;
use crate::heap::{private, process};
use crate::heap_profile::HeapProfileError;
use crate::options::Options;
use crate::stats::Stats;
use crate::violation::Violation;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::CStr;

/// The process-wide heap as a Rust allocator.
///
/// ```
/// use testudo::Testudo;
///
/// #[global_allocator]
/// static ALLOCATOR: Testudo = Testudo::new();
///
/// let text = String::from("on a hardened heap");
/// assert!(ALLOCATOR.check_heap().is_ok());
/// # drop(text);
/// ```
#[derive(Debug)]
pub struct Testudo {
    options: Options,
}

impl Testudo {
    /// Profile `default`. `TESTUDO_OPTIONS` in the environment changes it.
    ///
    /// ```
    /// use testudo::Testudo;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Testudo = Testudo::new();
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self::with(Options::DEFAULT)
    }

    /// Profile `strict`.
    ///
    /// ```
    /// use testudo::Testudo;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Testudo = Testudo::strict();
    /// ```
    #[must_use]
    pub const fn strict() -> Self {
        Self::with(Options::STRICT)
    }

    /// Options to start from. The first request in the process decides: there is one process-wide heap.
    ///
    /// ```
    /// use testudo::{Options, Testudo};
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Testudo = Testudo::with(Options { max_alloc_mb: 256, ..Options::DEFAULT });
    ///
    /// assert!(Vec::<u8>::new().try_reserve_exact(300 << 20).is_err());
    /// ```
    #[must_use]
    pub const fn with(options: Options) -> Self {
        Self { options }
    }

    /// What the heap holds, read off its counters in some 20 µs; [`Stats`] says what is approximate.
    ///
    /// ```
    /// use testudo::Testudo;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Testudo = Testudo::new();
    ///
    /// let text = vec![b'a'; 1000];
    /// let stats = ALLOCATOR.stats();
    /// assert!(stats.allocated >= text.len() && stats.active <= stats.committed);
    /// println!("{stats}");
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        process::stats()
    }

    /// Verifies every chunk and counts what the heap holds exactly, at a cost that grows with the heap.
    ///
    /// # Errors
    /// The first damage found.
    ///
    /// ```
    /// use testudo::Testudo;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Testudo = Testudo::new();
    ///
    /// assert!(ALLOCATOR.check_stats()?.exact);
    /// # Ok::<(), testudo::Violation>(())
    /// ```
    pub fn check_stats(&self) -> Result<Stats, Violation> {
        process::check_stats()
    }

    /// Verifies every chunk.
    ///
    /// # Errors
    /// The first damage found.
    ///
    /// ```
    /// use testudo::Testudo;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Testudo = Testudo::new();
    ///
    /// ALLOCATOR.check_heap()?;
    /// # Ok::<(), testudo::Violation>(())
    /// ```
    pub fn check_heap(&self) -> Result<(), Violation> {
        process::check()
    }

    /// Writes the heap profile: the calls that allocated what is live, and what was ever allocated, by a sample in proportion to
    /// bytes. `testudo heap-profile` turns the file into what pprof and flame graphs read.
    ///
    /// # Errors
    /// When nothing is recorded ([`Options::heap_profile_kb`] is 0), and when the file cannot be written.
    ///
    /// ```
    /// use testudo::{HeapProfileError, Options, Testudo};
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: Testudo = Testudo::with(Options { heap_profile_kb: 64, ..Options::DEFAULT });
    ///
    /// let folder = std::env::temp_dir().join(format!("heap-{}.profile", std::process::id()));
    /// let path = std::ffi::CString::new(folder.to_str().unwrap()).unwrap();
    /// ALLOCATOR.write_heap_profile(&path)?;
    /// assert!(std::fs::read_to_string(&folder).unwrap().ends_with("\nend\n"));
    /// # std::fs::remove_file(&folder).unwrap();
    /// # Ok::<(), HeapProfileError>(())
    /// ```
    pub fn write_heap_profile(&self, path: &CStr) -> Result<(), HeapProfileError> {
        process::write_heap_profile(Some(path))
    }

    /// Gives free memory back to the system; `false` when there was none.
    ///
    /// ```
    /// use testudo::Testudo;
    ///
    /// static ALLOCATOR: Testudo = Testudo::new();
    ///
    /// ALLOCATOR.purge(); // after the peak of a batch of work, say
    /// ```
    pub fn purge(&self) -> bool {
        process::purge()
    }
}

impl Default for Testudo {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: chunks have the size and alignment of their layout, stay where they are until they are given back, and no
// method unwinds.
unsafe impl GlobalAlloc for Testudo {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let chunk = process::allocate(&self.options, layout.size(), layout.align().ilog2(), Origin::Rust);
        core::ptr::with_exposed_provenance_mut(chunk)
    }

    #[inline]
    unsafe fn dealloc(&self, chunk: *mut u8, layout: Layout) {
        process::free(chunk.expose_provenance(), private::demand(layout));
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let chunk = process::allocate_zeroed(&self.options, layout.size(), layout.align().ilog2(), Origin::Rust);
        core::ptr::with_exposed_provenance_mut(chunk)
    }

    #[inline]
    unsafe fn realloc(&self, chunk: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let moved = process::reallocate(
            chunk.expose_provenance(),
            size,
            private::demand(layout),
            layout.align().ilog2(),
            Origin::Rust,
        );
        core::ptr::with_exposed_provenance_mut(moved)
    }
}
