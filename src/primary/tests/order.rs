//! In what order a class hands its slots out.

use super::super::class::{BATCH, Preferred};
use super::super::region::{OwnedSlot, SlotIndex, state};
use super::{MARK, Slots, all_orders};
use crate::options::Options;
use crate::random::Random;
use std::collections::BTreeSet;
use std::mem::swap;

/// A class with so many slabs in use that several are open, with randomness that is the same in every run.
fn with_several_open(options: Options, size: usize) -> Slots {
    let mut slots = Slots::new(options, size);
    slots.random = Random::from_number(11);
    let count = 60 * slots.class.slots() as usize;
    let mut taken = 0;
    while taken < count {
        taken += slots.take(BATCH).expect("memory").len();
    }
    assert!(slots.class.open_count >= 3);
    slots
}

/// In which slabs the next `count` single slots lie.
fn slabs_of_next(slots: &mut Slots, count: usize) -> Vec<usize> {
    let slab_bytes = slots.class.slab_bytes();
    let chunks: Vec<OwnedSlot> = (0..count).flat_map(|_| slots.take(1).expect("memory")).collect();
    let region = slots.arena.own_region(chunks[0].chunk);
    let first = region.chunk(SlotIndex(0), slots.stride());
    chunks.iter().map(|slot| (slot.chunk - first) / slab_bytes).collect()
}

/// How often the slab is another one than before.
fn changes(slabs: &[usize]) -> usize {
    slabs.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn a_cache_stays_with_a_slab_for_several_batches_and_then_goes_to_any_other() {
    for size in [100, 1016] {
        let mut slots = with_several_open(Options::DEFAULT, size);
        let slabs = slabs_of_next(&mut slots, 400);
        // One time in eight it draws again.
        assert!((12..100).contains(&changes(&slabs)), "{size} bytes: {slabs:?}");
    }
}

#[test]
fn where_runs_are_short_each_one_is_in_any_open_slab() {
    for (options, size) in [(Options::STRICT, 100), (Options::DEFAULT, 1017), (Options::DEFAULT, 2500)] {
        let mut slots = with_several_open(options, size);
        let slabs = slabs_of_next(&mut slots, 400);
        assert!(changes(&slabs) > 200, "{size} bytes: {slabs:?}");
    }
}

/// Whose state bytes share a line, as numbers of the words of free bits that these slots belong to.
fn words_of(slots: &Slots, taken: &[OwnedSlot]) -> BTreeSet<usize> {
    let first = slots.arena.own_region(taken[0].chunk).chunk(SlotIndex(0), slots.stride());
    taken.iter().map(|slot| (slot.chunk - first) / slots.stride() / 64).collect()
}

/// Otherwise each of two threads writes to the other's cache lines for as long as they have these slots.
#[test]
fn two_caches_that_take_small_batches_in_turn_have_no_word_in_common() {
    for size in [16, 100, 200] {
        for number in 0..20 {
            let mut slots = Slots::new(Options::DEFAULT, size);
            slots.random = Random::from_number(number);
            let mut preferred = [Preferred::NONE; 2];
            let mut words = [BTreeSet::new(), BTreeSet::new()];
            // Together less than half of a slab.
            for _ in 0..slots.class.slots() / 64 {
                for (preferred, words) in preferred.iter_mut().zip(&mut words) {
                    swap(&mut slots.preferred, preferred);
                    let taken = slots.take(16).expect("memory");
                    swap(&mut slots.preferred, preferred);
                    words.append(&mut words_of(&slots, &taken));
                }
            }
            assert!(words[0].is_disjoint(&words[1]), "{size} bytes: {words:?}");
            let used = words[0].len() + words[1].len();
            assert!(
                used <= slots.class.slots() as usize / 128 + 2,
                "no word is begun before the last is full: {words:?}"
            );
        }
    }
}

/// Slabs that each of `caches` caches takes from, which take eight slots each in turn.
fn slabs_by_cache(slots: &mut Slots, caches: u8) -> Vec<BTreeSet<usize>> {
    let mut slabs = vec![BTreeSet::new(); caches.into()];
    for _ in 0..3 * slots.class.slots() / 8 {
        for (cache, slabs) in slabs.iter_mut().enumerate() {
            let mut out = [OwnedSlot::NONE; 8];
            let slab_bytes = slots.class.slab_bytes();
            let (class, ground, random, preferred) = slots.parts();
            let taken =
                class.take(ground, state::FIRST_MARK + cache as u8, random, preferred, &mut out).expect("memory");
            let first = ground.arena.own_region(out[0].chunk).chunk(SlotIndex(0), class.id.stride());
            slabs.extend(out[..taken].iter().map(|slot| (slot.chunk - first) / slab_bytes));
        }
    }
    slabs
}

#[test]
fn where_runs_are_short_caches_take_from_different_slabs() {
    for size in [16, 100, 500] {
        let slabs = slabs_by_cache(&mut Slots::new(Options::STRICT, size), 4);
        for (number, slabs_of_one) in slabs.iter().enumerate() {
            assert!(slabs_of_one.len() >= 3, "{size} bytes");
            assert!(slabs[..number].iter().all(|others| others.is_disjoint(slabs_of_one)), "{size} bytes: {slabs:?}");
        }
    }
}

/// Otherwise a thousand threads would open slabs for each class that they use.
#[test]
fn many_caches_share_a_few_slabs() {
    let mut slots = Slots::new(Options::STRICT, 100);
    for cache in 0..100 {
        let mut out = [OwnedSlot::NONE; 1];
        let (class, ground, random, preferred) = slots.parts();
        class.take(ground, state::FIRST_MARK + cache, random, preferred, &mut out).expect("memory");
    }
    assert_eq!(slots.class.open_count, 4);
}

/// Otherwise all of them would write to the cache lines of one slab.
#[test]
fn caches_that_have_no_slab_of_their_own_take_from_any() {
    let mut slots = Slots::new(Options::STRICT, 100);
    slots.random = Random::from_number(11);
    let slab_bytes = slots.class.slab_bytes();
    let mut taken = vec![0; 4];
    // Ten of twelve caches, in turn, have none: less than half of what four slabs have.
    for turn in 0..96 {
        let mut out = [OwnedSlot::NONE; 8];
        let (class, ground, random, preferred) = slots.parts();
        let count = class.take(ground, state::FIRST_MARK + turn % 12, random, preferred, &mut out).expect("memory");
        let first = ground.arena.own_region(out[0].chunk).chunk(SlotIndex(0), class.id.stride());
        for slot in &out[..count] {
            // Between two slabs lies a guard of the same length.
            taken[(slot.chunk - first) / slab_bytes / 2] += 1;
        }
    }
    assert_eq!(taken.iter().sum::<usize>(), 96 * 8);
    assert!(taken.iter().all(|&count| count > 100), "{taken:?}");
}

/// Where runs begin in a slab with this word, as slots of it.
fn beginnings(slots: &mut Slots, word: u32, mark: u8) -> BTreeSet<u32> {
    let (class, ground, random, _) = slots.parts();
    (0..500)
        .map(|_| {
            let (word, offset) = class.beginning(ground.options, word, mark, random);
            assert!(word * 64 < class.slots() && offset < 64);
            word * 64 + offset
        })
        .collect()
}

/// So many slots apart, from the first one of this word on.
fn lanes(slots: &Slots, word: u32, count: u32) -> BTreeSet<u32> {
    (0..count).map(|lane| (word * 64 + lane * (slots.class.slots() / count)) % slots.class.slots()).collect()
}

/// What a prefetcher can follow is shared among the slabs that a cache takes from.
#[test]
fn short_runs_of_a_cache_begin_in_sixteen_lanes_of_all_its_slabs_together() {
    for size in [16, 100, 250, 1016] {
        let mut slots = with_several_open(Options::STRICT, size);
        let words = slots.class.slots().div_ceil(64);
        for word in [0, words / 3, words - 1] {
            let own = slots.class.open_count as u32;
            assert_eq!(beginnings(&mut slots, word, MARK), lanes(&slots, word, 16 / own), "{size} bytes");
            // Another cache has none here.
            assert_eq!(beginnings(&mut slots, word, MARK + 1), lanes(&slots, word, 16), "{size} bytes");
        }
    }
}

#[test]
fn ordinary_runs_begin_at_the_word_of_their_slab() {
    let in_order = Options { randomize: false, ..Options::STRICT };
    for (options, size) in [(Options::DEFAULT, 100), (Options::DEFAULT, 1016), (in_order, 100), (in_order, 1016)] {
        let mut slots = Slots::new(options, size);
        for word in 0..slots.class.slots().div_ceil(64) {
            assert_eq!(beginnings(&mut slots, word, MARK), [word * 64].into(), "{size} bytes");
        }
    }
}

/// The first slot of a slab that is taken is near the beginning of a lane.
#[test]
fn a_short_run_begins_where_its_lane_does() {
    let mut taken = BTreeSet::new();
    for number in 0..300 {
        let mut slots = Slots::new(Options::STRICT, 1016);
        slots.random = Random::from_number(number);
        let first = slots.take(1).expect("memory")[0];
        let index = slots.arena.own_region(first.chunk).index_of(first.state()).0;
        taken.insert(index);
    }
    assert_eq!(taken.iter().map(|index| index / 4).collect::<BTreeSet<_>>().len(), 16, "{taken:?}");
}

/// How often a slot follows one in front of it at most eight slots away, among `count` that are taken together.
fn ascents(slots: &mut Slots, count: usize) -> usize {
    let chunks: Vec<usize> = slots.take(count).expect("memory").iter().map(|slot| slot.chunk).collect();
    let near = 1..=8 * slots.stride();
    chunks.windows(2).filter(|pair| near.contains(&pair[1].wrapping_sub(pair[0]))).count()
}

#[test]
fn slots_of_at_most_1024_bytes_are_taken_in_lines_and_longer_ones_one_by_one() {
    for (size, in_lines) in [(100, true), (1016, true), (1017, false), (2500, false), (5000, false)] {
        let mut slots = Slots::new(Options::DEFAULT, size);
        slots.random = Random::from_number(11);
        let ascents: usize = (0..4).map(|_| ascents(&mut slots, 16)).sum();
        assert!(if in_lines { ascents > 45 } else { ascents < 45 }, "{size} bytes: {ascents} of 60");
    }
}

/// Short runs: a quarter of the slots that a run comes by is passed over.
#[test]
fn short_runs_pass_a_quarter_over() {
    for size in [100, 1016] {
        let mut slots = Slots::new(Options::STRICT, size);
        slots.random = Random::from_number(11);
        let (mut runs, mut passed_over) = (0, 0);
        for _ in 0..400 {
            let taken = slots.take(8).expect("memory");
            let chunks: Vec<usize> = taken.iter().map(|slot| slot.chunk).collect();
            // Else it came to the end of a word, and went on elsewhere.
            if chunks.is_sorted() && chunks[7] - chunks[0] < 64 * slots.stride() {
                runs += 1;
                passed_over += (chunks[7] - chunks[0]) / slots.stride() - 7;
            }
            slots.give_back(&taken).expect("they are owned");
        }
        // For seven that follow the first it is a third of seven: 2.3.
        assert!(runs > 200, "{size} bytes: {runs}");
        assert!((runs * 3 / 2..runs * 7 / 2).contains(&passed_over), "{size} bytes: {passed_over} in {runs} runs");
    }
}

#[test]
fn long_runs_pass_an_eighth_over_and_take_it_at_the_end() {
    let mut slots = Slots::new(Options::DEFAULT, 8);
    slots.random = Random::from_number(11);
    let mut passed_over = 0;
    for _ in 0..200 {
        let chunks: Vec<usize> = slots.take(BATCH).expect("memory").iter().map(|slot| slot.chunk).collect();
        let first = chunks.windows(2).position(|pair| pair[1] < pair[0]).map_or(BATCH, |last| last + 1);
        passed_over += BATCH - first;
        assert!(chunks[first..].is_sorted());
    }
    assert!((1400..1800).contains(&passed_over), "{passed_over} of 12,800");
}

/// Also in a slab that shares its word of free bits with another.
#[test]
fn of_long_slots_any_may_be_the_next() {
    let mut slots = Slots::new(Options { guard_pages: false, ..Options::DEFAULT }, 2500);
    slots.random = Random::from_number(11);
    let per_slab = slots.class.slots() as usize;
    assert_eq!(per_slab, 32);
    for slab in 0..3 {
        let mut taken = vec![0; per_slab];
        for _ in 0..100 * per_slab {
            let next = slots.take(1).expect("memory");
            let region = slots.arena.own_region(next[0].chunk);
            let index = region.index_of(next[0].state()).0 as usize;
            assert_eq!(index / per_slab, slab);
            taken[index % per_slab] += 1;
            slots.give_back(&next).expect("it is owned");
        }
        // The first is passed over one time in four, and then the choice falls on one behind it.
        assert!(taken.iter().all(|count| (40..200).contains(count)), "{taken:?}");
        assert_eq!(slots.take(per_slab).expect("memory").len(), per_slab);
    }
}

/// Each word of 64 slots goes to a cache as a whole, and the next one follows it.
#[test]
fn lines_go_on_from_batch_to_batch() {
    let mut slots = Slots::new(Options::DEFAULT, 8);
    slots.random = Random::from_number(11);
    let words: Vec<usize> = (0..40)
        .map(|_| {
            let batch = slots.take(BATCH).expect("memory");
            let lowest = batch.iter().map(|slot| slot.chunk).min().expect("not empty");
            let highest = batch.iter().map(|slot| slot.chunk).max().expect("not empty");
            assert_eq!(highest - lowest, 63 * slots.stride(), "one word");
            lowest / (64 * slots.stride())
        })
        .collect();
    let follows = words.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
    // Once the end of the slab may be reached.
    assert!(follows >= 37, "{words:?}");
}

#[test]
fn without_randomness_the_first_free_slots_are_taken() {
    let [.., in_order] = all_orders();
    for size in [8, 100, 1000, 5000] {
        let mut slots = Slots::new(in_order, size);
        let out: Vec<OwnedSlot> = slots.take(15).expect("memory");
        assert!(out.windows(2).all(|pair| pair[1].chunk - pair[0].chunk == slots.stride()));
        slots.give_back(&[out[9], out[2], out[5]]).expect("they are owned");
        let again: Vec<usize> = slots.take(3).expect("memory").iter().map(|slot| slot.chunk).collect();
        assert_eq!(again, [out[2].chunk, out[5].chunk, out[9].chunk]);
    }
}

/// Slots of a page and more: one that was in use has its page already.
#[test]
fn of_long_slots_those_that_were_in_use_come_first() {
    for options in [Options::DEFAULT, Options::STRICT] {
        for size in [5000, 100_000] {
            let mut slots = Slots::new(options, size);
            let out = slots.take(12).expect("memory");
            slots.give_back(&out[..4]).expect("they are owned");
            let mut again: Vec<usize> = slots.take(4).expect("memory").iter().map(|slot| slot.chunk).collect();
            again.sort_unstable();
            let mut freed: Vec<usize> = out[..4].iter().map(|slot| slot.chunk).collect();
            freed.sort_unstable();
            assert_eq!(again, freed, "{size} bytes");
        }
    }
}

/// SECURITY.md's "bits per beginning" with one slab open: the logarithm of the number of places, all of which are as likely.
#[test]
fn where_the_first_run_of_a_slab_begins_has_the_bits_that_are_stated() {
    const SAMPLES: usize = 100;
    for (options, size, bits) in [
        (Options::DEFAULT, 8, 6),
        (Options::DEFAULT, 56, 4),
        (Options::STRICT, 8, 6),
        (Options::STRICT, 56, 4),
        (Options::DEFAULT, 2000, 5),
        (Options::STRICT, 2000, 5),
    ] {
        let places = 1 << bits;
        let mut met = vec![0; places];
        for seed in 0..places * SAMPLES {
            let mut slots = Slots::new(options, size);
            slots.random = Random::from_number(seed as u64);
            let chunk = slots.take(1).expect("memory")[0].chunk;
            let SlotIndex(index) = slots.arena.own_region(chunk).own_slot(chunk).index;
            // Beyond 1,024 bytes any slot of the slab; up to that any word of 64 slots, and the run passes some over.
            let place = index % slots.class.slots() / if size > 1024 { 1 } else { 64 };
            met[place as usize] += 1;
        }
        // Six standard deviations.
        let expected = SAMPLES - 60..SAMPLES + 60;
        assert!(met.iter().all(|count| expected.contains(count)), "{size} bytes: {met:?}");
    }
}
