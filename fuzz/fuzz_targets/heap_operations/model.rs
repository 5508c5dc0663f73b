//! The shadow model: who owns which byte, and what it holds.

use super::{Case, HEAPS, HeapKind, Profile, Step};
use allocator_api2::alloc::{AllocError, Allocator};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, RwLock};
use testudo::{AllocateError, Heap, Kind, Options, Violation};

/// Bytes that are live at once, so that a case stays far below the memory of the machine.
const LIVE: usize = 24 << 20;
/// The limit of heaps that have one, in MiB: low enough to be reached below `LIVE`.
const LIMIT_MB: u32 = 4;

/// A live chunk.
struct Chunk {
    heap: usize,
    start: NonNull<u8>,
    layout: Layout,
    /// What its bytes are made from; no two chunks of a case have the same.
    serial: usize,
}

// SAFETY: the chunk is known only where the value is.
unsafe impl Send for Chunk {}

impl Chunk {
    fn bytes(&mut self) -> &mut [u8] {
        let length = self.layout.size();
        // A chunk of no bytes is inaccessible.
        let start = if length == 0 { NonNull::dangling() } else { self.start };
        // SAFETY: the chunk is live, so long, and known only here.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }

    fn own(&mut self) {
        let serial = self.serial;
        for (offset, byte) in self.bytes().iter_mut().enumerate() {
            *byte = pattern(serial, offset);
        }
    }

    /// Claims that the first `length` bytes are the chunk's own.
    fn expect_own(&mut self, length: usize) {
        let serial = self.serial;
        let foreign =
            self.bytes()[..length].iter().enumerate().position(|(offset, &byte)| byte != pattern(serial, offset));
        assert_eq!(foreign, None, "a byte of chunk {serial} was changed");
    }

    /// Claims that all bytes from `from` on are zero.
    fn expect_zero(&mut self, from: usize) {
        assert_eq!(self.bytes()[from..].iter().position(|&byte| byte != 0), None, "memory from {from} on is not zero");
    }
}

/// Differs between neighbouring chunks and between neighbouring bytes, and is never zero.
fn pattern(serial: usize, offset: usize) -> u8 {
    (serial.wrapping_mul(0x9e37) ^ offset ^ offset >> 8) as u8 | 1
}

/// A chunk that was given back.
#[derive(Clone, Copy)]
struct Gone {
    heap: usize,
    address: usize,
    layout: Layout,
}

/// What is known of all heaps. Threads take chunks out of it, work with them, and put them back.
pub struct Model {
    seed: u64,
    kinds: [HeapKind; HEAPS],
    /// Made when they are first used: making one takes as long as hundreds of steps.
    heaps: RwLock<[OnceLock<Heap>; HEAPS]>,
    chunks: Mutex<Vec<Chunk>>,
    /// First address and length of every live chunk, of all heaps: nothing may overlap.
    owned: Mutex<BTreeMap<usize, usize>>,
    gone: Mutex<Vec<Gone>>,
    serial: AtomicUsize,
    live: AtomicUsize,
}

/// The heaps, for the time of one step.
type Heaps<'a> = &'a [OnceLock<Heap>; HEAPS];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a failed claim ends the process")
}

/// Every alignment up to twice the largest that fits a header; half of them the usual ones.
fn alignment(drawn: u8) -> usize {
    1 << if drawn < 128 { drawn % 5 } else { drawn % 17 }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

impl Model {
    pub fn new(case: &Case) -> Self {
        Self {
            seed: u64::from(case.seed) + 1,
            kinds: case.kinds,
            heaps: RwLock::new([const { OnceLock::new() }; HEAPS]),
            chunks: Mutex::default(),
            owned: Mutex::default(),
            gone: Mutex::default(),
            serial: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
        }
    }

    fn options(&self, number: usize) -> Options {
        match self.kinds[number].profile {
            Profile::Default => Options::DEFAULT,
            Profile::Strict => Options::STRICT,
            Profile::Fast => Options::FAST,
        }
    }

    fn heap<'a>(&self, heaps: Heaps<'a>, number: usize) -> &'a Heap {
        heaps[number].get_or_init(|| {
            let heap_limit_mb = if self.kinds[number].limited { LIMIT_MB } else { 0 };
            let seed = self.seed + number as u64;
            Heap::new(Options { seed, heap_limit_mb, ..self.options(number) }).expect("a heap")
        })
    }

    /// Claims, when no thread is at work any more, that everything is where it belongs, and gives it back.
    pub fn end(self) {
        for chunk in lock(&self.chunks).iter_mut() {
            chunk.expect_own(chunk.layout.size());
        }
        let all = || self.heaps.read().expect("a failed claim ends the process");
        for number in 0..HEAPS {
            self.heap(&all(), number).check().expect("nothing is damaged");
            self.compare_stats(&all(), number);
        }
        while let Some(chunk) = self.taken(0) {
            self.free(&all(), chunk);
        }
        for number in 0..HEAPS {
            self.heap(&all(), number).purge().expect("nothing is damaged");
            self.heap(&all(), number).check().expect("nothing is damaged");
            self.compare_stats(&all(), number);
        }
    }

    /// Does one step; other threads may do theirs.
    pub fn step(&self, step: Step) {
        if step.is_exclusive() {
            self.alone(&mut self.heaps.write().expect("a failed claim ends the process"), step);
        } else {
            self.among_others(&self.heaps.read().expect("a failed claim ends the process"), step);
        }
    }

    fn alone(&self, heaps: &mut [OnceLock<Heap>; HEAPS], step: Step) {
        match step {
            Step::FreeAgain { which } => self.free_again(heaps, which),
            Step::FreeAnything { heap, address, near } => {
                let near = near.and_then(|near| self.address(near)).unwrap_or(0);
                self.free_anything(heaps, usize::from(heap) % HEAPS, near.wrapping_add_signed(address as isize));
            }
            Step::Renew { heap } => self.renew(heaps, usize::from(heap) % HEAPS),
            _ => {}
        }
    }

    fn among_others(&self, heaps: Heaps<'_>, step: Step) {
        match step {
            Step::Allocate { heap, size, align_log2 } => {
                self.allocate(heaps, usize::from(heap) % HEAPS, layout(size.bytes(), alignment(align_log2)), false);
            }
            Step::AllocateZeroed { heap, size, align_log2 } => {
                self.allocate(heaps, usize::from(heap) % HEAPS, layout(size.bytes(), alignment(align_log2)), true);
            }
            Step::Check { heap } => self.heap(heaps, usize::from(heap) % HEAPS).check().expect("nothing is damaged"),
            Step::Purge { heap } => {
                self.heap(heaps, usize::from(heap) % HEAPS).purge().expect("nothing is damaged");
            }
            Step::Reallocate { which, .. }
            | Step::Refit { which, .. }
            | Step::Free { which }
            | Step::Resize { which, .. }
            | Step::Look { which }
            | Step::FreeWrongSize { which }
            | Step::FreeElsewhere { which, .. }
            | Step::FreeInside { which, .. } => {
                if let Some(chunk) = self.taken(which) {
                    self.with_chunk(heaps, chunk, step);
                }
            }
            Step::FreeAgain { .. } | Step::FreeAnything { .. } | Step::Renew { .. } => {}
        }
    }

    fn with_chunk(&self, heaps: Heaps<'_>, mut chunk: Chunk, step: Step) {
        let Chunk { heap, start, layout: old, .. } = chunk;
        match step {
            Step::Reallocate { size, .. } => self.reallocate(heaps, &mut chunk, size.bytes()),
            Step::Resize { by, .. } => {
                self.reallocate(heaps, &mut chunk, old.size().saturating_add_signed(isize::from(by)));
            }
            Step::Refit { size, align_log2, .. } => {
                self.refit(heaps, &mut chunk, layout(size.bytes(), alignment(align_log2)));
            }
            Step::Free { .. } => return self.free(heaps, chunk),
            Step::Look { .. } => self.look(heaps, &mut chunk),
            Step::FreeWrongSize { .. } => {
                let found = self.refused(heaps, heap, start, layout(old.size() + 1, old.align()));
                assert_eq!(found.kind, Kind::WrongSize);
            }
            Step::FreeElsewhere { heap: elsewhere, .. } => {
                let elsewhere = usize::from(elsewhere) % HEAPS;
                // Addresses that another heap's chunk left may be known to that heap as freed.
                let known = |gone: &Gone| gone.heap == elsewhere && gone.address == start.as_ptr().addr();
                if heap != elsewhere && !lock(&self.gone).iter().any(known) {
                    assert_eq!(self.refused(heaps, elsewhere, start, old).kind, Kind::NotAChunk);
                }
            }
            Step::FreeInside { offset, .. } => {
                let offset = usize::from(offset) % old.size().max(1);
                if offset != 0 {
                    let inside = NonNull::new(start.as_ptr().wrapping_add(offset)).expect("not null");
                    self.refused(heaps, heap, inside, old);
                }
            }
            _ => {}
        }
        lock(&self.chunks).push(chunk);
    }

    /// A chunk out of those that lie there; the caller puts it back or gives it back.
    fn taken(&self, which: u8) -> Option<Chunk> {
        let mut chunks = lock(&self.chunks);
        let which = usize::from(which).checked_rem(chunks.len())?;
        Some(chunks.swap_remove(which))
    }

    fn address(&self, which: u8) -> Option<usize> {
        let chunks = lock(&self.chunks);
        let which = usize::from(which).checked_rem(chunks.len())?;
        chunks.get(which).map(|chunk| chunk.start.as_ptr().addr())
    }

    fn allocate(&self, heaps: Heaps<'_>, number: usize, layout: Layout, zeroed: bool) {
        if self.live.load(Ordering::Relaxed) + layout.size() > LIVE {
            return;
        }
        let heap = self.heap(heaps, number);
        let start = if zeroed {
            match (&heap).allocate_zeroed(layout) {
                Ok(bytes) => bytes.cast(),
                Err(AllocError) => return self.expect_limit(number, AllocateError::OutOfMemory),
            }
        } else {
            match heap.allocate(layout) {
                Ok(start) => start,
                Err(error) => return self.expect_limit(number, error),
            }
        };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let mut chunk = Chunk { heap: number, start, layout, serial };
        self.take(start, layout);
        if zeroed || self.options(number).zero_on_free {
            chunk.expect_zero(0);
        }
        chunk.own();
        lock(&self.chunks).push(chunk);
    }

    fn reallocate(&self, heaps: Heaps<'_>, chunk: &mut Chunk, size: usize) {
        if self.live.load(Ordering::Relaxed) + size > LIVE {
            return;
        }
        // Before the heap lets go of it: another thread may then have it at once.
        self.leave(chunk);
        // SAFETY: the model forgets the old address if this succeeds.
        let moved = match unsafe { self.heap(heaps, chunk.heap).reallocate(chunk.start, chunk.layout, size) } {
            Ok(moved) => moved,
            Err(error) => {
                self.expect_limit(chunk.heap, error);
                self.take(chunk.start, chunk.layout);
                return self.look(heaps, chunk);
            }
        };
        let zeroed = self.options(chunk.heap).zero_on_free;
        self.moved(chunk, moved, layout(size, chunk.layout.align()), zeroed);
    }

    fn refit(&self, heaps: Heaps<'_>, chunk: &mut Chunk, new: Layout) {
        let old = chunk.layout;
        if self.live.load(Ordering::Relaxed) + new.size() > LIVE {
            return;
        }
        let heap = self.heap(heaps, chunk.heap);
        let grows = new.size() >= old.size();
        self.leave(chunk);
        // SAFETY: the chunk is live and of this layout; the model forgets the old address if this succeeds.
        let fitted = unsafe {
            if grows { (&heap).grow_zeroed(chunk.start, old, new) } else { (&heap).shrink(chunk.start, old, new) }
        };
        match fitted {
            Ok(bytes) => self.moved(chunk, bytes.cast(), new, grows),
            Err(AllocError) => {
                self.expect_limit(chunk.heap, AllocateError::OutOfMemory);
                self.take(chunk.start, old);
                self.look(heaps, chunk);
            }
        }
    }

    /// A chunk that the model has let go of is here now.
    fn moved(&self, chunk: &mut Chunk, start: NonNull<u8>, new: Layout, zeroed: bool) {
        let old = chunk.layout;
        self.take(start, new);
        if start != chunk.start {
            lock(&self.gone).push(Gone {
                heap: chunk.heap,
                address: chunk.start.as_ptr().expose_provenance(),
                layout: old,
            });
        }
        (chunk.start, chunk.layout) = (start, new);
        let kept = old.size().min(new.size());
        chunk.expect_own(kept);
        if zeroed {
            chunk.expect_zero(kept);
        }
        chunk.own();
    }

    fn free(&self, heaps: Heaps<'_>, mut chunk: Chunk) {
        chunk.expect_own(chunk.layout.size());
        self.leave(&chunk);
        let Chunk { heap, start, layout, .. } = chunk;
        // SAFETY: the model has forgotten the chunk.
        unsafe { self.heap(heaps, heap).deallocate(start, layout) }.expect("a correct free");
        lock(&self.gone).push(Gone { heap, address: start.as_ptr().expose_provenance(), layout });
    }

    fn look(&self, heaps: Heaps<'_>, chunk: &mut Chunk) {
        chunk.expect_own(chunk.layout.size());
        assert_eq!(self.heap(heaps, chunk.heap).size_of(chunk.start), Ok(chunk.layout.size()));
    }

    fn free_again(&self, heaps: Heaps<'_>, which: u8) {
        let gone = lock(&self.gone);
        let Some(which) = usize::from(which).checked_rem(gone.len()) else { return };
        let Gone { heap, address, layout } = gone[which];
        // The address may be a chunk's again, even another heap's: then it is no mistake to name it.
        if !lock(&self.owned).contains_key(&address) {
            let start = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null");
            self.refused(heaps, heap, start, layout);
        }
    }

    fn free_anything(&self, heaps: Heaps<'_>, heap: usize, address: usize) {
        let Some(start) = NonNull::new(std::ptr::with_exposed_provenance_mut(address)) else { return };
        if !lock(&self.owned).contains_key(&address) {
            self.refused(heaps, heap, start, layout(24, 8));
            assert!(self.heap(heaps, heap).size_of(start).is_err());
        }
    }

    /// Gives back what must not be accepted, and returns what the heap says about it.
    fn refused(&self, heaps: Heaps<'_>, heap: usize, start: NonNull<u8>, layout: Layout) -> Violation {
        // SAFETY: the mistake that the heap must find; should it not, the model ends here.
        unsafe { self.heap(heaps, heap).deallocate(start, layout) }.expect_err("a mistake was accepted")
    }

    fn renew(&self, heaps: &mut [OnceLock<Heap>; HEAPS], number: usize) {
        lock(&self.chunks).retain(|chunk| {
            let stays = chunk.heap != number;
            if !stays {
                self.leave(chunk);
            }
            stays
        });
        lock(&self.gone).retain(|gone| gone.heap != number);
        heaps[number] = OnceLock::new();
    }

    /// Only a heap that has a limit may refuse, and only for that.
    fn expect_limit(&self, heap: usize, error: AllocateError) {
        assert_eq!(error, AllocateError::OutOfMemory);
        assert!(self.kinds[heap].limited, "a heap without a limit is out of memory");
    }

    /// Claims that a new chunk is aligned and that nobody has its bytes.
    fn take(&self, start: NonNull<u8>, layout: Layout) {
        let start = start.as_ptr().addr();
        assert!(start.is_multiple_of(layout.align()), "the chunk at {start:#x} is not aligned");
        // A chunk of no bytes has an address of its own all the same.
        let length = layout.size().max(1);
        let mut owned = lock(&self.owned);
        if let Some((before, bytes)) = owned.range(..start + length).next_back() {
            assert!(before + bytes <= start, "chunks at {before:#x} and {start:#x} overlap");
        }
        owned.insert(start, length);
        self.live.fetch_add(layout.size(), Ordering::Relaxed);
    }

    fn leave(&self, chunk: &Chunk) {
        lock(&self.owned).remove(&chunk.start.as_ptr().addr()).expect("the model knows the chunk");
        self.live.fetch_sub(chunk.layout.size(), Ordering::Relaxed);
    }

    fn compare_stats(&self, heaps: Heaps<'_>, number: usize) {
        let stats = self.heap(heaps, number).check_stats().expect("nothing is damaged");
        let quick = self.heap(heaps, number).stats();
        assert_eq!((stats.chunks, stats.active), (quick.chunks, quick.active), "counted {quick:?}, visited {stats:?}");
        assert_eq!(quick.committed, quick.active + quick.cached + quick.quarantined + quick.retained, "{quick:?}");
        let chunks = lock(&self.chunks);
        let mine = || chunks.iter().filter(|chunk| chunk.heap == number);
        assert_eq!(stats.chunks, mine().count());
        assert_eq!(stats.allocated, mine().map(|chunk| chunk.layout.size()).sum::<usize>());
    }
}
