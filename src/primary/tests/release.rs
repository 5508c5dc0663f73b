//! What of a class's memory goes back to the system, and when.

use super::super::class::{BATCH, Descriptors};
use super::super::region::{OwnedSlot, SlotIndex, state};
use super::super::slab::{Place, SlabId, Slabs};
use super::{MARK, Slots, all_orders};
use crate::chunk::checksum;
use crate::chunk::header::Fields;
use crate::options::Options;
use crate::os::mapping::{self, PAGE, page_ceil, page_floor};
use crate::random::Random;
use core::sync::atomic::Ordering;

/// One slab after the other, each slot in its turn.
const IN_ORDER: Options = Options { randomize: false, ..Options::DEFAULT };

fn take_many(slots: &mut Slots, count: usize) -> Vec<OwnedSlot> {
    let mut out = Vec::new();
    while out.len() < count {
        out.extend(slots.take(BATCH.min(count - out.len())).expect("memory"));
    }
    out
}

fn decay(slots: &mut Slots, finished: u32) {
    let (class, ground, ..) = slots.parts();
    class.decay(ground, finished);
}

/// Gives 25 of 40 slabs back, one after the other; how many are empty then each time, and have their memory still.
fn empty_after_each(release_interval_ms: i32, limit: usize) -> Vec<usize> {
    let mut slots = Slots::within(Options { release_interval_ms, ..IN_ORDER }, 1000, limit);
    let per_slab = slots.class.slots() as usize;
    let out = take_many(&mut slots, 40 * per_slab);
    let slab_of = |slots: &Slots, slot: &OwnedSlot| {
        let region = slots.arena.own_region(slot.chunk);
        SlabId::new(slots.arena.number_of(region), region.index_of(slot.state()).0 / slots.class.slots())
    };
    let mut counts = Vec::new();
    for number in 1..=25 {
        slots.give_back(&out[(number - 1) * per_slab..number * per_slab]).expect("they are owned");
        slots.assert_accounts((40 - number) * per_slab);
        let count = slots.class.census().empty_slabs;
        for given in 0..number {
            let slab = slab_of(&slots, &out[given * per_slab]);
            let expected = if given + count >= number { Place::Empty } else { Place::Released };
            assert_eq!(Descriptors(&slots.arena).slab(slab).place, expected, "the oldest go first");
        }
        counts.push(count);
    }
    counts
}

#[test]
fn of_empty_slabs_one_and_a_tenth_of_those_in_use_are_kept_when_too_much_is_idle() {
    // Whatever is idle is too much where there is a limit.
    let limited = empty_after_each(1000, 1 << 30);
    let mut kept = 0;
    for (given, count) in (1..).zip(limited) {
        kept = (kept + 1).min(1 + (40 - given) / 10);
        assert_eq!(count, kept, "{given} given back");
    }
    let all: Vec<usize> = (1..=25).collect();
    assert_eq!(empty_after_each(1000, usize::MAX), all, "little is idle");
    assert_eq!(empty_after_each(-1, 1 << 30), all, "memory is to be kept");
    assert_eq!(empty_after_each(0, usize::MAX), [0; 25], "memory is to go at once");
}

/// Fills a slot up to the next one's header.
fn fill(slots: &Slots, slot: &OwnedSlot) {
    let capacity = slots.class.id.capacity();
    // SAFETY: the slot is the test's.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(slot.chunk).write_bytes(0x77, capacity) };
}

fn assert_untouched(slots: &Slots, slot: &OwnedSlot) {
    let secrets = &slots.seal.secrets;
    assert_eq!(slot.state().load(Ordering::Relaxed), MARK);
    for header in [slot.chunk, slot.chunk + slots.stride()] {
        assert_eq!(checksum::read(header).checksum(), secrets.free_seal(header, Fields::FRESH.0));
    }
    let memory = core::ptr::with_exposed_provenance::<u8>(slot.chunk);
    // SAFETY: as above.
    let contents = unsafe { core::slice::from_raw_parts(memory, slots.class.id.capacity()) };
    assert!(contents.iter().all(|&byte| byte == 0x77));
}

/// After a purge every page is gone on which no slot is out, and nothing that is out has lost a byte. A page that two slabs
/// share, and the one on which the first slot of a slab ends, may stay as long as one of them has slots out.
#[test]
fn a_purge_takes_all_pages_on_which_no_slot_is_out_and_no_others() {
    for (options, guard_pages) in all_orders().into_iter().flat_map(|options| [(options, true), (options, false)]) {
        for size in [100, 1000, 3000, 5000, 20_000] {
            let mut slots = Slots::new(Options { guard_pages, ..options }, size);
            let mut random = Random::from_number(size as u64);
            let per_slab = slots.class.slots() as usize;
            let mut out: Vec<OwnedSlot> = Vec::new();
            // Of a hundred so many stay each time; in between, all of what was released is taken again.
            for stay in [3, 30, 0, 1, 90, 5, 0] {
                let taken = take_many(&mut slots, 5 * per_slab + per_slab / 3);
                taken.iter().for_each(|slot| fill(&slots, slot));
                out.extend(taken);
                let (stays, goes) = out.into_iter().partition(|_| random.below(100) < stay);
                out = stays;
                let goes: Vec<OwnedSlot> = goes;
                slots.give_back(&goes).expect("they are owned");
                slots.purge();
                slots.assert_accounts(out.len());
                let region = slots.arena.own_region(goes[0].chunk);
                let stride = slots.stride();
                let (start, end) = [0, region.frontier()].map(|slot| region.slot_start(SlotIndex(slot), stride)).into();
                let mut needed = std::collections::BTreeSet::new();
                if !guard_pages {
                    // The next run will begin on this page.
                    needed.insert(page_floor(end));
                }
                for slot in &out {
                    let index = region.index_of(slot.state()).0;
                    let first = region.slot_start(SlotIndex(index), stride);
                    needed.extend((page_floor(first)..page_ceil(first + stride)).step_by(PAGE));
                    let slab = index / slots.class.slots() * slots.class.slots();
                    let edges = [slab, slab + 1, slab + slots.class.slots(), slab + slots.class.slots() + 1];
                    needed.extend(edges.map(|edge| page_floor(region.slot_start(SlotIndex(edge), stride))));
                }
                for page in (page_floor(start)..page_ceil(end)).step_by(PAGE) {
                    let gone = mapping::resident(page, PAGE) == 0;
                    assert!(gone || needed.contains(&page), "{size} bytes, {stay} % stay, {:#x}", page - start);
                }
                out.iter().for_each(|slot| assert_untouched(&slots, slot));
                // Of a slot that counts as never handed out, nobody looks at the pages that it has alone.
                for slot in goes.iter().filter(|slot| slot.state().load(Ordering::Relaxed) == state::UNSEALED) {
                    let (first, last) = (page_ceil(slot.chunk), page_floor(slot.chunk + slots.class.id.capacity()));
                    let alone = (first..last).step_by(PAGE);
                    assert!(alone.into_iter().all(|page| mapping::resident(page, PAGE) == 0), "{size} bytes");
                }
            }
        }
    }
}

/// How many of these slots, which are free, have lost their header with their page.
fn trimmed(free: &[OwnedSlot]) -> usize {
    free.iter().filter(|slot| slot.state().load(Ordering::Relaxed) == state::UNSEALED).count()
}

/// A slab that was full, of which slots came back in epoch 5, and one that slots are taken from, of which too.
fn partial_and_open() -> (Slots, Vec<OwnedSlot>, Vec<OwnedSlot>) {
    let mut slots = Slots::new(IN_ORDER, 1000);
    slots.epoch = 5;
    let per_slab = slots.class.slots() as usize;
    let mut partial = take_many(&mut slots, per_slab);
    let mut open = take_many(&mut slots, per_slab / 2);
    partial.truncate(per_slab - 1);
    open.truncate(per_slab / 2 - 1);
    slots.give_back(&partial).expect("they are owned");
    slots.give_back(&open).expect("they are owned");
    (slots, partial, open)
}

#[test]
fn free_pages_go_back_in_the_epoch_after_the_one_in_which_somebody_used_them() {
    let (mut slots, partial, open) = partial_and_open();
    for finished in [0, 4, 5] {
        decay(&mut slots, finished);
        assert_eq!((trimmed(&partial), trimmed(&open)), (0, 0), "epoch {finished}");
    }
    decay(&mut slots, 6);
    // All but those that share a page with the one that is out.
    assert!(trimmed(&partial) + 8 > partial.len() && trimmed(&open) + 8 > open.len());
}

#[test]
fn while_slots_are_taken_from_a_slab_others_go_back_and_it_does_not() {
    let (mut slots, partial, open) = partial_and_open();
    slots.epoch = 6;
    let taken = slots.take(1).expect("memory");
    assert_eq!(taken[0].chunk, open[0].chunk);
    decay(&mut slots, 6);
    assert!(trimmed(&partial) + 8 > partial.len());
    assert_eq!(trimmed(&open), 0);
    decay(&mut slots, 7);
    assert!(trimmed(&open) + 16 > open.len());
}

/// Per slab of the smallest class a page of state bytes, and an eighth of a page of free bits.
#[test]
fn tables_go_back_where_they_tell_of_released_slabs_only() {
    const LIVE: usize = 100;
    let mut slots = Slots::new(Options { guard_pages: false, ..IN_ORDER }, 8);
    let per_slab = slots.class.slots() as usize;
    assert_eq!(per_slab, PAGE);
    let mut out = take_many(&mut slots, 200 * per_slab);
    let live = out.remove(LIVE * per_slab + 7);
    slots.give_back(&out).expect("they are owned");
    slots.purge();
    let region = slots.arena.own_region(live.chunk);
    // A page of states begins in each slab. In the first one it is that of the descriptors, and both that tell of the live one stay.
    let states = |slab: usize| page_floor(region.state(SlotIndex((slab * per_slab) as u32)).as_ptr().addr());
    let gone: Vec<usize> = (0..200).filter(|&slab| mapping::resident(states(slab), PAGE) == 0).collect();
    assert_eq!(gone, (1..200).filter(|&slab| slab != LIVE && slab != LIVE + 1).collect::<Vec<_>>());
    let bits = |page: usize| mapping::resident(region.tables().free_bits + page * PAGE, PAGE);
    // Eight slabs a page, without the first; the last page tells of slabs behind the 200, too.
    let of_live = (LIVE - 1) / 8;
    assert!((0..of_live).all(|page| bits(page) == 0) && (of_live + 1..24).all(|page| bits(page) == 0));
    assert_eq!(live.state().load(Ordering::Relaxed), MARK);
    // The others of its slab are all still known to be free, and come first.
    let slab = region.chunk(SlotIndex((LIVE * per_slab) as u32), slots.stride());
    let again = take_many(&mut slots, per_slab - 1);
    assert!(again.iter().all(|slot| (slab..slab + slots.class.slab_bytes()).contains(&slot.chunk)));
    // And what was released comes back as new.
    let others = take_many(&mut slots, 199 * per_slab);
    slots.assert_accounts(200 * per_slab);
    assert!(others.iter().all(|slot| slot.state().load(Ordering::Relaxed) == MARK));
}

/// Slabs that slots are taken from are among them, whichever of those still has a slot out.
#[test]
fn a_purge_gives_every_slab_back_that_has_no_slot_out() {
    let mut tried = 0;
    for which in 0..3 {
        let mut slots = Slots::new(Options::DEFAULT, 1000);
        slots.random = Random::from_number(11);
        let per_slab = slots.class.slots();
        let mut out = take_many(&mut slots, 60 * per_slab as usize);
        let open = slots.class.open[which].slab;
        let is_there = |slot: &OwnedSlot| {
            let region = slots.arena.own_region(slot.chunk);
            SlabId::new(slots.arena.number_of(region), region.index_of(slot.state()).0 / per_slab) == open
        };
        let Some(stays) = out.iter().position(is_there) else { continue };
        out.swap_remove(stays);
        assert!(slots.class.open_count >= 3);
        slots.give_back(&out).expect("they are owned");
        slots.purge();
        slots.assert_accounts(1);
        assert_eq!(slots.class.census().slabs, 1);
        tried += 1;
    }
    assert!(tried >= 2, "slots are taken from several slabs");
}
