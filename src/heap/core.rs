//! What a heap is: settings, arena, classes, secondary, and how it begins, ends and gets through a fork.

use super::decay::Epochs;
use super::registry::Registry;
use crate::budget::Budget;
use crate::chunk::checksum::{Seal, Secrets};
use crate::guarded::{self, Guarded};
use crate::heap_profile::HeapProfile;
use crate::options::Options;
use crate::os::cgroup::Allowed;
use crate::os::lock::{Lock, RawLock};
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};
use crate::os::process;
use crate::place::reserve_somewhere;
use crate::primary::arena::Arena;
use crate::primary::class::{self, Class};
use crate::primary::zero_sized::ZeroSized;
use crate::random::Random;
use crate::secondary::{self, Secondary};
use crate::size_class::{CLASSES, ClassId};
use crate::thread_cache::ASK;
use crate::trace::remembered::Remembered;
use crate::trace::{Caller, Rules, Taken, Window};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Address space of the process-wide heap.
pub(crate) const PROCESS_ARENA: usize = 8 << 40;
/// Address space of a private heap.
pub(crate) const PRIVATE_ARENA: usize = 64 << 30;

/// Why a heap could not be made.
///
/// ```
/// use testudo::{CreateError, Heap, Options};
///
/// match Heap::new(Options::DEFAULT) {
///     Ok(heap) => drop(heap),
///     Err(CreateError::OutOfMemory) => eprintln!("ulimit -v is too low"),
///     Err(error) => eprintln!("{error}"),
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// The kernel refused address space or memory.
    OutOfMemory,
    /// Neither `getrandom` nor `/dev/urandom` is available.
    NoEntropy,
}

impl core::fmt::Display for CreateError {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(match self {
            Self::OutOfMemory => "no address space for the heap (see ulimit -v)",
            Self::NoEntropy => "no entropy: neither getrandom nor /dev/urandom is available",
        })
    }
}

impl core::error::Error for CreateError {}

/// A heap. Lives in a mapping of its own at a random place, between guard pages: nothing that overflows in the
/// program's memory reaches it.
///
/// The secrets come first, so that the fast path, which needs them most, has one address less to keep.
#[repr(C)]
pub(crate) struct Core {
    pub(crate) seal: Seal,
    pub(crate) options: Options,
    pub(crate) budget: Budget,
    /// Whether the CPU has the vectors that profiles are compiled with.
    pub(super) has_vectors: bool,
    /// Largest single request in bytes.
    pub(crate) max_alloc: usize,
    pub(crate) arena: Arena,
    pub(crate) classes: [Lock<Class>; CLASSES],
    pub(crate) zero_sized: Lock<ZeroSized>,
    pub(crate) secondary: Secondary,
    pub(crate) guarded: Guarded,
    pub(crate) heap_profile: HeapProfile,
    /// Frame layouts that stack traces have met.
    pub(crate) rules: Rules,
    /// Address of the cache of all threads that have none of their own: in a private heap, all of them.
    pub(crate) shared: Lock<usize>,
    pub(crate) links: Links,
    /// When free memory goes back.
    pub(crate) epochs: Epochs,
    /// Its caches.
    pub(super) registry: Lock<Registry>,
    /// Violations that were found and returned.
    violations: AtomicUsize,
    /// How many forks lie between the process that made the heap and this one.
    pub(super) generation: AtomicU32,
}

/// Neighbours of a heap in the list of all heaps (see [`super::fork`]); touched only under the list's lock.
pub(crate) struct Links {
    pub(crate) previous: AtomicUsize,
    pub(crate) next: AtomicUsize,
}

impl Links {
    const fn new() -> Self {
        Self { previous: AtomicUsize::new(0), next: AtomicUsize::new(0) }
    }
}

pub(crate) const CORE_BYTES: usize = page_ceil(size_of::<Core>());

impl Core {
    /// Makes a heap with at most `arena_bytes` of address space; returns its address.
    ///
    /// # Errors
    /// When the kernel refuses memory or entropy.
    pub(crate) fn create(options: Options, arena_bytes: usize) -> Result<usize, CreateError> {
        let mut random = if options.seed == 0 {
            Random::from_kernel().map_err(|_| CreateError::NoEntropy)?
        } else {
            Random::from_number(options.seed)
        };
        let out_of_memory = |OutOfMemory| CreateError::OutOfMemory;
        let start = reserve_somewhere(CORE_BYTES + 2 * PAGE, &mut random).map_err(out_of_memory)?;
        let made = mapping::commit(start + PAGE, CORE_BYTES)
            .and_then(|()| Self::write(start + PAGE, options, arena_bytes, &mut random));
        match made {
            Ok(()) => Ok(start + PAGE),
            Err(refused) => {
                mapping::unmap(start, CORE_BYTES + 2 * PAGE);
                Err(out_of_memory(refused))
            }
        }
    }

    fn write(address: usize, options: Options, arena_bytes: usize, random: &mut Random) -> Result<(), OutOfMemory> {
        let core = core::ptr::with_exposed_provenance_mut::<Self>(address);
        let mebibytes = |limit: u32| if limit == 0 { usize::MAX } else { (limit as usize) << 20 };
        // SAFETY: fresh zeroed memory, large enough and page-aligned; every field is written here, except that
        // zeroes are a valid `Arena` of nothing, which `reserve` then describes. Its 512 region descriptors are
        // not written, so that they take memory only as they are used.
        unsafe {
            (&raw mut (*core).options).write(options);
            (&raw mut (*core).seal)
                .write(Seal { secrets: Secrets::draw(random), has_instruction: process::has_crc32_instruction() });
            (&raw mut (*core).has_vectors).write(process::has_native_vectors());
            (&raw mut (*core).budget).write(Budget::new(mebibytes(options.heap_limit_mb)));
            (&raw mut (*core).max_alloc).write(mebibytes(options.max_alloc_mb));
            (*core).arena.reserve(arena_bytes, options.randomize, random)?;
            for class in ClassId::all() {
                let place = (&raw mut (*core).classes).cast::<Lock<Class>>().add(class.index());
                place.write(Lock::new(Class::new(class)));
            }
            (&raw mut (*core).zero_sized).write(Lock::new(ZeroSized::new()));
            (*core).secondary.init(&options, random.fork());
            (*core).guarded.init(&options, random.fork());
            (&raw mut (*core).shared).write(Lock::new(0));
            (&raw mut (*core).links).write(Links::new());
            (&raw mut (*core).registry).write(Lock::new(Registry::new(random.fork())));
            (&raw mut (*core).heap_profile).write(HeapProfile::new(&options, random.fork()));
            (&raw mut (*core).epochs).write(Epochs::new());
            (&raw mut (*core).violations).write(AtomicUsize::new(0));
            (&raw mut (*core).generation).write(AtomicU32::new(0));
        }
        Ok(())
    }

    /// Unmaps a heap with everything in it.
    ///
    /// # Safety
    /// `address` came from [`Self::create`], and nothing of the heap is used afterwards.
    pub(crate) unsafe fn destroy(address: usize) {
        // SAFETY: the caller's promise.
        let core = unsafe { Self::at(address) };
        core.secondary.unmap_all();
        core.guarded.unmap_all();
        core.heap_profile.unmap_all();
        core.registry.lock().unmap_all();
        core.arena.unmap();
        mapping::unmap(address - PAGE, CORE_BYTES + 2 * PAGE);
    }

    /// The heap at an address that [`Self::create`] returned.
    ///
    /// # Safety
    /// It has not been destroyed, nor is it for `'a`.
    #[inline(always)]
    pub(crate) unsafe fn at<'a>(address: usize) -> &'a Self {
        // SAFETY: the caller's promise.
        unsafe { &*core::ptr::with_exposed_provenance(address) }
    }

    /// Keeps no more for later than the process's control groups leave room for.
    pub(crate) fn fit_to(&self, allowed: Allowed) {
        self.budget.fit_to(allowed.memory);
        self.registry.lock().fit_to(allowed);
    }

    /// What a class needs.
    pub(crate) fn ground(&self) -> class::Ground<'_> {
        class::Ground {
            arena: &self.arena,
            budget: &self.budget,
            options: &self.options,
            seal: &self.seal,
            epoch: self.epochs.current(),
        }
    }

    /// What the secondary needs.
    pub(crate) fn large_ground(&self) -> secondary::Ground<'_> {
        secondary::Ground { budget: &self.budget, seal: &self.seal }
    }

    /// What the guarded slots need.
    pub(crate) fn guarded_ground(&self) -> guarded::Ground<'_> {
        guarded::Ground { budget: &self.budget, seal: &self.seal }
    }

    /// Who is calling, for what is recorded about guarded chunks.
    #[inline(never)]
    pub(crate) fn caller(&self, window: &mut Window, remembered: &mut Remembered, known: &mut i32) -> Caller<Taken> {
        let thread = if *known > 0 { *known } else { process::thread_number() };
        if *known == ASK {
            *known = thread;
        }
        Caller { thread, trace: Taken::here(&self.rules, self.guarded.depot(), remembered, window, thread) }
    }

    /// The shared state of a class.
    #[inline(always)]
    pub(crate) fn class(&self, class: ClassId) -> &Lock<Class> {
        &self.classes[class.index()]
    }

    /// Counts a violation that is returned to the program.
    pub(crate) fn count_violation(&self) {
        self.violations.fetch_add(1, Ordering::Relaxed);
    }

    /// Violations that were found and returned.
    pub(crate) fn violations(&self) -> usize {
        self.violations.load(Ordering::Relaxed)
    }

    /// Every lock, those first under which others are taken.
    fn for_each_lock(&self, mut visit: impl FnMut(&RawLock)) {
        visit(self.shared.raw());
        visit(self.registry.raw());
        for class in &self.classes {
            visit(class.raw());
        }
        visit(self.zero_sized.raw());
        visit(self.arena.lock().raw());
        self.secondary.for_each_lock(&mut visit);
        self.guarded.for_each_lock(&mut visit);
        self.heap_profile.for_each_lock(visit);
    }

    /// Before a fork: nobody is in the middle of a change.
    pub(crate) fn lock_all(&self) {
        self.for_each_lock(RawLock::hold_for_fork);
    }

    /// After a fork, in the parent.
    pub(crate) fn unlock_all(&self) {
        self.for_each_lock(RawLock::release_after_fork);
        self.heap_profile.write_if_wanted();
    }

    /// After a fork, in the child: its randomness must not be its parent's, nor that of its sisters.
    pub(crate) fn restart_in_child(&self) {
        self.for_each_lock(RawLock::reset);
        self.guarded.restart_in_child();
        self.heap_profile.restart_in_child();
        if self.options.seed == 0 {
            match Random::from_kernel() {
                Ok(random) => {
                    let mut registry = self.registry.lock();
                    let random = registry.reseed(random);
                    self.secondary.reseed(random.fork());
                    self.guarded.reseed(random.fork());
                }
                Err(_) => {
                    crate::report::fatal("no entropy after fork: neither getrandom nor /dev/urandom is available")
                }
            }
        }
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Core, PRIVATE_ARENA};
    use crate::options::{FilePath, Options};

    #[test]
    fn a_profile_that_a_signal_asked_for_during_a_fork_is_written_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("profile");
        let path = FilePath::new(file.to_str().expect("text").as_bytes()).expect("a name");
        let options = Options { heap_profile_kb: 1, heap_profile_path: path, ..Options::DEFAULT };
        let address = Core::create(options, PRIVATE_ARENA).expect("memory");
        // SAFETY: just made; nobody else knows of it, and nothing of it is used after it is destroyed.
        unsafe {
            let core = Core::at(address);
            core.lock_all();
            core.heap_profile.write_from_handler();
            assert!(!file.exists());
            core.unlock_all();
            assert!(file.exists());
            Core::destroy(address);
        }
    }
}
