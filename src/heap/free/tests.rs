//! Claims about what is given back.

use super::super::allocate::Failure;
use super::super::core::{Core, PRIVATE_ARENA};
use super::super::demand::Demand;
use super::Freed;
use crate::chunk::extent::Extent;
use crate::chunk::header::{Fields, Origin};
use crate::options::Options;
use crate::os::mapping::{self, page_ceil, page_floor};
use crate::primary::region::state;
use crate::protections::{DefaultProfile, FastProfile, Mixture, Native, NativeVectors, Protections, StrictProfile};
use crate::size_class::{ClassId, FINE_MAX, SMALL_MAX};
use crate::thread_cache::ThreadCache;
use crate::violation::{Kind, Operation};
use core::sync::atomic::{AtomicU8, Ordering};
use std::cell::Cell;

/// A heap and its cache, without a lock between them and the test.
struct Heap(usize, usize);

impl Heap {
    fn new(options: Options) -> Self {
        let core = Core::create(Options { sample_rate: 0, ..options }, PRIVATE_ARENA).expect("memory");
        // SAFETY: just made, and destroyed when the value is dropped.
        let cache = unsafe { Core::at(core) }.adopt_cache(false).expect("memory");
        Self(core, cache)
    }

    fn parts(&mut self) -> (&Core, &mut ThreadCache) {
        // SAFETY: both live as long as the value, and nobody else has the cache.
        unsafe { (Core::at(self.0), &mut *core::ptr::with_exposed_provenance_mut(self.1)) }
    }

    fn allocate(&mut self, size: usize) -> usize {
        let (core, cache) = self.parts();
        core.allocate(cache, size, 4, Origin::Malloc).expect("memory")
    }

    fn free(&mut self, chunk: usize) {
        let (core, cache) = self.parts();
        core.free::<Mixture<Native>>(cache, chunk, Demand::origin("free", Origin::Malloc, &[])).expect("it is live");
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: nothing of it is used any more.
        unsafe { Core::destroy(self.0) };
    }
}

/// What happens between the look at a state byte and its change, when another thread frees the same chunk meanwhile.
fn wipe_after_another<P: Protections>(size: usize, mark: u8, state_now: u8) -> (bool, u8, bool) {
    const OTHER: u8 = 0x5a;
    let mut heap = Heap::new(Options::DEFAULT);
    let (core, _) = heap.parts();
    let class = ClassId::for_size(size).expect("a small size");
    let mut memory = vec![u128::from(OTHER); class.stride().div_ceil(16) + 2];
    let start = memory.as_mut_ptr().wrapping_add(1).expose_provenance();
    let slot = AtomicU8::new(state_now);
    let extent = Extent::new(class.capacity());
    let fields = Fields::allocated(size, 4, Origin::Malloc);
    let taken = core.wipe::<P>(&slot, &mark, start, class.capacity(), &extent, fields);
    let untouched = memory.iter().all(|&word| word == u128::from(OTHER));
    (taken, slot.load(Ordering::Relaxed), untouched)
}

/// Two threads free one chunk: the one whose look came first and whose change comes second must not have it. Longer slots
/// leave their quarantine without a fence, so nothing later would tell.
#[test]
fn a_slot_of_more_than_1016_bytes_that_another_thread_freed_since_is_not_taken() {
    let other = state::FIRST_MARK + 1;
    for size in [FINE_MAX + 1, 5000, SMALL_MAX] {
        for now in [other, state::FREE, state::RESIZING, state::RECORDED] {
            let refused = (false, now, true);
            assert_eq!(wipe_after_another::<DefaultProfile>(size, state::FIRST_MARK, now), refused, "{size} bytes");
            assert_eq!(wipe_after_another::<FastProfile>(size, state::FIRST_MARK, now), refused, "{size} bytes");
            assert_eq!(wipe_after_another::<StrictProfile>(size, state::FIRST_MARK, now), refused, "{size} bytes");
        }
        let live = wipe_after_another::<DefaultProfile>(size, state::FIRST_MARK, state::LIVE);
        assert_eq!((live.0, live.1), (true, state::FIRST_MARK), "{size} bytes");
    }
}

/// `strict`, and caches that threads share, whose mark tells nobody who owns a slot.
#[test]
fn where_frees_are_atomic_no_slot_is_taken_that_another_thread_freed_since() {
    let other = state::FIRST_MARK + 1;
    for size in [1, 24, FINE_MAX] {
        assert_eq!(wipe_after_another::<StrictProfile>(size, state::FIRST_MARK, other), (false, other, true));
        let shared = wipe_after_another::<Mixture<Native>>(size, state::SHARED_MARK, state::SHARED_MARK);
        assert_eq!(shared, (false, state::SHARED_MARK, true));
        let own = wipe_after_another::<StrictProfile>(size, state::FIRST_MARK, state::LIVE);
        assert_eq!((own.0, own.1), (true, state::FIRST_MARK));
    }
}

thread_local! {
    /// Address of the state byte that another thread changes in the middle of a fast path of [`FreedMeanwhile`].
    static STATE_BYTE: Cell<usize> = const { Cell::new(0) };
}

/// The options' checks, and another thread that frees the chunk between the look at its state byte and its change.
struct FreedMeanwhile;

impl Protections for FreedMeanwhile {
    type Crc = Native;
    type Vectors = NativeVectors;
    fn canary(options: &Options) -> bool {
        options.canary
    }
    fn zero_on_free(options: &Options) -> bool {
        options.zero_on_free
    }
    fn write_after_free(options: &Options) -> bool {
        options.write_after_free
    }
    /// Asked once, in between.
    fn neighbours(options: &Options) -> bool {
        let byte = core::ptr::with_exposed_provenance::<AtomicU8>(STATE_BYTE.take());
        // SAFETY: none, or the state byte of a heap that the test has.
        if let Some(byte) = unsafe { byte.as_ref() } {
            byte.store(state::FIRST_MARK + 1, Ordering::Relaxed);
        }
        options.neighbours
    }
    fn atomic_free(options: &Options, _: bool) -> bool {
        options.atomic_free
    }
}

/// It leaves all as it is to the slow path, which finds a double free.
#[test]
fn the_fast_path_takes_nothing_that_another_thread_frees_in_the_middle_of_it() {
    let demand = Demand::origin("free", Origin::Malloc, &[]);
    for (options, size) in [
        (Options::STRICT, 24),
        (Options::STRICT, FINE_MAX),
        (Options::STRICT, 5000),
        (Options::DEFAULT, 5000),
        (Options::FAST, 5000),
    ] {
        let mut heap = Heap::new(options);
        let [chunk, other] = [(); 2].map(|()| heap.allocate(size));
        let (core, cache) = heap.parts();
        // SAFETY: a live chunk so long.
        let contents =
            |chunk| unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(chunk), size) };
        contents(chunk).fill(0x5a_u8);
        let byte = core.arena.own_region(chunk).own_slot(chunk).state;
        STATE_BYTE.set(core::ptr::from_ref(byte).expose_provenance());
        let outcome = core.free_usual::<FreedMeanwhile, SMALL_MAX>(cache, chunk, demand);
        assert_eq!(outcome, Freed::Unusual, "{size} bytes");
        assert_eq!(STATE_BYTE.get(), 0, "the other thread was not there");
        assert_eq!(byte.load(Ordering::Relaxed), state::FIRST_MARK + 1, "{size} bytes: it is the other thread's");
        assert!(contents(chunk).iter().all(|&byte| byte == 0x5a), "{size} bytes: wiped");
        let found = core.free::<Mixture<Native>>(cache, chunk, demand).expect_err("a second free");
        assert_eq!((found.kind, found.address), (Kind::Freed, chunk), "{size} bytes");
        let outcome = core.free_usual::<FreedMeanwhile, SMALL_MAX>(cache, other, demand);
        assert_ne!(outcome, Freed::Unusual, "{size} bytes, where nobody else is at it");
    }
}

/// What the slow path does that has found a chunk live, when another thread gives it back before it goes on.
#[test]
fn what_another_thread_gives_back_after_it_was_found_is_freed_twice() {
    type All = Mixture<Native>;
    let demand = Demand::origin("free", Origin::Malloc, &[]);
    for size in [0, 100, 5000, 300_000] {
        let mut heap = Heap::new(Options::STRICT);
        let chunk = heap.allocate(size);
        let (core, cache) = heap.parts();
        let located = core.locate(chunk, Operation::Free).expect("it is live");
        core.free::<All>(cache, chunk, demand).expect("the other thread's");
        let found = core.free_located::<All>(cache, chunk, located).expect_err("a second free");
        assert_eq!((found.kind, found.address), (Kind::DoubleFree, chunk), "{size} bytes");
    }
    // In its slot, in its mapping, and by a copy.
    for (size, new) in [(100, 101), (5000, 4999), (300_000, 600_000), (300_000, 100)] {
        let mut heap = Heap::new(Options::STRICT);
        let chunk = heap.allocate(size);
        let (core, cache) = heap.parts();
        let located = core.locate(chunk, Operation::Reallocate).expect("it is live");
        core.free::<All>(cache, chunk, demand).expect("the other thread's");
        match core.reallocate_located::<All>(cache, chunk, located, new, demand, 4, Origin::Malloc) {
            Err(Failure::Violation(found)) => {
                assert_eq!((found.kind, found.address), (Kind::DoubleFree, chunk), "{size} bytes to {new}");
            }
            _ => panic!("{size} bytes to {new}: not found"),
        }
    }
}

const ORIGINS: [Origin; 7] = {
    let mut origins = [Origin::Malloc; 7];
    let mut bits = 1;
    while bits < 8 {
        if let Some(origin) = Origin::from_bits(bits) {
            origins[bits as usize - 1] = origin;
        }
        bits += 1;
    }
    origins
};

fn accepts(demand: &Demand, fields: Fields) -> bool {
    (fields.0 ^ demand.value) & demand.mask == 0
}

#[test]
fn the_fast_path_takes_back_what_goes_with_the_function_and_nothing_else() {
    for origin in ORIGINS {
        let any = Demand::origin("any size", origin, &[]);
        let sized = any.sized(100);
        let aligned = any.aligned(3);
        let both = sized.aligned(4);
        assert_eq!((both.size, both.align_log2, both.function), (Some(100), Some(4), "any size"));
        for other in ORIGINS {
            let right = other == origin;
            for size in [0, 99, 100, 101, 228, 1000, (1 << 20) - 1] {
                for align_log2 in [0, 3, 4, 5, 12, 15] {
                    let fields = Fields::allocated(size, align_log2, other);
                    assert!(!accepts(&any, fields.freed()) && !accepts(&both, fields.freed()), "freed");
                    let ordinary = align_log2 == 4;
                    assert_eq!(accepts(&any, fields), right && ordinary, "{fields:?}");
                    assert_eq!(accepts(&sized, fields), right && ordinary && size == 100, "{fields:?}");
                    assert_eq!(accepts(&aligned, fields), right && align_log2 == 3, "{fields:?}");
                    assert_eq!(accepts(&both, fields), right && ordinary && size == 100, "{fields:?}");
                }
            }
        }
    }
}

/// A header has too few bits for these: they are left to the slow path, which is exact.
#[test]
fn no_header_passes_for_a_size_or_alignment_that_none_can_hold() {
    let any = Demand::origin("any size", Origin::Rust, &[]);
    for demand in [any.sized((1 << 20) + 100), any.aligned(5), any.aligned(20), any.sized(100).aligned(20)] {
        for align_log2 in 0..16 {
            assert!(!accepts(&demand, Fields::allocated(100, align_log2, Origin::Rust)), "{demand:?}");
        }
    }
    assert!(accepts(&any.sized((1 << 20) - 1), Fields::allocated((1 << 20) - 1, 4, Origin::Rust)));
}

#[test]
fn a_demand_names_every_origin_that_goes_with_it() {
    for origin in ORIGINS {
        assert_eq!(Demand::origin("", origin, &[]).origins, 1 << origin as u8);
        for also in ORIGINS {
            let pair = Demand::origin("", origin, &[also, Origin::Malloc]);
            assert_eq!(pair.origins, 1 << origin as u8 | 1 << also as u8 | 1 << Origin::Malloc as u8);
            assert_eq!((pair.value, pair.size, pair.align_log2), (Demand::origin("", origin, &[]).value, None, None));
        }
    }
}

/// The fast path of `default` is compiled for slots of up to 1,016 bytes, and leaves longer ones alone.
#[test]
fn the_fast_path_takes_all_lengths_that_it_is_compiled_for() {
    let demand = Demand::origin("free", Origin::Malloc, &[]);
    for size in [1, 8, 100, FINE_MAX, FINE_MAX + 1, 5000] {
        let mut heap = Heap::new(Options::DEFAULT);
        let [short, any] = [0, 1].map(|_| heap.allocate(size));
        let (core, cache) = heap.parts();
        let outcome = core.free_usual::<DefaultProfile, FINE_MAX>(cache, short, demand);
        assert_eq!(outcome == Freed::Unusual, size > FINE_MAX, "{size} bytes: {outcome:?}");
        let outcome = core.free_usual::<DefaultProfile, SMALL_MAX>(cache, any, demand);
        assert_ne!(outcome, Freed::Unusual, "{size} bytes");
    }
}

/// The header behind a chunk that fills its slot is its canary.
#[test]
fn the_fast_path_leaves_a_full_chunk_alone_whose_next_header_was_changed() {
    let demand = Demand::origin("free", Origin::Malloc, &[]);
    let strict = Options { neighbours: true, ..Options::STRICT };
    for size in [24, 104, FINE_MAX] {
        for options in [Options::DEFAULT, strict] {
            let mut heap = Heap::new(options);
            let chunk = heap.allocate(size);
            let behind = core::ptr::with_exposed_provenance_mut::<u8>(chunk + size);
            let (core, cache) = heap.parts();
            let free = |cache: &mut ThreadCache| match options.neighbours {
                true => core.free_usual::<StrictProfile, SMALL_MAX>(cache, chunk, demand),
                false => core.free_usual::<DefaultProfile, FINE_MAX>(cache, chunk, demand),
            };
            // SAFETY: the attack: the first byte of the next slot's header.
            unsafe { *behind ^= 1 };
            assert_eq!(free(cache), Freed::Unusual, "{size} bytes");
            // SAFETY: as it was.
            unsafe { *behind ^= 1 };
            assert_ne!(free(cache), Freed::Unusual, "{size} bytes");
        }
    }
}

#[test]
fn what_is_held_back_is_counted_until_it_is_given_back() {
    let mut heap = Heap::new(Options { quarantine_kb: 64, ..Options::DEFAULT });
    let all = 64 << 10;
    let mut held = 0;
    for size in [24, 100, 500, 2000] {
        let chunks = [(); 50].map(|()| heap.allocate(size));
        chunks.into_iter().for_each(|chunk| heap.free(chunk));
        let class = ClassId::for_size(size).expect("a small size");
        let (_, cache) = heap.parts();
        let length = cache.bin(class).ring.length();
        assert!(length >= 2, "{size} bytes: {length} held back");
        held += length.cast_signed() * class.stride().cast_signed();
        assert_eq!(cache.quarantine_room, all - held, "{size} bytes");
    }
    let (core, cache) = heap.parts();
    core.flush(cache).expect("nothing was given back twice");
    assert_eq!(cache.quarantine_room, all);
}

/// A thread that frees what others allocate must not hold ever more.
#[test]
fn slots_for_which_a_cache_has_no_room_go_back_to_their_class() {
    for size in [24, 500, 5000] {
        let mut heap = Heap::new(Options::DEFAULT);
        let chunks: Vec<usize> = (0..1000).map(|_| heap.allocate(size)).collect();
        chunks.iter().for_each(|&chunk| heap.free(chunk));
        let (core, cache) = heap.parts();
        let mark = cache.mark;
        let is_held = |chunk: usize| core.arena.own_region(chunk).own_slot(chunk).state.load(Ordering::Relaxed) == mark;
        let held = chunks.iter().filter(|&&chunk| is_held(chunk)).count();
        assert!((2..200).contains(&held), "{size} bytes: {held} held back or ready");
        for &chunk in &chunks {
            assert!(core.locate(chunk, Operation::Free).is_err(), "{size} bytes: a second free");
        }
    }
}

/// However little a quarantine may hold, and however much of it other classes have, a slot waits for two others.
#[test]
fn a_slot_never_comes_back_at_once_however_full_the_quarantine_is() {
    let mut heap = Heap::new(Options { quarantine_kb: 1, ..Options::DEFAULT });
    for size in [500, 24, 200, 3000] {
        let chunks = [(); 40].map(|()| heap.allocate(size));
        chunks.into_iter().for_each(|chunk| heap.free(chunk));
        let class = ClassId::for_size(size).expect("a small size");
        let (_, cache) = heap.parts();
        assert!(cache.bin(class).ring.length() >= 2, "{size} bytes");
        if size != 500 {
            assert_eq!(cache.bin(class).ring.length(), 2, "{size} bytes: there is no room for more");
        }
    }
}

/// Bytes in memory of the pages that a chunk has to itself, before it is freed and after, when others of its class were freed
/// a moment ago or not.
fn resident_around_a_free(options: Options, size: usize, a_moment_ago: bool) -> [usize; 2] {
    let mut heap = Heap::new(options);
    let [chunk, other] = [(); 2].map(|()| heap.allocate(size));
    let fill = |chunk| {
        // SAFETY: a live chunk so long.
        unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk).write_bytes(0xa5, size) }
    };
    fill(chunk);
    fill(other);
    let resident = || mapping::resident(page_ceil(chunk), page_floor(chunk + size) - page_ceil(chunk));
    let before = resident();
    if a_moment_ago {
        heap.free(other);
    }
    heap.free(chunk);
    [before, resident()]
}

#[test]
fn a_long_slot_that_is_rarely_freed_gives_its_pages_back_and_one_of_a_loop_keeps_them() {
    for size in [9000, 40_000, 100_000, SMALL_MAX] {
        for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
            let [before, after] = resident_around_a_free(options, size, false);
            assert!(before > 0 && after == 0, "{size} bytes: {before}, then {after}");
            // Ten milliseconds may pass between two frees, but not each time.
            let keeps = |[before, after]: [usize; 2]| before > 0 && after == before;
            assert!((0..20).any(|_| keeps(resident_around_a_free(options, size, true))), "{size} bytes");
        }
    }
    let never = Options { release_interval_ms: -1, ..Options::DEFAULT };
    let [before, after] = resident_around_a_free(never, 100_000, false);
    assert_eq!(before, after, "memory that never goes back");
}

#[test]
fn a_write_to_a_slot_that_has_given_its_pages_back_is_found_and_the_next_user_sees_zeroes() {
    for offset in [0, 5000, 50_000, 99_999] {
        let mut heap = Heap::new(Options { quarantine_kb: 0, randomize: false, ..Options::DEFAULT });
        let chunk = heap.allocate(100_000);
        // SAFETY: a live chunk so long.
        unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk).write_bytes(0xa5, 100_000) };
        heap.free(chunk);
        let again = core::iter::repeat_with(|| heap.allocate(100_000)).take(100).position(|other| other == chunk);
        assert!(again.is_some(), "the slot never came back");
        // SAFETY: as above.
        let contents = unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(chunk), 100_000) };
        assert!(contents.iter().all(|&byte| byte == 0));

        let chunk = heap.allocate(100_000);
        heap.free(chunk);
        // SAFETY: a freed chunk's slot, which stays accessible.
        unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk + offset).write(1) };
        let (core, cache) = heap.parts();
        let refused = (0..100).find_map(|_| core.allocate(cache, 100_000, 4, Origin::Malloc).err());
        let Some(Failure::Violation(violation)) = refused else { panic!("the write was not found: {refused:?}") };
        assert_eq!((violation.kind, violation.address), (Kind::WriteAfterFree, chunk));
    }
}
