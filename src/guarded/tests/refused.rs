//! What another thread, a limit or the system has a pool wait for or do without.

use super::*;

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
