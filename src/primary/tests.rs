//! Claims about the slots of a class, each on an arena of its own.

mod growth;
mod huge_pages;
mod order;
mod release;

use super::arena::Arena;
use super::class::{BATCH, Class, Ground, NotOwned, Preferred};
use super::region::{OwnedSlot, SlotIndex, state};
use crate::budget::Budget;
use crate::chunk::checksum::{self, Seal, Secrets};
use crate::chunk::header::Fields;
use crate::options::Options;
use crate::os::mapping::{self, OutOfMemory, PAGE, is_accessible, page_floor};
use crate::random::Random;
use crate::size_class::{ClassId, HEADER};
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;

const MARK: u8 = state::FIRST_MARK;

struct Slots {
    arena: Box<Arena>,
    budget: Budget,
    seal: Seal,
    options: Options,
    random: Random,
    class: Class,
    preferred: Preferred,
    epoch: u32,
}

impl Slots {
    fn new(options: Options, size: usize) -> Self {
        Self::within(options, size, usize::MAX)
    }

    fn within(options: Options, size: usize, limit: usize) -> Self {
        Self::of(8 << 30, options, size, limit)
    }

    /// In an arena of so many bytes of address space, a 512th of which is a region.
    fn in_arena_of(bytes: usize, options: Options, size: usize) -> Self {
        Self::of(bytes, options, size, usize::MAX)
    }

    fn of(arena_bytes: usize, options: Options, size: usize, limit: usize) -> Self {
        let mut random = Random::from_kernel().expect("entropy");
        let layout = std::alloc::Layout::new::<Arena>();
        // SAFETY: zeroes are a valid arena of nothing.
        let mut arena = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Arena>()) };
        arena.reserve(arena_bytes, options.randomize, &mut random).expect("address space");
        let seal = Seal { secrets: Secrets::draw(&mut random), has_instruction: false };
        let class = Class::new(ClassId::for_size(size).expect("a small size"));
        Self { arena, budget: Budget::new(limit), seal, options, random, class, preferred: Preferred::NONE, epoch: 1 }
    }

    /// The class, what it stands on, and the rest of what [`Class::take`] wants.
    fn parts(&mut self) -> (&mut Class, Ground<'_>, &mut Random, &mut Preferred) {
        let Self { arena, budget, seal, options, random, class, preferred, epoch } = self;
        (class, Ground { arena, budget, options, seal, epoch: *epoch }, random, preferred)
    }

    fn take(&mut self, count: usize) -> Result<Vec<OwnedSlot>, OutOfMemory> {
        let mut out = vec![OwnedSlot::NONE; count];
        let (class, ground, random, preferred) = self.parts();
        let taken = class.take(ground, MARK, random, preferred, &mut out)?;
        out.truncate(taken);
        Ok(out)
    }

    fn give_back(&mut self, slots: &[OwnedSlot]) -> Result<(), NotOwned> {
        let (class, ground, ..) = self.parts();
        class.give_back(ground, MARK, slots)
    }

    fn purge(&mut self) {
        let (class, ground, ..) = self.parts();
        class.purge(ground);
    }

    fn stride(&self) -> usize {
        self.class.id.stride()
    }

    /// Counters agree with each other and with how many slots are out.
    fn assert_accounts(&self, out: usize) {
        let census = self.class.census();
        assert_eq!(census.out, out);
        assert_eq!(self.class.slab_bytes(), self.class.slots() as usize * self.stride());
        assert_eq!(census.free + census.out, census.slabs * self.class.slots() as usize);
        assert_eq!(self.budget.used(), census.slabs * self.class.slab_bytes());
        assert!(census.empty_slabs <= census.slabs);
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.arena.unmap();
    }
}

/// Orders of hand-out: of `default`, of `strict`, none.
fn all_orders() -> [Options; 3] {
    [Options::DEFAULT, Options::STRICT, Options { randomize: false, ..Options::DEFAULT }]
}

/// Lengths with 4,096, 64 and 16 slots in a slab.
const SIZES: [usize; 6] = [8, 100, 1000, 3000, 5000, 100_000];

#[test]
fn a_taken_slot_is_nobody_elses_and_it_and_the_one_behind_have_headers() {
    for options in all_orders() {
        for size in SIZES {
            let mut slots = Slots::new(options, size);
            let mut out = BTreeMap::new();
            for _ in 0..40 {
                for slot in slots.take(7).expect("memory") {
                    assert_eq!(slot.state().load(Ordering::Relaxed), MARK);
                    let header = checksum::read(slot.chunk);
                    assert_eq!(header.fields(), Fields::FRESH);
                    assert_eq!(header.checksum(), slots.seal.secrets.free_seal(slot.chunk, Fields::FRESH.0));
                    let behind = slot.chunk + slots.stride();
                    let next = checksum::read(behind);
                    assert_eq!(next.checksum(), slots.seal.secrets.free_seal(behind, Fields::FRESH.0), "{size} bytes");
                    let region = slots.arena.own_region(slot.chunk);
                    let index = region.index_of(slot.state());
                    assert_ne!(region.state(SlotIndex(index.0 + 1)).load(Ordering::Relaxed), state::UNSEALED);
                    assert!(out.insert(slot.chunk, slot).is_none(), "taken twice");
                }
            }
            assert_eq!(out.len(), 280);
            slots.assert_accounts(280);
            for (one, other) in out.keys().zip(out.keys().skip(1)) {
                assert!(other - one >= slots.stride(), "they overlap");
            }
        }
    }
}

#[test]
fn accounts_stay_right_in_any_order_and_nothing_is_lost() {
    for options in all_orders() {
        for size in SIZES {
            let mut slots = Slots::new(options, size);
            let mut random = Random::from_number(5);
            let mut out: Vec<OwnedSlot> = Vec::new();
            for step in 0..300 {
                if random.below(100) < if step % 100 < 50 { 70 } else { 30 } {
                    let wanted = 1 + random.below(BATCH as u32) as usize;
                    let taken = slots.take(wanted).expect("memory");
                    assert_eq!(taken.len(), wanted);
                    assert!(taken.iter().all(|slot| slot.state().load(Ordering::Relaxed) == MARK));
                    out.extend(taken);
                } else {
                    let batch: Vec<_> = (0..random.below(64).min(out.len() as u32))
                        .map(|_| out.swap_remove(random.below(out.len() as u32) as usize))
                        .collect();
                    slots.give_back(&batch).expect("they are owned");
                    for slot in batch {
                        assert!(matches!(slot.state().load(Ordering::Relaxed), state::FREE | state::UNSEALED));
                    }
                }
                slots.epoch += u32::from(step % 10 == 0);
                if step % 37 == 0 {
                    let finished = slots.epoch;
                    let (class, ground, ..) = slots.parts();
                    class.decay(ground, finished);
                }
                slots.assert_accounts(out.len());
                let chunks: std::collections::BTreeSet<_> = out.iter().map(|slot| slot.chunk).collect();
                assert_eq!(chunks.len(), out.len(), "a slot is out twice");
            }
            slots.give_back(&out).expect("they are owned");
            slots.assert_accounts(0);
            slots.purge();
            assert_eq!((slots.class.census().slabs, slots.budget.used()), (0, 0));
        }
    }
}

/// Two racing threads gave it back, and each thought that it was first.
#[test]
fn a_slot_that_the_cache_does_not_own_is_not_taken_back() {
    for now in [state::LIVE, state::FREE, state::UNSEALED, MARK + 1, state::RECORDED] {
        let mut slots = Slots::new(Options::DEFAULT, 100);
        let out = slots.take(3).expect("memory");
        out[1].state().store(now, Ordering::Relaxed);
        assert_eq!(slots.give_back(&out), Err(NotOwned(out[1].chunk)), "state {now}");
        assert_eq!(out[1].state().load(Ordering::Relaxed), now);
    }
    // Chosen for the heap profile, and not handed out.
    let mut slots = Slots::new(Options::DEFAULT, 100);
    let out = slots.take(3).expect("memory");
    out[1].state().store(state::CHOSEN, Ordering::Relaxed);
    assert_eq!(slots.give_back(&out), Ok(()));
    assert_eq!(out[1].state().load(Ordering::Relaxed), state::FREE);
    slots.assert_accounts(0);
}

#[test]
fn between_runs_of_slabs_and_behind_the_last_lies_what_is_inaccessible() {
    for size in [1000, 5000] {
        for options in all_orders() {
            let mut slots = Slots::new(options, size);
            let per_slab = slots.class.slots() as usize;
            let mut chunks: Vec<usize> = Vec::new();
            for _ in 0..8 * per_slab / BATCH {
                chunks.extend(slots.take(BATCH).expect("memory").iter().map(|slot| slot.chunk));
            }
            let slab_bytes = slots.class.slab_bytes();
            let region = slots.arena.own_region(chunks[0]);
            let frontier = region.frontier();
            let stride = slots.stride();
            let start = region.slot_start(SlotIndex(0), stride);
            assert!(!is_accessible(start - PAGE), "in front of the first slab");
            assert!(!is_accessible(region.slot_start(SlotIndex(frontier), stride) + HEADER + PAGE - 1));
            let used: std::collections::BTreeSet<usize> =
                chunks.iter().map(|chunk| (chunk - start) / slab_bytes).collect();
            let last = frontier as usize / per_slab;
            // The middle of a slab, where its neighbours share no page.
            let guards = (0..last).filter(|slab| !is_accessible(start + slab * slab_bytes + slab_bytes / 2));
            let guards: Vec<usize> = guards.collect();
            assert!(guards.len() >= 2, "{size} bytes: {guards:?} of {last}");
            assert!(guards.iter().all(|slab| !used.contains(slab)));
        }
    }
}

#[test]
fn without_guard_pages_and_randomness_slots_follow_each_other() {
    let mut slots = Slots::new(Options { randomize: false, guard_pages: false, ..Options::DEFAULT }, 1000);
    let mut chunks: Vec<usize> = Vec::new();
    for _ in 0..8 {
        chunks.extend(slots.take(BATCH).expect("memory").iter().map(|slot| slot.chunk));
    }
    for pair in chunks.windows(2) {
        assert_eq!(pair[1] - pair[0], slots.stride());
    }
}

#[test]
fn the_next_run_can_not_be_foreseen_and_ascends() {
    let mut passed_over = 0;
    let orders: Vec<Vec<usize>> = (0..8)
        .map(|seed| {
            let mut slots = Slots::new(Options::DEFAULT, 100);
            slots.random = Random::from_number(seed);
            let chunks: Vec<usize> = slots.take(32).expect("memory").iter().map(|slot| slot.chunk).collect();
            let descents = chunks.windows(2).filter(|pair| pair[1] < pair[0]).count();
            assert!(descents <= 2, "a run and what it passed over: {chunks:x?}");
            passed_over += chunks.windows(2).filter(|pair| pair[1] > pair[0] + slots.stride()).count();
            chunks.iter().map(|chunk| chunk.wrapping_sub(chunks[0])).collect()
        })
        .collect();
    let distinct: std::collections::BTreeSet<_> = orders.iter().collect();
    assert!(distinct.len() >= 6, "{orders:?}");
    // An eighth of 8 times 32 would be 32, of which some are neighbours.
    assert!(passed_over >= 10, "{orders:?}");
}

/// No more than `run_slots` neighbours in a row, each run elsewhere.
#[test]
fn runs_are_as_short_as_was_asked_for() {
    const SLOTS: usize = 512;
    for profile in [Options::DEFAULT, Options::STRICT] {
        for run_slots in 1..=64 {
            let mut slots = Slots::new(Options { run_slots, ..profile }, 100);
            slots.random = Random::from_number(11);
            let chunks: Vec<usize> =
                (0..SLOTS / BATCH).flat_map(|_| slots.take(BATCH).expect("memory")).map(|slot| slot.chunk).collect();
            let follows = |pair: &[usize]| pair[1] > pair[0] && pair[1] - pair[0] <= 8 * slots.stride();
            let ends = chunks.windows(2).filter(|pair| !follows(pair)).count();
            // One after each run, but for those that the next happens to follow.
            assert!(ends >= SLOTS / usize::from(run_slots) * 3 / 4, "runs of {run_slots}: {ends} ends");
            // Without a bound, the next run begins where the last one ended.
            let near = |pair: &[usize]| pair[1].abs_diff(pair[0]) <= 64 * slots.stride();
            let elsewhere = chunks.windows(2).filter(|pair| !near(pair)).count();
            assert_eq!(elsewhere > 4, run_slots < 64, "runs of {run_slots}: {elsewhere} begin elsewhere");
        }
    }
}

/// What the next run of `strict` continues can't be foreseen, but it continues something: so a later walk meets a few ascending
/// lines, which prefetchers follow, and not one place after the other.
#[test]
fn short_runs_interleave_lanes_that_ascend() {
    let mut begun = Vec::new();
    for seed in 0..8 {
        let mut slots = Slots::new(Options::STRICT, 8);
        slots.random = Random::from_number(seed);
        let chunks: Vec<usize> = (0..8).flat_map(|_| slots.take(64).expect("memory")).map(|slot| slot.chunk).collect();
        // A run passes over some slots, the next one in its lane takes those first: both are in one word, or in two.
        let near = |one: usize, other: usize| one.abs_diff(other) <= 72 * slots.stride();
        let mut lanes: Vec<usize> = Vec::new();
        for &chunk in &chunks {
            match lanes.iter_mut().find(|end| near(**end, chunk)) {
                Some(end) => *end = chunk.max(*end),
                None => lanes.push(chunk),
            }
        }
        // 64 runs and more: each beginning anywhere would make about as many lanes.
        assert!((6..=16).contains(&lanes.len()), "{} lanes", lanes.len());
        begun.push(lanes.into_iter().map(|lane| lane.wrapping_sub(chunks[0]).cast_signed()).collect::<Vec<_>>());
    }
    let distinct: std::collections::BTreeSet<_> = begun.iter().collect();
    assert_eq!(distinct.len(), 8, "{begun:?}");
}

#[test]
fn what_was_purged_is_inaccessible_and_comes_back_as_new() {
    for size in [100, 1000, 5000] {
        let mut slots = Slots::new(Options::DEFAULT, size);
        let out: Vec<OwnedSlot> = (0..8).flat_map(|_| slots.take(BATCH).expect("memory")).collect();
        for slot in &out {
            // SAFETY: the slot is this test's.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(slot.chunk).write_bytes(0x77, size) };
        }
        slots.give_back(&out).expect("they are owned");
        slots.purge();
        slots.assert_accounts(0);
        assert_eq!(slots.class.census().slabs, 0);
        for slot in &out {
            assert_eq!(slot.state().load(Ordering::Relaxed), state::UNSEALED);
            assert_eq!(mapping::resident(page_floor(slot.chunk), PAGE), 0);
        }
        let mut again = 0;
        let known: std::collections::BTreeSet<_> = out.iter().map(|slot| slot.chunk).collect();
        for slot in (0..16).flat_map(|_| slots.take(BATCH).expect("memory")).collect::<Vec<_>>() {
            again += usize::from(known.contains(&slot.chunk));
            assert_eq!(checksum::read(slot.chunk).fields(), Fields::FRESH);
            // SAFETY: as above.
            let first = unsafe { *core::ptr::with_exposed_provenance::<u8>(slot.chunk) };
            assert_eq!(first, 0);
        }
        assert!(again > 0, "released slabs are used before new ones");
    }
}

/// A page on which every slot is free goes back though others of its slab are in use, and its slots are sealed anew.
#[test]
fn free_pages_of_slabs_in_partial_use_go_back_and_no_live_slot_is_touched() {
    for size in [100, 1000, 3000, 5000] {
        let mut slots = Slots::new(Options { randomize: false, ..Options::DEFAULT }, size);
        let count = slots.class.slots() as usize;
        let mut out: Vec<OwnedSlot> = Vec::new();
        while out.len() < 2 * count {
            out.extend(slots.take(BATCH.min(count)).expect("memory"));
        }
        for slot in &out {
            // SAFETY: the slots are this test's.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(slot.chunk).write_bytes(0x77, size) };
        }
        // One in so many stays, so that there are free pages between.
        let stays = (4 * PAGE / slots.stride()).max(4);
        let (live, free): (Vec<_>, Vec<_>) = out.into_iter().enumerate().partition(|(number, _)| number % stays == 0);
        let free: Vec<OwnedSlot> = free.into_iter().map(|(_, slot)| slot).collect();
        slots.give_back(&free).expect("they are owned");
        let resident = |slots: &Slots| {
            let region = slots.arena.own_region(free[0].chunk);
            let (start, stride) = (region.slot_start(SlotIndex(0), slots.stride()), slots.stride());
            mapping::resident(page_floor(start), 2 * count * stride / PAGE * PAGE)
        };
        let before = resident(&slots);
        slots.purge();
        assert!(resident(&slots) < before / 4 * 3, "{size} bytes: {before} before, {} after", resident(&slots));
        for (_, slot) in &live {
            assert_eq!(slot.state().load(Ordering::Relaxed), MARK);
            // SAFETY: as above.
            let contents = unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(slot.chunk), size) };
            assert!(contents.iter().all(|&byte: &u8| byte == 0x77), "{size} bytes");
            assert_eq!(checksum::read(slot.chunk).fields(), Fields::FRESH, "its header");
            let behind = slot.chunk + slots.stride();
            let expected = slots.seal.secrets.free_seal(behind, Fields::FRESH.0);
            assert_eq!(checksum::read(behind).checksum(), expected, "the header behind it, which is its canary");
        }
        slots.assert_accounts(live.len());
        // What is free now is either sealed and has a header, or unsealed.
        for slot in &free {
            match slot.state().load(Ordering::Relaxed) {
                state::UNSEALED => {}
                state::FREE | state::SEALED => {
                    assert_eq!(checksum::read(slot.chunk).fields(), Fields::FRESH, "{size} bytes");
                }
                other => panic!("state {other}"),
            }
        }
        let again: Vec<OwnedSlot> = (0..4).flat_map(|_| slots.take(16).expect("memory")).collect();
        for slot in again {
            let header = checksum::read(slot.chunk);
            assert_eq!(header.checksum(), slots.seal.secrets.free_seal(slot.chunk, Fields::FRESH.0));
        }
    }
}

#[test]
fn a_limit_is_not_exceeded_and_refusal_loses_nothing() {
    let slab = Slots::new(Options::DEFAULT, 1000).class.slab_bytes();
    let mut slots = Slots::within(Options::DEFAULT, 1000, 3 * slab + slab / 2);
    let mut out = Vec::new();
    while let Ok(taken) = slots.take(BATCH) {
        out.extend(taken);
        assert!(slots.budget.used() <= 3 * slab);
    }
    assert_eq!(out.len(), 3 * slots.class.slots() as usize);
    slots.assert_accounts(out.len());
    slots.give_back(&out[..5]).expect("they are owned");
    assert_eq!(slots.take(BATCH).expect("what was given back").len(), 5);
}

#[test]
fn epochs_release_what_nobody_touched_since_and_nothing_else() {
    let mut slots = Slots::new(Options::DEFAULT, 1000);
    let out: Vec<OwnedSlot> = (0..12).flat_map(|_| slots.take(BATCH).expect("memory")).collect();
    slots.epoch = 5;
    slots.give_back(&out).expect("they are owned");
    let decay = |slots: &mut Slots, finished| {
        let (class, ground, ..) = slots.parts();
        class.decay(ground, finished);
        class.census().empty_slabs
    };
    let before = slots.class.census().empty_slabs;
    assert!(before >= 5);
    assert_eq!(decay(&mut slots, 5), before, "touched in this epoch");
    assert_eq!(decay(&mut slots, 6), 0);
    slots.assert_accounts(0);
}

#[test]
fn regions_are_opened_once_each_and_found_by_address_and_number() {
    let mut random = Random::from_number(3);
    for randomize in [true, false] {
        let slots = Slots::new(Options { randomize, ..Options::DEFAULT }, 100);
        let count = 512;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..count {
            let class = ClassId::new(random.below(40) as usize);
            let number = slots.arena.open_region(class, &mut random).expect("a region is left");
            assert!(number < count && seen.insert(number), "opened twice");
            let region = slots.arena.region(number);
            assert_eq!((region.size_class(), slots.arena.number_of(region)), (class, number));
            let stride = class.expect("a class").stride();
            let (first, last) = (region.chunk(SlotIndex(0), stride), region.chunk(SlotIndex(region.slots()), stride));
            for address in [first - HEADER, first, last] {
                let found = slots.arena.region_of(address).expect("it lies in the arena");
                assert!(core::ptr::eq(found, region) && core::ptr::eq(slots.arena.own_region(address), region));
            }
            assert!(first.is_multiple_of(16) && region.slots() > 0);
            // Not more than a quarter of it is lost to randomness, and a page stays free on both sides.
            assert!(region.slots() as usize * stride >= slots.arena.region_bytes() / 2);
            let lies_in =
                |address: usize| slots.arena.region_of(address).is_some_and(|found| core::ptr::eq(found, region));
            assert!(lies_in(first - HEADER - PAGE) && lies_in(last + PAGE));
        }
        assert_eq!(slots.arena.open_region(ClassId::new(1), &mut random), Err(OutOfMemory));
        assert_eq!(slots.arena.regions().count(), count);
        let order: Vec<usize> = seen.into_iter().collect();
        assert!(order.into_iter().eq(0..count));
    }
}
