//! The heap profile: a sample of all chunks, with the calls that allocated them.
//!
//! * [`crate::byte_sampling`]: which allocations are recorded, in proportion to their bytes.
//! * [`table`]: what is known about recorded chunks, out of band.
//! * [`write`]: the profile as a text file, which `testudo heap-profile` turns into what other tools read.
//!
//! Fast paths know nothing of it: slots that are to be recorded, and chunks that are, have state bytes of their own,
//! which a fast path takes for something out of the ordinary. Without `heap_profile_kb` nothing here costs anything but a
//! comparison on slow paths.

mod table;
mod write;

use crate::options::{FilePath, Options};
use crate::os::lock::{Lock, RawLock};
use crate::os::{file, process};
use crate::random::Random;
use crate::report;
use core::ffi::CStr;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use table::Table;

/// Frames of a stack, innermost first.
pub(crate) const DEPTH: usize = 64;

/// Why a heap profile was not written.
///
/// ```
/// use testudo::{Heap, HeapProfileError, Options};
///
/// let heap = Heap::new(Options { heap_profile_kb: 512, ..Options::DEFAULT })?;
/// let refused = heap.write_heap_profile(c"/no/such/folder/profile").unwrap_err();
/// assert!(matches!(refused, HeapProfileError::File(_)));
/// # Ok::<(), testudo::CreateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeapProfileError {
    /// Nothing is recorded: `heap_profile_kb` is 0.
    Off,
    /// No file was named, neither here nor by `heap_profile_path`.
    NoPath,
    /// The file could not be made or written; the error number of the system.
    File(i32),
}

impl fmt::Display for HeapProfileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("no heap profile is taken: heap_profile_kb is 0"),
            Self::NoPath => out.write_str("no file for the heap profile: heap_profile_path is not set"),
            Self::File(error) => {
                out.write_str("the heap profile cannot be written: ")?;
                write!(out, "{}", file::Why(*error))
            }
        }
    }
}

impl core::error::Error for HeapProfileError {}

struct State {
    table: Table,
    random: Random,
}

/// The profile of a heap.
pub(crate) struct HeapProfile {
    /// Bytes between two samples, on average; zero is no profile.
    mean: usize,
    path: FilePath,
    state: Lock<State>,
    /// Whether a signal asked for the profile while somebody was changing it: whoever that is writes it then.
    wanted: AtomicBool,
    /// Profiles that were written to `path`.
    written: AtomicU32,
}

impl HeapProfile {
    pub(crate) fn new(options: &Options, random: Random) -> Self {
        Self {
            mean: (options.heap_profile_kb as usize) << 10,
            path: options.heap_profile_path,
            state: Lock::new(State { table: Table::unmapped(), random }),
            wanted: AtomicBool::new(false),
            written: AtomicU32::new(0),
        }
    }

    /// Whether anything is recorded.
    pub(crate) const fn is_on(&self) -> bool {
        self.mean != 0
    }

    /// The lock, for fork handlers.
    pub(crate) fn for_each_lock(&self, mut visit: impl FnMut(&RawLock)) {
        visit(self.state.raw());
    }

    /// Accessible bytes of the table.
    pub(crate) fn table_bytes(&self) -> usize {
        if !self.is_on() {
            return 0;
        }
        let is_mapped = self.state.lock().table.is_mapped();
        self.write_if_wanted();
        if is_mapped { table::BYTES } else { 0 }
    }

    /// Records a chunk of so many bytes that counts for `weight` of them; `false` when there is no room.
    pub(crate) fn record(&self, chunk: usize, size: usize, weight: usize, frames: &[usize]) -> bool {
        let recorded = {
            let mut state = self.state.lock();
            let State { table, random } = &mut *state;
            table.enter(random, chunk, size, weight, frames)
        };
        self.write_if_wanted();
        recorded
    }

    /// Takes the record of a chunk out that is about to be given back, if it has one.
    #[cold]
    pub(crate) fn forget(&self, chunk: usize) {
        self.state.lock().table.remove(chunk);
        self.write_if_wanted();
    }

    /// Writes the profile to a file of this name.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn write(&self, path: &CStr) -> Result<(), HeapProfileError> {
        if !self.is_on() {
            return Err(HeapProfileError::Off);
        }
        let written = write::write(path, self.mean, &mut self.state.lock().table);
        self.write_if_wanted();
        written.map_err(HeapProfileError::File)
    }

    /// Writes the profile to the file that the options name.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn write_to_own_path(&self) -> Result<(), HeapProfileError> {
        if !self.is_on() {
            return Err(HeapProfileError::Off);
        }
        let written = self.write_next(&mut self.state.lock().table);
        self.write_if_wanted();
        written
    }

    /// Writes the profile from a signal handler, which may have interrupted anything: at once, or, where the profile is being
    /// changed at this moment, as soon as that is done.
    pub(crate) fn write_from_handler(&self) {
        self.wanted.store(true, Ordering::Release);
        self.write_if_wanted();
    }

    /// Whoever has let go of the lock comes here, so that what a handler wanted meanwhile is not forgotten.
    pub(crate) fn write_if_wanted(&self) {
        while self.wanted.load(Ordering::Acquire) {
            let Some(mut state) = self.state.try_lock() else { return };
            if self.wanted.swap(false, Ordering::AcqRel) {
                let outcome = self.write_next(&mut state.table);
                drop(state);
                if let Err(error) = outcome {
                    self.say_why_not(error);
                }
            }
        }
    }

    /// Writes the next of the files that the options name. Not inlined, like what says that it failed: a handler may have
    /// little stack, and both have to find room there, but not at the same time.
    #[inline(never)]
    fn write_next(&self, table: &mut Table) -> Result<(), HeapProfileError> {
        let number = self.written.fetch_add(1, Ordering::Relaxed) + 1;
        let name = self.path.expanded(process::process_number(), number);
        match CStr::from_bytes_until_nul(name.as_bytes()) {
            Ok(name) if !self.path.is_none() => write::write(name, self.mean, table).map_err(HeapProfileError::File),
            _ => Err(HeapProfileError::NoPath),
        }
    }

    /// One line on standard error for each profile that was asked for and is not there, where nobody takes an error.
    #[cold]
    #[inline(never)]
    pub(crate) fn say_why_not(&self, error: HeapProfileError) {
        report::warn(&format_args!("{error}: {}", self.path));
    }

    /// After a fork, in the child: its profile goes on from its parent's, but signals to the parent are not the child's.
    pub(crate) fn restart_in_child(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Unmaps everything: the heap is going away.
    pub(crate) fn unmap_all(&self) {
        self.state.lock().table.unmap();
    }
}

#[cfg(test)]
mod tests {
    use super::HeapProfile;
    use crate::options::{FilePath, Options};
    use crate::random::Random;
    use std::path::PathBuf;

    fn recording() -> (tempfile::TempDir, PathBuf, HeapProfile) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("profile");
        let path = FilePath::new(file.to_str().expect("text").as_bytes()).expect("a name");
        let options = Options { heap_profile_kb: 1, heap_profile_path: path, ..Options::DEFAULT };
        (folder, file, HeapProfile::new(&options, Random::from_number(1)))
    }

    #[test]
    fn whoever_had_the_lock_when_a_signal_came_writes_the_profile() {
        for lets_go in [
            |profile: &HeapProfile| assert!(profile.record(16, 1, 16, &[])),
            |profile: &HeapProfile| profile.forget(16),
            |profile: &HeapProfile| assert_eq!(profile.table_bytes(), 0),
        ] {
            let (_folder, file, profile) = recording();
            let held = profile.state.lock();
            profile.write_from_handler();
            assert!(!file.exists());
            drop(held);
            lets_go(&profile);
            assert!(file.exists());
        }
    }
}
