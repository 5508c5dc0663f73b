//! How a class grows: runs of slabs, the guards between them, and the tables that tell of them.

use super::super::class::{BATCH, Class, Descriptors};
use super::super::region::{OwnedSlot, SlotIndex, state};
use super::super::slab::{Place, Slab, SlabId, Slabs};
use super::{MARK, Slots, all_orders};
use crate::options::Options;
use crate::os::mapping::{PAGE, is_accessible, page_ceil, page_floor};
use crate::random::Random;
use crate::size_class::HEADER;
use core::sync::atomic::Ordering;

/// One slab after the other, each slot in its turn.
const IN_ORDER: Options = Options { randomize: false, ..Options::DEFAULT };

/// Takes slots until so many are out.
fn take_until(slots: &mut Slots, out: &mut Vec<OwnedSlot>, count: usize) {
    while out.len() < count {
        let batch = BATCH.min(count - out.len());
        out.extend(slots.take(batch).expect("memory"));
    }
}

/// Of the slabs of the first region: in which place they are.
fn places(slots: &mut Slots, region: usize) -> Vec<Place> {
    let per_slab = slots.class.slots();
    let arena = &*slots.arena;
    let slabs = arena.region(region).frontier() / per_slab;
    (0..slabs).map(|slab| Descriptors(arena).slab(SlabId::new(region, slab)).place).collect()
}

/// Wherever a page of the table ends.
#[test]
fn a_run_of_any_length_has_descriptors_for_its_slabs_and_for_the_guard_behind_it() {
    let mut slots = Slots::in_arena_of(64 << 30, IN_ORDER, 8);
    for run in 1..480 {
        let (class, ground, random, _) = slots.parts();
        let region = ground.arena.open_region(Some(class.id), random).expect("address space");
        *class = Class::new(class.id);
        class.open_run(ground, region, run).expect("memory");
        let places = |slots: &mut Slots, slab| Descriptors(&slots.arena).slab(SlabId::new(region, slab)).place;
        assert_eq!(places(&mut slots, run - 1), Place::Released);
        assert_eq!(places(&mut slots, run), Place::Guard);
    }
}

/// 300 slabs have more state bytes, free bits and descriptors than fit a page.
#[test]
fn tables_are_accessible_as_far_as_slabs_were_made_so_and_no_further() {
    for guard_pages in [true, false] {
        let mut slots = Slots::in_arena_of(32 << 30, Options { guard_pages, ..IN_ORDER }, 8);
        let per_slab = slots.class.slots() as usize;
        let mut out = Vec::new();
        for slabs in [1, 2, 8, 70, 300] {
            take_until(&mut slots, &mut out, slabs * per_slab);
            assert!(out.iter().all(|slot| slot.state().load(Ordering::Relaxed) == MARK));
            slots.assert_accounts(out.len());
            let mut tables = 0;
            slots.arena.for_each_table(|start, bytes| {
                let (first, end) = (page_floor(start), page_ceil(start + bytes));
                assert!((first..end).step_by(PAGE).all(is_accessible), "table {tables} of {slabs} slabs");
                // Descriptors, which grow downwards, have one more, which tells of the guard.
                let in_front = if guard_pages && tables == 0 { page_floor(start - size_of::<Slab>()) } else { first };
                assert!(!is_accessible(in_front - PAGE), "in front of table {tables} of {slabs} slabs");
                assert!(!is_accessible(end), "behind table {tables} of {slabs} slabs");
                tables += 1;
            });
            // The free bits of a slab more than one are elsewhere.
            assert_eq!(tables, if slabs > 1 { 2 } else { 1 });
        }
        slots.give_back(&out).expect("they are owned");
        slots.assert_accounts(0);
    }
}

/// The state of the header behind the last slot is the first on its page then.
#[test]
fn the_state_behind_the_last_slot_is_accessible_where_the_others_end_with_a_page() {
    let mut slots = Slots::in_arena_of(32 << 30, Options { guard_pages: false, ..IN_ORDER }, 240);
    let mut out = Vec::new();
    // Runs of 1, 1, 1, 1, 2, 3 and 4 slabs with 256 state bytes each.
    take_until(&mut slots, &mut out, 13 * 256);
    let region = slots.arena.own_region(out[0].chunk);
    let behind = region.state(SlotIndex(region.frontier())).as_ptr().addr();
    assert!(region.frontier() == 13 * 256 && behind.is_multiple_of(PAGE) && is_accessible(behind));
    slots.assert_accounts(out.len());
}

#[test]
fn runs_of_slabs_grow_by_half_of_what_is_there() {
    let mut slots = Slots::in_arena_of(32 << 30, IN_ORDER, 1000);
    let per_slab = slots.class.slots() as usize;
    let mut out = Vec::new();
    take_until(&mut slots, &mut out, 300 * per_slab);
    let number = slots.arena.number_of(slots.arena.own_region(out[0].chunk));
    let places = places(&mut slots, number);
    let mut runs = places.split(|place| *place == Place::Guard).map(<[Place]>::len);
    let mut before = 0;
    while before < 300 {
        let run = runs.next().expect("a run");
        assert_eq!(run, (before / 2).max(1), "behind {before} slabs");
        before += run;
    }
    assert_eq!(runs.next(), None);
}

#[test]
fn a_slab_more_is_open_for_every_sixteen_in_use() {
    for options in all_orders() {
        let mut slots = Slots::new(options, 1000);
        let per_slab = slots.class.slots() as usize;
        let mut out = Vec::new();
        for slabs in 1..160 {
            let before = slots.class.slabs_in_use as usize;
            let wanted = if options.randomize { (1 + before / 16).min(8) } else { 1 };
            take_until(&mut slots, &mut out, slabs * per_slab / 2);
            let now = slots.class.slabs_in_use as usize;
            let wanted_now = if options.randomize { (1 + now / 16).min(8) } else { 1 };
            // One may have been closed, because it was full.
            let open = slots.class.open_count;
            assert!(open + 1 >= wanted && open <= wanted_now, "{open} open, {before} and then {now} in use");
        }
    }
}

#[test]
fn a_full_region_is_followed_by_another() {
    for options in all_orders() {
        let mut slots = Slots::in_arena_of(512 << 20, options, 8);
        let per_slab = slots.class.slots() as usize;
        let mut out = Vec::new();
        take_until(&mut slots, &mut out, 40 * per_slab);
        slots.assert_accounts(out.len());
        let mut chunks: Vec<usize> = out.iter().map(|slot| slot.chunk).collect();
        chunks.sort_unstable();
        assert!(chunks.windows(2).all(|pair| pair[1] - pair[0] >= slots.stride()), "they overlap");
        assert!(slots.arena.regions().count() >= 3);
        for (_, region) in slots.arena.regions() {
            let first = region.slot_start(SlotIndex(0), slots.stride());
            let last = region.slot_start(SlotIndex(region.frontier()), slots.stride());
            assert!(is_accessible(first) && is_accessible(last + HEADER - 1));
            for outside in [first - PAGE, page_ceil(last + HEADER)] {
                assert!(!is_accessible(outside));
                assert!(slots.arena.region_of(outside).is_some_and(|other| core::ptr::eq(other, region)));
            }
        }
        slots.give_back(&out).expect("they are owned");
        slots.purge();
        slots.assert_accounts(0);
    }
}

/// An overflow of a run's last slot is to hit a header, and handing it out writes one.
#[test]
fn the_header_behind_the_last_slot_is_accessible_also_where_it_is_the_first_on_its_page() {
    let is_first_on_its_page = |seed: &u64| {
        let mut slots = Slots::new(Options::DEFAULT, 8);
        slots.random = Random::from_number(*seed);
        let first = slots.take(1).expect("memory")[0].chunk;
        let region = slots.arena.own_region(first);
        let behind = region.slot_start(SlotIndex(region.frontier()), slots.stride());
        assert!(is_accessible(behind) && is_accessible(behind + HEADER - 1), "{}", behind % PAGE);
        behind % PAGE == HEADER
    };
    // One place in 256 on a page is the first.
    assert!((0..4000).any(|seed| is_first_on_its_page(&seed)));
}

/// Two slabs should be open at so many in use, and there is no memory for another.
#[test]
fn near_a_limit_what_is_open_serves_until_all_of_it_is_out() {
    let slab = Slots::new(Options::DEFAULT, 1000).class.slab_bytes();
    let mut slots = Slots::within(Options::DEFAULT, 1000, 20 * slab);
    let per_slab = slots.class.slots() as usize;
    let mut out = Vec::new();
    while let Ok(taken) = slots.take(BATCH) {
        out.extend(taken);
    }
    assert_eq!(out.len(), 20 * per_slab);
    slots.assert_accounts(out.len());
    assert!(out.iter().all(|slot| slot.state().load(Ordering::Relaxed) != state::UNSEALED));
}
