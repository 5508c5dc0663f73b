//! Claims about guarded slots, each on a pool of its own.

use super::free::Held;
use super::table::state;
use super::{GUARDED_MAX, Ground, Guarded, STRIDE};
use crate::budget::Budget;
use crate::chunk::checksum::{Seal, Secrets};
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::os::interference::{ALL, Call, has_not_waited, refusing, when_waiting, with_mappings_up_to};
use crate::os::mapping::{PAGE, is_accessible};
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
        let mut random = Random::from_number(5);
        let layout = std::alloc::Layout::new::<Guarded>();
        // SAFETY: zeroes are a valid pool without slots.
        let mut guarded = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Guarded>()) };
        guarded.init(&Options { guarded_slots: slots, ..Options::FUZZ }, random.fork());
        let seal = Seal { secrets: Secrets::draw(&mut random), has_instruction: false };
        Self { guarded, budget: Budget::new(usize::MAX), seal, random }
    }

    fn try_allocate(&mut self, size: usize, place: usize) -> Option<usize> {
        let Self { guarded, budget, seal, random } = self;
        let ground = Ground { budget, seal };
        guarded.allocate(ground, random, size, 4, Origin::Malloc, || called_from(place))
    }

    fn allocate(&mut self, size: usize, place: usize) -> usize {
        self.try_allocate(size, place).expect("a slot")
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
