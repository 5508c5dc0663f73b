//! The caches of a heap: which thread has which, and what becomes of those that threads have left.

use super::core::Core;
use crate::os::cgroup::Allowed;
use crate::os::lock::Guard;
use crate::os::mapping::OutOfMemory;
use crate::primary::region::state;
use crate::protections::Set;
use crate::random::Random;
use crate::thread_cache::{ASK, Stock, ThreadCache};
use crate::trace::Window;
use crate::violation::Violation;
use core::sync::atomic::Ordering;

/// The caches of a heap and the marks that they use.
pub(super) struct Registry {
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
    pub(super) const fn new(random: Random) -> Self {
        Self { first: 0, caches: 0, warm: 0, most_warm: MOST_WARM, cold: 0, memory: usize::MAX, marks: [0; 4], random }
    }

    /// Keeps no more caches, and no more in them, than the process's control groups leave room for.
    pub(super) fn fit_to(&mut self, allowed: Allowed) {
        // No more threads than twice the processors get anything done before the next one starts.
        self.most_warm = MOST_WARM.min(allowed.processors.saturating_mul(2));
        self.memory = allowed.memory;
    }

    /// Draws from another source of randomness from now on, which it returns.
    pub(super) fn reseed(&mut self, random: Random) -> &mut Random {
        self.random = random;
        &mut self.random
    }

    /// Unmaps all caches, which nobody uses any more.
    pub(super) fn unmap_all(&mut self) {
        let mut cache = core::mem::take(&mut self.first);
        while cache != 0 {
            // SAFETY: caches in the list are mapped, and nobody uses them any more.
            let next = unsafe { (*core::ptr::with_exposed_provenance::<ThreadCache>(cache)).next };
            ThreadCache::unmap(cache);
            cache = next;
        }
    }

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

impl Core {
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
}

#[cfg(test)]
mod tests;
