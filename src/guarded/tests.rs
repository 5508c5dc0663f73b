//! Claims about guarded slots, each on a pool of its own.

mod memory;
mod refused;

use super::free::Held;
use super::table::{Entry, SlotFrames, state};
use super::{DEPOT_BYTES, GUARDED_MAX, Ground, Guarded, STRIDE};
use crate::budget::Budget;
use crate::chunk::checksum::{Seal, Secrets};
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::os::interference::{ALL, Call, has_not_waited, refusing, when_waiting, with_mappings_up_to};
use crate::os::mapping::{self, PAGE, is_accessible, page_ceil};
use crate::random::Random;
use crate::trace::{Caller, Taken, Trace};
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::Ordering;

struct Pool {
    guarded: Box<Guarded>,
    budget: Budget,
    seal: Seal,
    random: Random,
}

/// The calls that somebody came by: one, from `place`.
fn called_from(place: usize) -> Caller<Taken> {
    let mut trace = Trace::NONE;
    (trace.frames[0], trace.length) = (place, 1);
    Caller { thread: 7, trace: Taken::Whole(trace) }
}

impl Pool {
    fn new(slots: u32) -> Self {
        Self::with(&Options { guarded_slots: slots, ..Options::FUZZ }, 5)
    }

    fn with(options: &Options, seed: u64) -> Self {
        let mut random = Random::from_number(seed);
        let layout = std::alloc::Layout::new::<Guarded>();
        // SAFETY: zeroes are a valid pool without slots.
        let mut guarded = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Guarded>()) };
        guarded.init(options, random.fork());
        let seal = Seal { secrets: Secrets::draw(&mut random), has_instruction: false };
        Self { guarded, budget: Budget::new(usize::MAX), seal, random }
    }

    fn try_allocate(&mut self, size: usize, place: usize) -> Option<usize> {
        self.allocate_for(size, 4, Origin::Malloc, called_from(place))
    }

    fn allocate(&mut self, size: usize, place: usize) -> usize {
        self.try_allocate(size, place).expect("a slot")
    }

    fn allocate_for(&mut self, size: usize, align_log2: u32, origin: Origin, caller: Caller<Taken>) -> Option<usize> {
        let Self { guarded, budget, seal, random } = self;
        let ground = Ground { budget, seal };
        guarded.allocate(ground, random, size, align_log2, origin, || caller)
    }

    fn free(&self, address: usize) -> Result<(), Violation> {
        let ground = Ground { budget: &self.budget, seal: &self.seal };
        self.guarded.free(ground, address, |_| Ok(()), || called_from(1))
    }

    /// What is wrong with an address.
    fn wrong(&self, address: usize) -> Violation {
        let ground = Ground { budget: &self.budget, seal: &self.seal };
        self.guarded.find(ground, address, Operation::Free).expect_err("no live chunk begins there")
    }

    fn state_of(&self, address: usize) -> &core::sync::atomic::AtomicU8 {
        let slot = self.guarded.slot_of(address).expect("in the pool");
        &self.guarded.table.entry(slot).expect("a slot").state
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.guarded.unmap_all();
    }
}

#[test]
fn an_address_that_is_no_live_chunk_is_told_by_what_lies_there() {
    let mut pool = Pool::new(16);
    let chunk = pool.allocate(100, 1);
    let own = pool.guarded.slot_of(chunk).expect("in the pool");
    let (first, last) = (pool.guarded.end_of(0) - PAGE, pool.guarded.end_of(15));
    for (address, told) in [
        (chunk + 1, "inside a chunk, not at its start"),
        (chunk + 99, "inside a chunk, not at its start"),
        (chunk.wrapping_sub(1), "beside a guarded chunk"),
        (chunk + 100, "beside a guarded chunk"),
        (last, "in a guard page"),
        (last + PAGE - 1, "in a guard page"),
        (last + PAGE, "outside this heap"),
        (first - GUARDED_MAX - 1, "outside this heap"),
    ] {
        // What lies behind a chunk that ends at its slot's end is the next slot's guard page.
        if pool.guarded.slot_of(address).is_none_or(|slot| slot == own || slot == 16) {
            let found = pool.wrong(address);
            assert!(found.kind == Kind::NotAChunk && found.detail.contains(told), "{found:?}");
        }
    }
    for slot in (0..16).filter(|&slot| slot != own) {
        let found = pool.wrong(pool.guarded.end_of(slot) - 16);
        assert!(found.kind == Kind::NotAChunk && found.detail.contains("nothing was ever allocated"), "{found:?}");
    }
    pool.free(chunk).expect("a correct free");
    let found = pool.wrong(chunk);
    assert_eq!((found.kind, found.chunk.map(|chunk| chunk.size)), (Kind::Freed, Some(100)));
    let found = pool.wrong(chunk + 1);
    assert!(found.kind == Kind::NotAChunk && found.detail.contains("that was given back"), "{found:?}");
    assert!(pool.wrong(chunk - 1).detail.contains("beside"));
}

/// It was given back, and its slot used again, between two looks.
#[test]
fn a_chunk_that_is_another_by_the_time_it_is_held_is_let_go() {
    let mut pool = Pool::new(4);
    let chunk = pool.allocate(100, 1);
    let slot = pool.guarded.slot_of(chunk).expect("in the pool");
    let entry = pool.guarded.table.entry(slot).expect("a slot");
    assert!(Held::take(entry, slot, chunk + 4).is_none());
    assert_eq!(entry.state.load(Ordering::Relaxed), state::LIVE);
    assert!(Held::take(entry, slot, chunk).is_some());
    assert_eq!(entry.state.load(Ordering::Relaxed), state::HELD, "it is held");
    assert!(Held::take(entry, slot, chunk).is_none(), "by another thread");
    assert_eq!(entry.state.load(Ordering::Relaxed), state::HELD, "still held");
}

/// What other threads were about when the process forked will never be finished.
#[test]
fn in_a_child_no_slot_waits_for_a_thread_that_is_not_there() {
    let mut pool = Pool::new(8);
    for (before, after) in [
        (state::HELD, state::LIVE),
        (state::LIVE, state::LIVE),
        (state::OPENING, state::FREED),
        (state::CLOSING, state::FREED),
        (state::FREED, state::FREED),
    ] {
        let chunk = pool.allocate(100, 1);
        pool.state_of(chunk).store(before, Ordering::Relaxed);
        pool.guarded.restart_in_child();
        assert_eq!(pool.state_of(chunk).load(Ordering::Relaxed), after, "state {before}");
        let freed = pool.free(chunk).map_err(|found| found.kind);
        assert_eq!(freed, if after == state::LIVE { Ok(()) } else { Err(Kind::Freed) });
    }
}

#[test]
fn live_chunks_are_grouped_by_the_calls_that_allocated_them() {
    let mut pool = Pool::new(16);
    for (size, place) in [(100, 0x1000), (24, 0x2000), (100, 0x1000), (7, 0x1000), (5000, 0x3000)] {
        pool.allocate(size, place);
    }
    let gone = pool.allocate(50, 0x2000);
    pool.free(gone).expect("a correct free");
    let mut groups = Vec::new();
    pool.guarded.for_each_leak(|count, bytes, trace| groups.push((trace.frames[0], trace.length, count, bytes)));
    groups.sort_unstable();
    assert_eq!(groups, [(0x1000, 1, 3, 207), (0x2000, 1, 1, 24), (0x3000, 1, 1, 5000)]);
    assert_eq!(pool.guarded.footprint().0, 5);
    let history = pool.guarded.history(gone).expect("it lies in the pool");
    assert_eq!(history.allocated.map(|caller| caller.trace.frames[0]), Some(0x2000));
    assert_eq!(history.freed.map(|caller| (caller.thread, caller.trace.frames[0])), Some((7, 1)));
    assert!(pool.guarded.history(gone.wrapping_sub(20 * STRIDE)).is_none());
}

/// The pages of the slot that a chunk lies in.
fn pages_of(pool: &Pool, chunk: usize) -> (usize, usize) {
    let end = pool.guarded.end_of(pool.guarded.slot_of(chunk).expect("in the pool"));
    (end - GUARDED_MAX, end)
}

/// A fault is told with the chunk that it was probably meant for.
#[test]
fn each_half_of_a_guard_page_belongs_to_the_chunk_that_it_borders() {
    // As long as a slot; and of a byte for each, which ends where its slot does or begins in its last page.
    for size in [GUARDED_MAX, 1] {
        let mut pool = Pool::new(8);
        for _ in 0..8 {
            pool.allocate(size, 1);
        }
        let chunk_of =
            |slot: usize| pool.guarded.table.entry(slot).expect("a slot").chunk().expect("all are used").address;
        for slot in 0..7 {
            let end = pool.guarded.end_of(slot);
            let (own, next) = (chunk_of(slot), chunk_of(slot + 1));
            let near = |address: usize| pool.guarded.chunk_near(address).map(|(chunk, live)| (chunk.address, live));
            let behind = if size == 1 { own } else { next };
            for (address, nearest) in [
                (own, own),
                (own + size - 1, own),
                (end - 1, own),
                (end, own),
                (end + PAGE / 2 - 1, own),
                (end + PAGE / 2, behind),
                (end + PAGE - 1, behind),
                (end + PAGE, next),
            ] {
                assert_eq!(
                    near(address),
                    Some((nearest, true)),
                    "{size} bytes: {address:#x}, where slot {slot} ends at {end:#x}"
                );
            }
        }
        let gone = chunk_of(3);
        pool.free(gone).expect("a correct free");
        assert_eq!(pool.guarded.chunk_near(gone).map(|(chunk, live)| (chunk.size, live)), Some((size, false)));
    }
}

#[test]
fn a_guard_page_with_one_used_slot_beside_it_belongs_to_that_and_an_unused_slot_has_no_history() {
    let mut pool = Pool::new(8);
    let chunk = pool.allocate(100, 1);
    let (start, end) = pages_of(&pool, chunk);
    let last = pool.guarded.end_of(7);
    let near = |address| pool.guarded.chunk_near(address).map(|(chunk, _)| chunk.address);
    for at in (pool.guarded.end_of(0) - STRIDE..last).step_by(PAGE / 2) {
        let beside = (start - PAGE..end + PAGE).contains(&at);
        assert_eq!(near(at), beside.then_some(chunk), "{:#x} of {start:#x} to {end:#x}", at);
    }
}

#[test]
fn a_chunk_that_must_be_aligned_to_a_page_is_guarded_and_to_more_not() {
    let mut pool = Pool::new(4);
    let aligned = pool.allocate_for(100, 12, Origin::Memalign, called_from(1)).expect("a slot");
    assert_eq!(aligned % PAGE, 0);
    for align_log2 in [13, 14, 20] {
        assert_eq!(pool.allocate_for(100, align_log2, Origin::Memalign, called_from(1)), None);
    }
}

#[test]
fn one_chunk_in_eight_begins_where_its_pages_do() {
    let mut pool = Pool::new(8);
    let left = (0..800).filter(|_| {
        let chunk = pool.allocate(100, 1);
        pool.free(chunk).expect("a correct free");
        chunk.is_multiple_of(PAGE)
    });
    // A hundred, give or take the luck of a fixed seed.
    assert!((70..=130).contains(&left.count()));
}

#[test]
fn any_slot_may_be_the_first_one_used() {
    let first = |seed| {
        let mut pool = Pool::with(&Options { guarded_slots: 2, ..Options::FUZZ }, seed);
        let chunk = pool.allocate(100, 1);
        pool.guarded.slot_of(chunk).expect("in the pool")
    };
    let firsts: std::collections::BTreeSet<usize> = (0..40).map(first).collect();
    assert!(firsts.into_iter().eq(0..2));
}

/// A child would otherwise use slots in its parent's order.
#[test]
fn a_new_source_of_randomness_is_the_one_that_is_drawn_from() {
    let pool = Pool::new(1);
    pool.guarded.reseed(Random::from_number(99));
    assert_eq!(pool.guarded.state.lock().random.u64(), Random::from_number(99).u64());
}

/// A chunk whose alignment leaves bytes behind it, in a slot: long, so that they are not all within reach of its start.
#[test]
fn what_alignment_leaves_behind_a_long_chunk_is_canary_and_no_part_of_it() {
    let mut pool = Pool::new(16);
    for _ in 0..16 {
        let chunk = pool.allocate_for(1001, 4, Origin::Memalign, called_from(1)).expect("a slot");
        let behind = core::ptr::with_exposed_provenance_mut::<u8>(chunk + 1001);
        assert!(pool.wrong(chunk + 1001).detail.contains("beside a guarded chunk"));
        for at in 0..7 {
            // SAFETY: the attack: bytes that are not the chunk's, in its page.
            let flip = || unsafe { *behind.add(at) ^= 1 };
            flip();
            let found = pool.wrong(chunk);
            assert_eq!((found.kind, found.offset), (Kind::Overflow, Some(1001 + at as isize)));
            flip();
        }
        let ground = Ground { budget: &pool.budget, seal: &pool.seal };
        assert_eq!(pool.guarded.find(ground, chunk, Operation::Free).map(|chunk| chunk.size), Ok(1001));
        assert_eq!(pool.state_of(chunk).load(Ordering::Relaxed), state::LIVE, "nobody holds it any more");
    }
}

/// A chunk of `malloc` holds whole objects of one type; clang, which knows that `new` aligns to 16, counts on it.
#[test]
fn a_chunk_is_aligned_as_its_size_and_those_who_compiled_the_program_say() {
    for (least, size, of_malloc, of_new) in [
        (4, 52, 4, 16),
        (4, 24, 8, 16),
        (4, 48, 16, 16),
        (4, 15, 4, 4),
        (1, 53, 1, 1),
        (16, 52, 16, 16),
        (16, 5, 16, 16),
    ] {
        let mut pool = Pool::new(16);
        pool.guarded.least_align = least;
        // How far all of eight are aligned, those that start with their page too.
        let mut aligned = |origin| {
            let chunks = [(); 8].map(|()| pool.allocate_for(size, 4, origin, called_from(1)).expect("a slot"));
            1 << chunks.into_iter().fold(0, |bits, chunk| bits | chunk).trailing_zeros().min(4)
        };
        assert!(aligned(Origin::Malloc) >= of_malloc, "malloc({size})");
        assert!(aligned(Origin::New) >= of_new, "new of {size} bytes");
        let precise = |origin| pool.guarded.alignment(size, 4, origin);
        assert_eq!(
            (precise(Origin::Malloc), precise(Origin::New), precise(Origin::NewArray)),
            (of_malloc, of_new, of_new)
        );
    }
}

/// With so many that each part of the table takes several pages.
#[test]
fn slots_by_the_hundred_each_have_their_own_entry_and_traces() {
    const SLOTS: usize = 1000;
    let mut pool = Pool::new(SLOTS as u32);
    let chunks: Vec<usize> = (1..=SLOTS).map(|number| pool.allocate(number, number)).collect();
    let history = |pool: &Pool, chunk| {
        let history = pool.guarded.history(chunk).expect("it lies in the pool");
        [history.allocated, history.freed]
            .map(|caller| caller.map(|caller| (caller.trace.frames[0], caller.trace.length)))
    };
    for (&chunk, number) in chunks.iter().zip(1..) {
        assert_eq!(pool.guarded.chunk_near(chunk).map(|(chunk, live)| (chunk.size, live)), Some((number, true)));
        assert_eq!(history(&pool, chunk), [Some((number, 1)), None]);
    }
    assert_eq!(pool.allocate_for(1, 4, Origin::Malloc, called_from(1)), None, "all are used");
    chunks.iter().for_each(|&chunk| pool.free(chunk).expect("a correct free"));
    for (&chunk, number) in chunks.iter().zip(1..) {
        assert_eq!(history(&pool, chunk), [Some((number, 1)), Some((1, 1))]);
    }
    let again: Vec<usize> = (0..SLOTS).map(|_| pool.allocate(1, 1)).collect();
    let slots: std::collections::BTreeSet<_> = again.into_iter().map(|chunk| pool.guarded.slot_of(chunk)).collect();
    assert_eq!(slots.len(), SLOTS);
}

/// A long walk, then a short one.
#[test]
fn a_trace_ends_where_it_did_whatever_was_kept_in_its_place_before() {
    let mut pool = Pool::new(1);
    for length in [5, 1, 24, 2, 0] {
        let mut trace = Trace::NONE;
        trace.frames[..length].fill(0x1234);
        trace.length = length;
        let caller = Caller { thread: 7, trace: Taken::Whole(trace) };
        let chunk = pool.allocate_for(100, 4, Origin::Malloc, caller).expect("the slot");
        let allocated = pool.guarded.history(chunk).and_then(|history| history.allocated);
        assert_eq!(allocated.map(|caller| caller.trace), Some(trace));
        pool.free(chunk).expect("a correct free");
    }
}

/// The depot may be full by the time that the same calls are made again.
#[test]
fn calls_are_the_same_whether_the_depot_has_them_or_not() {
    let mut pool = Pool::new(16);
    // Maps the depot.
    let first = pool.allocate(1, 0x9000);
    pool.free(first).expect("a correct free");
    let numbered = |pool: &Pool, place: usize| {
        let Taken::Whole(trace) = called_from(place).trace else { panic!("it is whole") };
        Caller { thread: 7, trace: Taken::Numbered(pool.guarded.depot().number(&trace).expect("room")) }
    };
    let (a, b) = (numbered(&pool, 0x1000), numbered(&pool, 0x2000));
    let whole = called_from;
    for (size, caller) in [(1, a), (2, b), (4, a), (8, whole(0x2000)), (16, whole(0x3000)), (32, whole(0x3000))] {
        pool.allocate_for(size, 4, Origin::Malloc, caller).expect("a slot");
    }
    let mut groups = Vec::new();
    pool.guarded.for_each_leak(|count, bytes, trace| groups.push((trace.frames[0], count, bytes)));
    groups.sort_unstable();
    assert_eq!(groups, [(0x1000, 2, 5), (0x2000, 2, 10), (0x3000, 2, 48)]);
}
