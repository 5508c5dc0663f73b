//! What threads hand each other under a lock. The lock is `os::lock` itself; what it guards is modelled by the fields that
//! decide.

use crate::os::atomic::{AtomicUsize, Ordering};
use crate::os::lock::{Lock, RawLock};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// Memory that loom watches: a use that another thread's does not happen before fails the model.
struct Memory(UnsafeCell<u32>);

impl Memory {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn write(&self) {
        // SAFETY: what is claimed, and what loom checks.
        self.0.with_mut(|memory| unsafe { *memory += 1 });
    }

    fn read(&self) -> u32 {
        // SAFETY: as in `write`.
        self.0.with(|memory| unsafe { *memory })
    }
}

// SAFETY: as in `write`.
unsafe impl Sync for Memory {}
// SAFETY: as in `write`.
unsafe impl Send for Memory {}

fn together<W: Send + Sync + 'static>(world: W, first: fn(&W) -> bool, second: fn(&W) -> bool) -> (Arc<W>, [bool; 2]) {
    let world = Arc::new(world);
    let other = world.clone();
    let other = thread::spawn(move || second(&other));
    let first = first(&world);
    let second = other.join().expect("the thread ends");
    (world, [first, second])
}

/// `heap::process`: `heap` and `make_heap`. The first two threads of a process both ask for the heap.
struct Process {
    heap: AtomicUsize,
    making: RawLock,
    core: Memory,
}

impl Process {
    fn heap(&self) -> bool {
        if self.heap.load(Ordering::Acquire) == 0 {
            self.making.acquire();
            if self.heap.load(Ordering::Acquire) == 0 {
                self.core.write();
                self.heap.store(1, Ordering::Release);
            }
            self.making.release();
        }
        self.core.read() == 1
    }
}

/// The heap is made once, and whoever has its address sees it whole.
pub fn the_heap_of_the_process_is_made_once() {
    loom::model(|| {
        let process = Process { heap: AtomicUsize::new(0), making: RawLock::new(), core: Memory::new() };
        process.heap.load(Ordering::Relaxed);
        process.making.acquire();
        process.making.release();
        let (_, sane) = together(process, Process::heap, Process::heap);
        assert_eq!(sane, [true, true]);
    });
}

/// `heap::core`: `leave_cache` of a thread that ends, `adopt_cache` of one that begins.
struct Registry {
    in_use: Lock<bool>,
    cache: Memory,
}

impl Registry {
    /// Works with the cache that it has, and leaves it.
    fn end(&self) -> bool {
        self.cache.write();
        *self.in_use.lock() = false;
        true
    }

    /// Adopts the cache if it was left, and works with it.
    fn begin(&self) -> bool {
        let mut in_use = self.in_use.lock();
        let adopted = !*in_use;
        *in_use = true;
        drop(in_use);
        if adopted {
            self.cache.write();
            return self.cache.read() == 2;
        }
        true
    }
}

/// A cache has one thread at a time, and the next one finds what the last one left.
pub fn a_left_cache_passes_whole() {
    loom::model(|| {
        let registry = Registry { in_use: Lock::new(true), cache: Memory::new() };
        drop(registry.in_use.lock());
        let (_, sane) = together(registry, Registry::end, Registry::begin);
        assert_eq!(sane, [true, true]);
    });
}

/// `secondary`: the entry of one large chunk in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Live,
    Freed,
    /// Among the kept mappings.
    Kept,
    Gone,
}

struct Large {
    table: Lock<Entry>,
    mapping: Memory,
}

impl Large {
    fn new(entry: Entry) -> Self {
        let large = Self { table: Lock::new(entry), mapping: Memory::new() };
        drop(large.table.lock());
        large
    }

    /// `release` and `retire`: live no more under the lock, then made inaccessible outside of it.
    fn release(&self) -> bool {
        let mut entry = self.table.lock();
        if *entry != Entry::Live {
            return false;
        }
        *entry = Entry::Freed;
        drop(entry);
        self.mapping.write();
        true
    }

    /// `release` where the mapping is kept.
    fn release_to_cache(&self) -> bool {
        // The program's last use of it.
        self.mapping.write();
        let mut entry = self.table.lock();
        *entry = Entry::Kept;
        true
    }

    /// `take_kept` and `allocate`: out of the table under the lock, zeroed outside of it, back in under the lock.
    fn reuse(&self) -> bool {
        let mut entry = self.table.lock();
        if *entry != Entry::Kept {
            return false;
        }
        *entry = Entry::Gone;
        drop(entry);
        self.mapping.write();
        *self.table.lock() = Entry::Live;
        true
    }

    /// `drop_kept` and `retire`.
    fn decay(&self) -> bool {
        let mut entry = self.table.lock();
        if *entry != Entry::Kept {
            return false;
        }
        *entry = Entry::Freed;
        drop(entry);
        self.mapping.write();
        true
    }
}

/// Of two frees of a large chunk in the same instant one is accepted, and one thread works on the mapping.
pub fn a_large_chunk_is_freed_once() {
    loom::model(|| {
        let (_, accepted) = together(Large::new(Entry::Live), Large::release, Large::release);
        assert_eq!(accepted.iter().filter(|&&accepted| accepted).count(), 1);
    });
}

/// A kept mapping passes whole to who reuses it.
pub fn a_kept_mapping_passes_whole() {
    loom::model(|| {
        let (large, _) = together(Large::new(Entry::Live), Large::release_to_cache, Large::reuse);
        assert!(large.mapping.read() >= 1);
    });
}

/// A kept mapping is reused or let go, never both.
pub fn a_kept_mapping_has_one_taker() {
    loom::model(|| {
        let (large, taken) = together(Large::new(Entry::Kept), Large::reuse, Large::decay);
        assert_eq!(taken.iter().filter(|&&taken| taken).count(), 1);
        assert_eq!(large.mapping.read(), 1);
    });
}
