//! What a heap is: settings, arena, classes, secondary, and the registry of its caches.

use super::decay::Epochs;
use crate::budget::Budget;
use crate::chunk::checksum::{Seal, Secrets};
use crate::guarded::{self, Guarded};
use crate::heap_profile::HeapProfile;
use crate::options::Options;
use crate::os::cgroup::Allowed;
use crate::os::lock::{Guard, Lock, RawLock};
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};
use crate::os::process;
use crate::primary::arena::{Arena, reserve_somewhere};
use crate::primary::class::{self, Class};
use crate::primary::region::state;
use crate::primary::zero_sized::ZeroSized;
use crate::protections::Set;
use crate::random::Random;
use crate::secondary::{self, Secondary};
use crate::size_class::{CLASSES, ClassId};
use crate::thread_cache::{ASK, Stock, ThreadCache};
use crate::trace::remembered::Remembered;
use crate::trace::{Caller, Rules, Taken, Window};
use crate::violation::Violation;
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
    has_vectors: bool,
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
    registry: Lock<Registry>,
    /// Violations that were found and returned.
    violations: AtomicUsize,
    /// How many forks lie between the process that made the heap and this one.
    generation: AtomicU32,
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

/// The caches of a heap and the marks that they use.
struct Registry {
    /// First cache of the list.
    first: usize,
    /// How many there are.
    caches: usize,
    /// Left caches that have not been flushed, and how many of them there may be.
    warm: usize,
    most_warm: usize,
    /// Left caches that have been flushed and have their memory still.
    cold: usize,
    /// Bytes of memory that the process may use; `usize::MAX` when there is no limit.
    memory: usize,
    /// Marks in use, as bits.
    marks: [u64; 4],
    random: Random,
}

/// Caches that wait for the next thread with all that is in them: a program that starts a thread for every request pays
/// neither for filling them nor for emptying them.
const MOST_WARM: usize = 8;

impl Registry {
    /// A cache that no thread has: if there is one, one that was not flushed, or else one that is not bare. It belongs to whoever
    /// holds the registry's lock.
    fn find_left<'a>(&self) -> Option<&'a mut ThreadCache> {
        let mut found = None;
        let mut address = self.first;
        while address != 0 {
            // SAFETY: caches in the list stay mapped as long as the heap; these fields are only touched under the
            // registry's lock, and no reference is made to the rest of a cache that is in use.
            let (in_use, warm, bare, next) = unsafe {
                let cache = core::ptr::with_exposed_provenance::<ThreadCache>(address);
                ((*cache).in_use, (*cache).warm, (*cache).bare, (*cache).next)
            };
            if !in_use && (!bare || found.is_none()) {
                found = Some(address);
                if warm {
                    break;
                }
            }
            address = next;
        }
        // SAFETY: in the list, and nobody else's.
        found.map(|address| unsafe { &mut *core::ptr::with_exposed_provenance_mut(address) })
    }

    fn take_mark(&mut self) -> u8 {
        for mark in state::FIRST_MARK..state::SHARED_MARK {
            if let Some(word) = self.marks.get_mut(usize::from(mark / 64))
                && *word & 1 << (mark % 64) == 0
            {
                *word |= 1 << (mark % 64);
                return mark;
            }
        }
        state::SHARED_MARK
    }

    fn return_mark(&mut self, mark: u8) {
        if mark != state::SHARED_MARK
            && let Some(word) = self.marks.get_mut(usize::from(mark / 64))
        {
            *word &= !(1 << (mark % 64));
        }
    }
}

/// All caches of a heap, in use or not.
pub(crate) struct Caches<'a>(Guard<'a, Registry>);

impl Caches<'_> {
    /// Calls `visit` with the address of each.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(usize)) {
        let mut cache = self.0.first;
        while cache != 0 {
            visit(cache);
            // SAFETY: caches in the list stay mapped as long as the heap; `next` is only touched under the registry's lock,
            // and no reference to the cache is made, which is its thread's.
            cache = unsafe { (&raw const (*core::ptr::with_exposed_provenance::<ThreadCache>(cache)).next).read() };
        }
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
            (&raw mut (*core).registry).write(Lock::new(Registry {
                first: 0,
                caches: 0,
                warm: 0,
                most_warm: MOST_WARM,
                cold: 0,
                memory: usize::MAX,
                marks: [0; 4],
                random: random.fork(),
            }));
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
        let mut cache = core.registry.lock().first;
        while cache != 0 {
            // SAFETY: caches in the list are mapped, and nobody uses them any more.
            let next = unsafe { (*core::ptr::with_exposed_provenance::<ThreadCache>(cache)).next };
            ThreadCache::unmap(cache);
            cache = next;
        }
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
        let mut registry = self.registry.lock();
        // No more threads than twice the processors get anything done before the next one starts.
        registry.most_warm = MOST_WARM.min(allowed.processors.saturating_mul(2));
        registry.memory = allowed.memory;
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

    /// A cache for a thread: a left one, or a new one. With `shared`, one that several threads use in turn.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub(crate) fn adopt_cache(&self, shared: bool) -> Result<usize, OutOfMemory> {
        let mut registry = self.registry.lock();
        let left = if shared { None } else { registry.find_left() };
        if let Some(cache) = left {
            cache.in_use = true;
            if cache.warm {
                cache.warm = false;
                registry.warm -= 1;
            } else {
                cache.mark = registry.take_mark();
                if cache.bare {
                    let stock = Stock::beside(registry.caches - 1, registry.memory);
                    // SAFETY: nobody else's, and zero behind its first page since it was stripped.
                    unsafe { ThreadCache::furnish(cache, &self.options, stock) };
                } else {
                    registry.cold -= 1;
                }
            }
            cache.checks = self.set(cache.mark);
            cache.resume_fast_paths();
            if cache.generation != self.generation.load(Ordering::Relaxed) {
                // It was another thread's when the process forked, perhaps in the middle of a change.
                cache.remembered.unmap();
            }
            cache.rounds = 0;
            cache.thread = 0;
            cache.window = Window::UNKNOWN;
            return Ok(core::ptr::from_mut(cache).expose_provenance());
        }
        let mark = if shared { state::SHARED_MARK } else { registry.take_mark() };
        let random = registry.random.fork();
        let generation = self.generation.load(Ordering::Relaxed);
        let made = ThreadCache::map(
            core::ptr::from_ref(self).expose_provenance(),
            mark,
            self.set(mark),
            &self.options,
            Stock::beside(registry.caches, registry.memory),
            generation,
            random,
        );
        let address = match made {
            Ok(address) => address,
            Err(refused) => {
                registry.return_mark(mark);
                return Err(refused);
            }
        };
        // SAFETY: just mapped.
        unsafe { (*core::ptr::with_exposed_provenance_mut::<ThreadCache>(address)).next = registry.first };
        registry.first = address;
        registry.caches += 1;
        Ok(address)
    }

    fn set(&self, mark: u8) -> Set {
        Set::of(&self.options, self.seal.has_instruction, self.has_vectors, mark == state::SHARED_MARK)
    }

    /// Takes a cache back for the next thread: as it is, or, when enough such wait already, flushed.
    ///
    /// # Errors
    /// When two racing threads gave a chunk in it back.
    pub(crate) fn leave_cache(&self, cache: &mut ThreadCache) -> Result<(), Violation> {
        {
            let mut registry = self.registry.lock();
            if registry.warm < registry.most_warm && cache.mark != state::SHARED_MARK {
                registry.warm += 1;
                cache.warm = true;
                cache.in_use = false;
                return Ok(());
            }
        }
        self.flush(cache)?;
        let mut registry = self.registry.lock();
        registry.return_mark(cache.mark);
        registry.cold += 1;
        cache.left_in = self.epochs.current();
        cache.in_use = false;
        Ok(())
    }

    /// Flushes the caches that threads have left.
    ///
    /// # Errors
    /// As for [`Self::leave_cache`].
    pub(crate) fn flush_left(&self) -> Result<(), Violation> {
        let mut registry = self.registry.lock();
        while registry.warm > 0
            && let Some(cache) = registry.find_left().filter(|cache| cache.warm)
        {
            registry.warm -= 1;
            cache.warm = false;
            registry.cold += 1;
            registry.return_mark(cache.mark);
            self.flush(cache)?;
        }
        Ok(())
    }

    /// Gives back the memory of flushed caches that threads have left before the epoch `finished`, of at most so many; `false`
    /// when that was none. A program may have had thousands of threads at once, and never again.
    pub(crate) fn strip_left(&self, most: usize, finished: u32) -> bool {
        let mut registry = self.registry.lock();
        let mut address = registry.first;
        let mut stripped = 0;
        while address != 0 && registry.cold > 0 && stripped < most {
            let cache = core::ptr::with_exposed_provenance_mut::<ThreadCache>(address);
            // SAFETY: as in `find_left`.
            let (is_left, next) = unsafe {
                let keeps_memory = !(*cache).in_use && !(*cache).warm && !(*cache).bare;
                (keeps_memory && (*cache).left_in < finished, (*cache).next)
            };
            // SAFETY: no thread has it, nor gets it as long as the lock is held.
            if is_left && unsafe { ThreadCache::strip(cache) } {
                registry.cold -= 1;
                stripped += 1;
                // Threads that start or end wait for one of them, not for all. Those behind this one stay where they are.
                drop(registry);
                registry = self.registry.lock();
            }
            address = next;
        }
        stripped > 0
    }

    /// Makes sure that a cache does not repeat the randomness that a fork copied.
    pub(crate) fn refresh_randomness(&self, cache: &mut ThreadCache) {
        let generation = self.generation.load(Ordering::Relaxed);
        if cache.generation != generation {
            cache.generation = generation;
            cache.random = self.registry.lock().random.fork();
            if cache.thread != 0 {
                cache.thread = ASK;
            }
        }
    }

    /// The caches, none of which changes hands as long as this lives.
    pub(crate) fn caches(&self) -> Caches<'_> {
        Caches(self.registry.lock())
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
                    registry.random = random;
                    self.secondary.reseed(registry.random.fork());
                    self.guarded.reseed(registry.random.fork());
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
    use crate::chunk::header::Origin;
    use crate::heap::demand::Demand;
    use crate::options::{FilePath, Options};
    use crate::os::interference::{ALL, Call, refusing};
    use crate::os::mapping::{self, PAGE};
    use crate::protections::with_mixture;
    use crate::size_class::ClassId;
    use crate::thread_cache::{CACHE_BYTES, ThreadCache};
    use std::collections::BTreeSet;

    /// Caches of threads of which more have ended than leave their caches warm, and the heap that they are of, which is left as it is.
    /// Each has been used for every third class.
    fn with_left_caches(options: Options) -> (&'static Core, BTreeSet<usize>) {
        let address = Core::create(Options { sample_rate: 0, ..options }, PRIVATE_ARENA).expect("memory");
        // SAFETY: just made, and never destroyed.
        let core = unsafe { Core::at(address) };
        let caches: BTreeSet<usize> = (0..12).map(|_| core.adopt_cache(false).expect("memory")).collect();
        for &cache in &caches {
            use_for_many_classes(core, cache);
        }
        for &cache in &caches {
            core.leave_cache(cache_at(cache)).expect("order");
        }
        (core, caches)
    }

    fn cache_at(address: usize) -> &'static mut ThreadCache {
        // SAFETY: a cache of a test's own, which uses it in one place at a time.
        unsafe { &mut *core::ptr::with_exposed_provenance_mut(address) }
    }

    /// Allocates and frees as a thread with this cache does, often enough that slots come back out of the quarantine.
    fn use_for_many_classes(core: &Core, cache: usize) {
        let cache = cache_at(cache);
        for class in ClassId::all().step_by(3) {
            for _ in 0..40 {
                let chunk = core.allocate(cache, class.capacity(), 4, Origin::Malloc).expect("memory");
                let demand = Demand::origin("free", Origin::Malloc, &[]);
                with_mixture!(cache.checks, P => core.free::<P>(cache, chunk, demand)).expect("a correct free");
            }
        }
    }

    fn resident(caches: &BTreeSet<usize>) -> Vec<usize> {
        caches.iter().map(|&cache| mapping::resident(cache, CACHE_BYTES)).collect()
    }

    #[test]
    fn a_purge_takes_the_memory_of_left_caches_and_who_adopts_one_finds_it_as_new() {
        for options in
            [Options::DEFAULT, Options::STRICT, Options::FAST, Options { quarantine_kb: 64, ..Options::DEFAULT }]
        {
            let (core, caches) = with_left_caches(options);
            let own = core.adopt_cache(false).expect("memory");
            assert!(resident(&caches).iter().all(|&bytes| bytes > 8 * PAGE), "{:?}", resident(&caches));
            assert_eq!(core.purge(cache_at(own)), Ok(true));
            assert_eq!(core.purge(cache_at(own)), Ok(false), "nothing is left to give");
            let left: BTreeSet<usize> = caches.iter().copied().filter(|&cache| cache != own).collect();
            assert_eq!(left.len(), 11, "the first one to adopt has one of them");
            assert!(resident(&left).iter().all(|&bytes| bytes == PAGE), "{:?}", resident(&left));
            let stats = core.stats();
            assert_eq!((stats.chunks, stats.cached, stats.quarantined, stats.caches), (0, 0, 0, 12));
            assert!(resident(&left).iter().all(|&bytes| bytes == PAGE), "a look at them brings nothing back");
            let again: BTreeSet<usize> = (0..11).map(|_| core.adopt_cache(false).expect("memory")).collect();
            assert_eq!(again, left);
            let new = core.adopt_cache(false).expect("memory");
            assert!(!caches.contains(&new), "none is left");
            for &cache in &again {
                let room = cache_at(cache).quarantine_room.cast_unsigned();
                // It was the twelfth, the new one is the thirteenth.
                assert!(room >= cache_at(new).quarantine_room.cast_unsigned(), "{room} bytes");
                assert!(room <= (options.quarantine_kb as usize) << 10, "{room} bytes");
                use_for_many_classes(core, cache);
            }
            assert_eq!(core.check_stats(cache_at(own).mark).expect("nothing is damaged").chunks, 0);
        }
    }

    #[test]
    fn a_cache_keeps_its_memory_for_an_interval_and_is_then_the_last_to_be_adopted() {
        let (core, caches) = with_left_caches(Options::DEFAULT);
        let epoch = core.epochs.current();
        assert!(!core.strip_left(usize::MAX, epoch), "left a moment ago");
        assert!(resident(&caches).iter().all(|&bytes| bytes > 8 * PAGE));
        // Four were flushed; the others wait as they are.
        assert!(core.strip_left(1, epoch + 1) && core.strip_left(2, epoch + 1));
        let bare = || caches.iter().copied().filter(|&cache| cache_at(cache).bare).collect::<BTreeSet<_>>();
        assert_eq!(bare().len(), 3);
        assert_eq!(resident(&bare()), [PAGE; 3]);
        for _ in 0..9 {
            assert!(!bare().contains(&core.adopt_cache(false).expect("memory")));
        }
        assert!(!core.strip_left(usize::MAX, u32::MAX), "all that are left are bare");
        assert!(bare().contains(&core.adopt_cache(false).expect("memory")));
        assert_eq!(bare().len(), 2);
    }

    #[test]
    fn a_purge_that_finds_nothing_but_a_left_cache_tells_that_it_went_back() {
        let (core, _) = with_left_caches(Options::DEFAULT);
        let cache = cache_at(core.adopt_cache(false).expect("memory"));
        assert_eq!(core.purge(cache), Ok(true));
        let adopted = core.adopt_cache(false).expect("memory");
        // It has been used for nothing, and so has no memory but its bins.
        core.leave_cache(cache_at(adopted)).expect("order");
        assert_eq!([core.purge(cache), core.purge(cache)], [Ok(true), Ok(false)]);
    }

    #[test]
    fn what_the_system_does_not_take_did_not_go_back() {
        let address = Core::create(Options { sample_rate: 0, ..Options::DEFAULT }, PRIVATE_ARENA).expect("memory");
        // SAFETY: just made, and never destroyed.
        let core = unsafe { Core::at(address) };
        let own = core.adopt_cache(false).expect("memory");
        use_for_many_classes(core, own);
        assert_eq!(refusing(&[(Call::Advise, ALL)], || core.purge(cache_at(own))), Ok(false));
        use_for_many_classes(core, own);
        assert_eq!(core.purge(cache_at(own)), Ok(true));
    }

    #[test]
    fn a_cache_whose_memory_the_system_does_not_take_stays_as_it_is() {
        let (core, caches) = with_left_caches(Options::DEFAULT);
        refusing(&[(Call::Advise, ALL)], || assert!(!core.strip_left(usize::MAX, u32::MAX)));
        assert!(caches.iter().all(|&cache| !cache_at(cache).bare));
        assert!(core.strip_left(usize::MAX, u32::MAX));
        assert_eq!(caches.iter().filter(|&&cache| cache_at(cache).bare).count(), 4);
    }

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
