//! Kept mappings of freed chunks of 256 KiB to 32 MiB, for hot loops.
//!
//! A fresh mapping costs a page fault for every 4 KiB touched, or, on huge pages, the kernel's zeroing through the caches:
//! 238 µs a cycle for chunks around 640 KiB, against 9 for a kept one that is zeroed when it is handed out again, and 1,200 µs
//! for chunks around 10 MiB, against 460. Most lie at an address that the program never knew, because their pages
//! were moved when they were freed; where [`super::ration`] says so they lie where they were.

use super::table::Entry;
use crate::os::process;

const PLACES: usize = 32;
/// What may be kept in all, as a share of the live large chunks; a hot loop can bring it to twice that. What is kept beyond that is
/// seldom asked for, and makes a program that frees all its tables at once half as large again.
const SHARE: usize = 4;
/// Bytes that this share is at least, and at most.
const LEAST: usize = 1 << 20;
const MOST: usize = 32 << 20;
/// Milliseconds within which a mapping that had to go is missed by a request that might have had it.
const MISSED: u32 = 100;
/// Requests that must have come within `MISSED` of a free before chunks of more than [`ALWAYS`] bytes are kept: what is kept of
/// those is a good part of a heap.
const HOT: u32 = 8;
/// The largest mapping that is kept in any case. A program of a dozen MiB that reads its input into one buffer keeps no sixth of its
/// memory for another one.
pub(super) const ALWAYS: usize = (1 << 20) + (64 << 10);
/// The largest mapping that is made longer or shorter.
pub(super) const ORDINARY: usize = (2 << 20) + (64 << 10);
/// The largest mapping that is kept.
const LARGEST: usize = 32 << 20;

/// So many requests pass over a mapping before it counts as one that nobody wants.
const IDLE: u32 = 8;

#[derive(Clone, Copy)]
struct Kept {
    /// Address of the chunk; zero when the place is empty.
    chunk: usize,
    data_bytes: usize,
    since: u32,
    /// How many requests there had been when it was put in, truncated.
    request: u32,
}

/// Freed chunks whose mapping is still accessible, oldest first. Zeroes are a valid empty cache.
pub(crate) struct MappingCache {
    kept: [Kept; PLACES],
    count: usize,
    bytes: usize,
    /// Bytes that may be kept beyond the share.
    extra: usize,
    /// When a chunk of more than [`ALWAYS`] bytes was last not kept, in milliseconds, truncated, and how many requests came soon
    /// after such a time.
    refused_at: u32,
    hot: u32,
    /// The share when a mapping was last put in.
    share: usize,
    /// When a mapping last had to make room, in milliseconds, truncated.
    evicted_at: u32,
    /// Requests until now, truncated.
    requests: u32,
}

impl MappingCache {
    /// Whether a mapping of this size is to be kept, now that it is freed.
    pub(crate) fn takes(&mut self, data_bytes: usize) -> bool {
        if data_bytes <= ALWAYS {
            return true;
        }
        if self.hot < HOT {
            self.refused_at = process::milliseconds() as u32;
        }
        data_bytes <= LARGEST && self.hot >= HOT
    }

    /// As after a loop over long chunks.
    #[cfg(test)]
    pub(super) fn make_hot(&mut self) {
        self.hot = HOT;
    }

    /// As beside so many bytes that a share of them would be this.
    #[cfg(test)]
    pub(super) fn set_share(&mut self, share: usize) {
        self.share = share;
    }

    /// Whether nothing is kept.
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that are kept.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a mapping beside `live` bytes of large chunks; returns the chunk that had to leave its place. Others may have to go as
    /// well: [`Self::take_surplus`].
    pub(crate) fn put(&mut self, entry: &Entry, live: usize) -> Option<usize> {
        self.share = (live / SHARE).clamp(LEAST, MOST);
        let evicted = if self.count == PLACES { self.evict() } else { None };
        if let Some(place) = self.kept.get_mut(self.count) {
            let since = process::milliseconds() as u32;
            let request = self.requests;
            *place = Kept { chunk: entry.chunk, data_bytes: entry.data_bytes, since, request };
            self.count += 1;
            self.bytes += entry.data_bytes;
        }
        evicted
    }

    /// The oldest mapping, while more is kept than may be. The last one stays.
    pub(crate) fn take_surplus(&mut self) -> Option<usize> {
        let limit = self.share + self.extra.min(self.share);
        if self.count > 1 && self.bytes > limit { self.evict() } else { None }
    }

    fn evict(&mut self) -> Option<usize> {
        self.evicted_at = process::milliseconds() as u32;
        self.take_any()
    }

    fn remove(&mut self, place: usize) -> Option<usize> {
        let kept = *self.kept.get(..self.count)?.get(place)?;
        self.kept.copy_within(place + 1..self.count, place);
        self.count -= 1;
        self.bytes -= kept.data_bytes;
        Some(kept.chunk)
    }

    /// The best fitting mapping of at least `needed` bytes that is at most a quarter too large. Where there is none, and one had
    /// to go a moment ago, more may be kept from now on.
    pub(crate) fn take(&mut self, needed: usize) -> Option<usize> {
        self.requests = self.requests.wrapping_add(1);
        let fitting = self.kept.iter().take(self.count).enumerate();
        let best = fitting
            .filter(|(_, kept)| kept.data_bytes >= needed && kept.data_bytes - needed <= needed / 4)
            .min_by_key(|(_, kept)| kept.data_bytes);
        if let Some((place, _)) = best {
            return self.remove(place);
        }
        if needed > LARGEST {
            return None;
        }
        let now = process::milliseconds() as u32;
        if needed > ALWAYS && self.refused_at != 0 && now.wrapping_sub(self.refused_at) < MISSED {
            self.hot = self.hot.saturating_add(1);
        }
        if self.evicted_at != 0 && now.wrapping_sub(self.evicted_at) < MISSED {
            self.extra = (self.extra + needed).min(self.share);
        }
        None
    }

    /// The mapping, too short or too long, from which one of `needed` bytes is made with the fewest page faults, those of later requests
    /// included; none of or for more than [`ORDINARY`] bytes, where huge pages come into it.
    pub(crate) fn take_nearest(&mut self, needed: usize) -> Option<usize> {
        if needed > ORDINARY {
            return None;
        }
        let kept = self.kept.iter().take(self.count).enumerate();
        let (place, nearest) = kept
            .filter(|(_, kept)| kept.data_bytes <= ORDINARY)
            .min_by_key(|(_, kept)| kept.data_bytes.abs_diff(needed))?;
        if nearest.data_bytes.abs_diff(needed) <= needed / 4 {
            return self.remove(place);
        }
        // Until the share is used up, better ones are collected.
        if self.bytes < self.share {
            return None;
        }
        // Where sizes come in turn, each would be made from the one that is wanted next, while the rest of the share is held by one that
        // is wanted no more: that gives way first.
        self.remove(if self.oldest_is_idle() { 0 } else { place })
    }

    /// Whether the oldest mapping may be reshaped and was passed over by so many requests that the next one is hardly for it.
    fn oldest_is_idle(&self) -> bool {
        let Some(oldest) = self.kept.first() else { return false };
        oldest.data_bytes <= ORDINARY && self.requests.wrapping_sub(oldest.request) >= IDLE
    }

    /// The oldest mapping, if nobody wanted it for so long.
    pub(crate) fn take_older_than(&mut self, milliseconds: u32) -> Option<usize> {
        let oldest = self.kept.first()?;
        let age = (process::milliseconds() as u32).wrapping_sub(oldest.since);
        if self.count > 0 && age >= milliseconds {
            // The loop is over.
            self.extra = 0;
            self.hot = 0;
            return self.remove(0);
        }
        None
    }

    /// The oldest mapping.
    pub(crate) fn take_any(&mut self) -> Option<usize> {
        self.remove(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{ALWAYS, HOT, IDLE, LARGEST, LEAST, MISSED, MOST, MappingCache, ORDINARY, PLACES, SHARE};
    use crate::chunk::header::Origin;
    use crate::os::process;
    use crate::secondary::table::Entry;

    const KIB: usize = 1 << 10;

    fn cache() -> MappingCache {
        // SAFETY: zeroes are a valid empty cache.
        unsafe { core::mem::zeroed() }
    }

    fn entry(chunk: usize, data_bytes: usize) -> Entry {
        let (origin, align_log2) = (Origin::Malloc, 4);
        let (map_start, map_bytes, data_start, size) = (0, 0, 0, data_bytes);
        let (live, unknown) = (false, false);
        Entry { chunk, size, map_start, map_bytes, data_start, data_bytes, origin, align_log2, live, unknown }
    }

    #[test]
    fn the_best_fitting_mapping_is_taken_and_none_that_is_a_quarter_too_large() {
        let mut cache = cache();
        for (chunk, kib) in [(1, 320), (2, 300), (3, 310), (4, 500)] {
            assert_eq!(cache.put(&entry(chunk, kib * KIB), 0), None);
            assert!(!cache.is_empty());
        }
        assert_eq!(cache.take(260 * KIB), Some(2));
        assert_eq!(cache.take(260 * KIB), Some(3));
        assert_eq!(cache.take(320 * KIB), Some(1));
        assert_eq!(cache.take(500 * KIB + 1), None, "too short");
        assert_eq!(cache.take(400 * KIB - 1), None, "more than a quarter too long");
        assert_eq!(cache.take(400 * KIB), Some(4));
        assert!(cache.is_empty());
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn the_oldest_mapping_leaves_when_all_places_are_taken() {
        let mut cache = cache();
        for chunk in 1..=PLACES {
            assert_eq!(cache.put(&entry(chunk, 4 * KIB), 0), None);
        }
        assert_eq!(cache.put(&entry(99, 8 * KIB), 0), Some(1));
        assert_eq!(cache.bytes(), (PLACES - 1) * 4 * KIB + 8 * KIB);
        let left: Vec<usize> = core::iter::from_fn(|| cache.take_any()).collect();
        assert!(left.into_iter().eq((2..=PLACES).chain([99])));
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn what_is_kept_comes_back_to_a_share_of_the_live_chunks_oldest_first() {
        for (live, share) in [(0, LEAST), (SHARE * 5 * LEAST, 5 * LEAST), (usize::MAX, MOST)] {
            let mut cache = cache();
            let quarter = share / 4;
            for chunk in 1..=4 {
                assert_eq!(cache.put(&entry(chunk, quarter), live), None);
                assert_eq!(cache.take_surplus(), None, "a share of {share}");
            }
            assert_eq!(cache.put(&entry(5, quarter + 1), live), None);
            assert_eq!([(); 3].map(|()| cache.take_surplus()), [Some(1), Some(2), None], "a share of {share}");
            assert_eq!(cache.put(&entry(6, 2 * quarter), live), None);
            assert_eq!([(); 3].map(|()| cache.take_surplus()), [Some(3), Some(4), None], "a share of {share}");
        }
    }

    #[test]
    fn the_last_mapping_stays_however_long_it_is() {
        let mut cache = cache();
        assert_eq!(cache.put(&entry(1, LEAST), 0), None);
        assert_eq!(cache.put(&entry(2, 2 * LEAST), 0), None);
        assert_eq!([cache.take_surplus(), cache.take_surplus()], [Some(1), None]);
    }

    #[test]
    fn a_loop_that_misses_what_had_to_go_brings_what_is_kept_to_twice_the_share() {
        let kept = || {
            let mut cache = cache();
            cache.put(&entry(1, LEAST), 0);
            cache.put(&entry(2, LEAST), 0);
            assert_eq!(cache.take(3 * LEAST), None, "nothing had to go yet");
            cache.put(&entry(3, 1), 0);
            assert_eq!([(); 3].map(|()| cache.take_surplus()), [Some(1), Some(2), None]);
            let surplus = [4, 5, 6, 7, 8].map(|chunk| {
                assert_eq!(cache.take(3 * LEAST), None);
                cache.put(&entry(chunk, LEAST), 0);
                cache.take_surplus()
            });
            (surplus, cache.bytes())
        };
        // The test may be held up between an eviction and a miss, but not each time.
        assert!((0..100).any(|_| kept() == ([None, Some(3), Some(4), Some(5), Some(6)], 2 * LEAST)));
    }

    #[test]
    fn a_miss_lets_as_much_more_be_kept_as_was_asked_for_and_a_late_one_nothing() {
        let extra = |milliseconds_ago: u32| {
            let mut cache = cache();
            cache.put(&entry(1, LEAST), 0);
            cache.evicted_at = (process::milliseconds() as u32).wrapping_sub(milliseconds_ago);
            assert_eq!(cache.take(3 * LEAST / 2 + 1), None);
            cache.extra = 0;
            assert_eq!([300 * KIB, 200 * KIB].map(|needed| cache.take(needed)), [None; 2]);
            cache.extra
        };
        assert!((0..100).any(|_| extra(0) == 500 * KIB), "held up each time");
        assert_eq!(extra(MISSED * 10), 0);
    }

    #[test]
    fn long_mappings_are_kept_in_a_loop_that_misses_them_and_not_because_of_others() {
        // Whether one is kept after so many requests for so many bytes, the last one having been refused so long ago.
        let kept_after = |requests: u32, needed: usize, refused: Option<u32>| {
            let mut cache = cache();
            if let Some(milliseconds_ago) = refused {
                assert!(!cache.takes(ALWAYS + 1));
                cache.refused_at = cache.refused_at.wrapping_sub(milliseconds_ago);
            }
            (0..requests).for_each(|_| assert_eq!(cache.take(needed), None));
            cache.takes(ALWAYS + 1)
        };
        for needed in [ALWAYS + 1, LARGEST] {
            // The test may be held up in between, but not each time.
            assert!((0..100).any(|_| kept_after(HOT, needed, Some(0))), "{needed} bytes");
            assert!(!kept_after(HOT - 1, needed, Some(0)), "{needed} bytes");
            assert!(!kept_after(HOT, needed, Some(MISSED * 10)), "{needed} bytes, late");
            assert!(!kept_after(HOT, needed, None), "{needed} bytes, none of which was freed");
        }
        for needed in [1, ALWAYS, LARGEST + 1] {
            assert!(!kept_after(HOT, needed, Some(0)), "{needed} bytes");
        }
    }

    #[test]
    fn while_there_is_room_only_a_mapping_of_about_the_length_is_reshaped_and_then_the_nearest() {
        let mut cache = cache();
        cache.put(&entry(1, 300 * KIB), 0);
        assert_eq!(cache.take_nearest(400 * KIB + 1), None);
        assert_eq!(cache.take_nearest(240 * KIB - 1), None);
        assert_eq!(cache.take_nearest(400 * KIB), Some(1));
        cache.put(&entry(2, 300 * KIB), 0);
        assert_eq!(cache.take_nearest(240 * KIB), Some(2));
        // No room is left when all of the share is in use.
        cache.put(&entry(9, LEAST), 0);
        assert_eq!(cache.take_nearest(300 * KIB), Some(9));
        for (chunk, kib) in [(3, 300), (4, 500), (5, 700)] {
            cache.put(&entry(chunk, kib * KIB), 0);
        }
        assert_eq!(cache.take_nearest(1500 * KIB), Some(5));
        assert_eq!(cache.take_nearest(1500 * KIB), None, "800 of 1024 KiB are in use");
    }

    /// A program that renders pages takes chunks of two lengths in turn, and now and then one that is as long as both.
    #[test]
    fn what_many_requests_passed_over_is_reshaped_before_what_is_wanted_in_turn() {
        // What is reshaped for 240 KiB after so many requests, where a mapping of 700 KiB is older than one of 450.
        let reshaped_after = |requests: u32, oldest: usize| {
            let mut cache = cache();
            cache.put(&entry(1, oldest), 0);
            for _ in 1..requests {
                assert_eq!(cache.take(450 * KIB), None);
            }
            cache.put(&entry(2, 450 * KIB), 0);
            cache.set_share(oldest);
            assert_eq!(cache.take(240 * KIB), None);
            cache.take_nearest(240 * KIB)
        };
        assert_eq!(reshaped_after(IDLE, 700 * KIB), Some(1));
        assert_eq!(reshaped_after(IDLE - 1, 700 * KIB), Some(2));
        assert_eq!(reshaped_after(IDLE, ORDINARY), Some(1));
        assert_eq!(reshaped_after(IDLE, ORDINARY + 1), Some(2), "huge pages are not reshaped");
    }

    #[test]
    fn one_of_about_the_length_is_taken_though_another_is_wanted_no_more() {
        let mut cache = cache();
        cache.put(&entry(1, LEAST), 0);
        for _ in 0..IDLE {
            assert_eq!(cache.take(450 * KIB), None);
        }
        cache.put(&entry(2, 400 * KIB), 0);
        assert_eq!(cache.take_nearest(450 * KIB), Some(2));
    }

    #[test]
    fn what_lies_on_huge_pages_is_not_reshaped() {
        let mut cache = cache();
        cache.put(&entry(1, ORDINARY + 1), 0);
        assert_eq!(cache.take_nearest(ORDINARY), None);
        cache.put(&entry(2, ORDINARY), 0);
        assert_eq!(cache.take_nearest(ORDINARY + 1), None);
        assert_eq!(cache.take_nearest(ORDINARY), Some(2));
    }

    #[test]
    fn a_mapping_is_let_go_when_it_is_old_enough_and_not_before() {
        let mut cache = cache();
        assert_eq!(cache.take_older_than(0), None);
        cache.put(&entry(1, 4 * KIB), 0);
        cache.put(&entry(2, 4 * KIB), 0);
        assert_eq!(cache.take_older_than(u32::MAX), None);
        assert_eq!(cache.take_older_than(0), Some(1));
        assert_eq!(cache.take_older_than(0), Some(2));
        assert_eq!(cache.take_older_than(0), None);
    }

    /// What is long beside a small heap is worth keeping only in a loop over such chunks.
    #[test]
    fn long_mappings_are_not_kept_at_first_and_the_longest_never() {
        let mut cache = cache();
        assert!(cache.takes(ALWAYS));
        assert!(!cache.takes(ALWAYS + 1));
        cache.make_hot();
        assert!(cache.takes(ALWAYS + 1) && cache.takes(LARGEST));
        assert!(!cache.takes(LARGEST + 1));
        // Over is a loop of which something is left.
        assert_eq!(cache.take_older_than(0), None);
        assert!(cache.takes(ALWAYS + 1));
        cache.put(&entry(1, ALWAYS + 1), 0);
        assert_eq!(cache.take_older_than(0), Some(1));
        assert!(!cache.takes(ALWAYS + 1));
    }
}
