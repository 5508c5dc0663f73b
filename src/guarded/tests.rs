//! Claims about guarded slots, each on a pool of its own.

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

/// Another thread that has it at this moment gives it back, or has only looked at it.
#[test]
fn a_chunk_that_another_thread_holds_is_waited_for() {
    for (meanwhile, then, outcome) in [
        (state::CLOSING, state::FREED, Err(Kind::Freed)),
        (state::HELD, state::LIVE, Ok(())),
        (state::OPENING, state::LIVE, Ok(())),
    ] {
        let mut pool = Pool::new(4);
        let chunk = pool.allocate(100, 1);
        let slot: *const _ = pool.state_of(chunk);
        pool.state_of(chunk).store(meanwhile, Ordering::Relaxed);
        // SAFETY: the pool lives until the end of this round.
        when_waiting(move || unsafe { (*slot).store(then, Ordering::Relaxed) });
        assert_eq!(pool.free(chunk).map_err(|found| found.kind), outcome, "state {meanwhile}");
        assert!(!has_not_waited(), "state {meanwhile}");
        assert_eq!(pool.wrong(chunk).kind, Kind::Freed);
    }
}

/// A limit on address space: fewer slots, and traces with the slots; or none, for good.
#[test]
fn where_the_pool_is_refused_there_are_fewer_slots_or_none() {
    let mut pool = Pool::new(16);
    let chunk = with_mappings_up_to(10 * STRIDE, || pool.try_allocate(100, 0x1000)).expect("a slot");
    for _ in 1..8 {
        pool.allocate(100, 1);
    }
    assert!(pool.try_allocate(100, 1).is_none(), "half of them");
    assert!(!pool.guarded.depot().is_settled());
    let history = pool.guarded.history(chunk).expect("it lies in the pool");
    assert_eq!(history.allocated.map(|caller| caller.trace.frames[0]), Some(0x1000));
    pool.free(chunk).expect("a correct free");

    let mut none = Pool::new(16);
    assert!(refusing(&[(Call::Map, ALL)], || none.try_allocate(100, 1)).is_none());
    assert!(none.try_allocate(100, 1).is_none(), "it is not tried again");
    assert_eq!(none.budget.used(), 0);
}

/// Its memory is what is asked for second, after that of the table.
#[test]
fn traces_are_kept_with_the_slots_where_the_depot_is_refused() {
    let mut pool = Pool::new(4);
    let chunk = refusing(&[(Call::Protect, 0b10)], || pool.try_allocate(100, 0x1000)).expect("a slot");
    assert!(!pool.guarded.depot().is_settled());
    pool.free(chunk).expect("a correct free");
    let history = pool.guarded.history(chunk).expect("it lies in the pool");
    assert_eq!(history.allocated.map(|caller| caller.trace.frames[0]), Some(0x1000));
    assert_eq!(history.freed.map(|caller| caller.trace.frames[0]), Some(1));
}

#[test]
fn a_slot_whose_pages_are_refused_is_used_later() {
    let mut pool = Pool::new(2);
    let first = pool.allocate(100, 1);
    let used = pool.budget.used();
    assert!(refusing(&[(Call::Protect, 1)], || pool.try_allocate(5000, 1)).is_none());
    assert_eq!(pool.budget.used(), used);
    let second = pool.allocate(5000, 1);
    assert!(pool.try_allocate(1, 1).is_none(), "no slot is left");
    for chunk in [first, second] {
        pool.free(chunk).expect("a correct free");
    }
    assert_eq!(pool.budget.used(), 0);
}

#[test]
fn a_slot_that_a_limit_on_memory_refuses_is_used_later() {
    let mut pool = Pool::new(1);
    pool.budget = Budget::new(PAGE);
    assert!(pool.try_allocate(5000, 1).is_none(), "two pages");
    assert_eq!(pool.budget.used(), 0);
    let chunk = pool.allocate(100, 1);
    assert_eq!(pool.budget.used(), PAGE);
    pool.free(chunk).expect("a correct free");
    assert_eq!(pool.budget.used(), 0);
}

/// By fresh address space in their place; where that is refused too, nobody gets the slot again.
#[test]
fn a_freed_slot_whose_pages_can_not_be_closed_is_replaced_or_lost() {
    for (calls, is_lost) in [(&[(Call::Protect, 1)][..], false), (&[(Call::Protect, 1), (Call::Map, 1)], true)] {
        let mut pool = Pool::new(1);
        let chunk = pool.allocate(100, 1);
        refusing(calls, || pool.free(chunk)).expect("a correct free");
        assert_eq!(is_accessible(chunk), is_lost);
        assert_eq!(pool.budget.used(), 0);
        assert_eq!(pool.free(chunk).map_err(|found| found.kind), Err(Kind::Freed), "a second free");
        assert_eq!(pool.try_allocate(100, 1).is_none(), is_lost);
    }
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

/// The lines of `/proc/self/maps` about a range: where they begin and end, and whether anything may be read there.
fn mappings(start: usize, end: usize) -> Vec<(usize, usize, bool)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is there");
    let lines = maps.lines().map(|line| {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two addresses");
        let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).expect("hexadecimal"));
        (from, to, rest.starts_with('r'))
    });
    lines.filter(|&(from, to, _)| from < end && to > start).collect()
}

/// Readable bytes in a range.
fn readable(start: usize, end: usize) -> usize {
    let readable = mappings(start, end).into_iter().filter(|mapping| mapping.2);
    readable.map(|(from, to, _)| to.min(end) - from.max(start)).sum()
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
fn the_pages_of_live_chunks_are_charged_readable_and_counted_and_those_of_freed_ones_are_none_of_these() {
    let mut pool = Pool::new(16);
    let sizes = [1, 100, PAGE, PAGE + 1, 5 * PAGE, GUARDED_MAX - 1, GUARDED_MAX];
    let pages = [1, 1, 1, 2, 5, 16, 16];
    let (mut chunks, mut bytes, mut all) = (Vec::new(), 0, 0);
    for (size, pages) in sizes.into_iter().zip(pages) {
        let chunk = pool.allocate(size, 1);
        (bytes, all) = (bytes + size, all + pages * PAGE);
        chunks.push(chunk);
        assert_eq!(pool.guarded.footprint(), (chunks.len(), bytes, all));
        assert_eq!(pool.budget.used(), all);
        let (start, end) = pages_of(&pool, chunk);
        assert_eq!(readable(start - PAGE, end + PAGE), pages * PAGE, "{size} bytes");
    }
    for ((chunk, size), pages) in chunks.into_iter().zip(sizes).zip(pages) {
        pool.free(chunk).expect("a correct free");
        (bytes, all) = (bytes - size, all - pages * PAGE);
        assert_eq!((pool.guarded.footprint().1, pool.guarded.footprint().2, pool.budget.used()), (bytes, all, all));
        let (start, end) = pages_of(&pool, chunk);
        assert_eq!(readable(start, end), 0, "{size} bytes");
    }
}

/// Every mapping counts against `vm.max_map_count`.
#[test]
fn slots_that_were_used_once_need_as_many_mappings_when_they_are_freed_and_used_again() {
    let mut pool = Pool::new(16);
    let mut chunks = [(); 16].map(|()| pool.allocate(100, 1));
    let count = |pool: &Pool| mappings(pool.guarded.end_of(0) - STRIDE, pool.guarded.end_of(15)).len();
    let used = count(&pool);
    assert!(used <= 3 * 16 + 1, "{used} mappings");
    for _ in 0..3 {
        chunks.into_iter().for_each(|chunk| pool.free(chunk).expect("a correct free"));
        assert_eq!(count(&pool), used);
        chunks = [(); 16].map(|()| pool.allocate(100, 1));
        assert_eq!(count(&pool), used);
    }
}

/// Memory behind freed slots: a page of each where every chunk is guarded, until it is asked back; none elsewhere.
#[test]
fn a_freed_slot_keeps_its_last_page_where_all_chunks_are_guarded_until_a_purge() {
    for (sample_rate, kept) in [(1, PAGE), (1000, 0)] {
        let mut pool = Pool::with(&Options { sample_rate, guarded_slots: 8, ..Options::FUZZ }, 5);
        for size in [100, 3 * PAGE, GUARDED_MAX] {
            let [chunk, live] = [(); 2].map(|()| pool.allocate(size, 1));
            let fill = |chunk| {
                // SAFETY: a live chunk so long.
                unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk).write_bytes(1, size) }
            };
            fill(chunk);
            fill(live);
            let resident = |chunk| {
                let (start, end) = pages_of(&pool, chunk);
                mapping::resident(start, end - start)
            };
            let all = resident(live);
            assert_eq!((resident(chunk), all), (page_ceil(size), page_ceil(size)));
            pool.free(chunk).expect("a correct free");
            assert_eq!(resident(chunk), kept, "{size} bytes");
            pool.guarded.purge();
            assert_eq!((resident(chunk), resident(live)), (0, all), "{size} bytes");
            // SAFETY: a live chunk so long.
            let contents = unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(live), size) };
            assert!(contents.iter().all(|&byte| byte == 1));
            pool.free(live).expect("a correct free");
        }
    }
}

#[test]
fn what_is_handed_out_again_is_zero_where_it_is_not_filled() {
    for sample_rate in [1, 1000] {
        let options = Options { sample_rate, fill_pattern: false, guarded_slots: 2, ..Options::FUZZ };
        let mut pool = Pool::with(&options, 5);
        for size in [100, 5000, GUARDED_MAX, 24].into_iter().cycle().take(32) {
            let chunk = pool.allocate(size, 1);
            let start = core::ptr::with_exposed_provenance_mut::<u8>(chunk);
            // SAFETY: a live chunk so long.
            let contents = unsafe { core::slice::from_raw_parts_mut(start, size) };
            assert!(contents.iter().all(|&byte| byte == 0), "{size} bytes");
            contents.fill(1);
            pool.free(chunk).expect("a correct free");
        }
    }
}

#[test]
fn a_slot_is_not_lost_when_its_pages_would_exceed_the_limit() {
    let mut pool = Pool::new(1);
    pool.budget = Budget::new(PAGE);
    for round in 0..3 {
        assert_eq!(pool.allocate_for(PAGE + 1, 4, Origin::Malloc, called_from(1)), None);
        let before = pool.guarded.table.entry(0).expect("the slot").state.load(Ordering::Relaxed);
        assert_eq!(before, if round == 0 { state::UNUSED } else { state::FREED });
        let chunk = pool.allocate(PAGE, 1);
        pool.free(chunk).expect("a correct free");
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

#[test]
fn the_table_takes_the_bytes_of_its_parts_and_lies_between_guard_pages() {
    for slots in [1, 64, 1000, 3000] {
        let mut pool = Pool::with(&Options { sample_rate: 1000, guarded_slots: slots as u32, ..Options::FUZZ }, 5);
        pool.allocate(1, 1);
        let parts = [size_of::<Entry>(), size_of::<u16>(), size_of::<SlotFrames>()];
        let bytes = parts.map(|each| page_ceil(slots * each)).iter().sum();
        assert_eq!(pool.guarded.table_bytes(), bytes);
        let start = core::ptr::from_ref(pool.guarded.table.entry(0).expect("a slot")).addr();
        assert_eq!(readable(start - PAGE, start + bytes + PAGE), bytes);
        assert_eq!(mappings(start - PAGE, start).len() + mappings(start + bytes, start + bytes + PAGE).len(), 2);
    }
    let mut pool = Pool::new(1);
    pool.allocate(1, 1);
    assert_eq!(
        pool.guarded.table_bytes(),
        3 * PAGE + DEPOT_BYTES - 2 * PAGE,
        "where every chunk is guarded, with a depot"
    );
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
