//! Claims about large chunks, each on a secondary of its own.

mod freed;
mod refused;
mod resize;

use super::{Contents, FRONT, Found, GAP_PAGES, Ground, NotResized, Secondary};
use crate::budget::Budget;
use crate::chunk::checksum::{Seal, Secrets};
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::os::mapping::{OutOfMemory, PAGE, is_accessible, page_ceil};
use crate::random::Random;
use crate::secondary::table::Entry;
use crate::violation::{Kind, Operation};

const MIB: usize = 1 << 20;

struct Large {
    secondary: Box<Secondary>,
    budget: Budget,
    seal: Seal,
}

impl Large {
    fn new(options: Options) -> Self {
        Self::within(options, usize::MAX)
    }

    fn within(options: Options, limit: usize) -> Self {
        Self::with(options, limit, Random::from_kernel().expect("entropy"))
    }

    fn with(options: Options, limit: usize, mut random: Random) -> Self {
        let layout = std::alloc::Layout::new::<Secondary>();
        // SAFETY: zeroes are a valid secondary.
        let mut secondary = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Secondary>()) };
        secondary.init(&options, random.fork());
        let seal = Seal { secrets: Secrets::draw(&mut random), has_instruction: false };
        Self { secondary, budget: Budget::new(limit), seal }
    }

    fn ground(&self) -> Ground<'_> {
        Ground { budget: &self.budget, seal: &self.seal }
    }

    fn try_allocate(&self, size: usize, align_log2: u32) -> Result<usize, OutOfMemory> {
        self.secondary.allocate(self.ground(), size, align_log2, Origin::Malloc, Contents::Zeroes)
    }

    fn allocate(&self, size: usize) -> usize {
        self.try_allocate(size, 4).expect("memory")
    }

    fn release(&self, chunk: usize) -> bool {
        self.secondary.release(self.ground(), chunk)
    }

    fn find(&self, chunk: usize) -> Found {
        self.secondary.find(self.ground(), chunk, Operation::Free).expect("nothing is damaged")
    }

    fn live(&self, chunk: usize) -> Entry {
        match self.find(chunk) {
            Found::Live(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    fn resize(&self, chunk: usize, size: usize) -> Result<usize, NotResized> {
        self.secondary.resize(self.ground(), &self.live(chunk), size, Origin::Malloc)
    }

    fn is_known_as_freed(&self, chunk: usize) -> bool {
        matches!(self.find(chunk), Found::Freed(_))
    }

    fn kept(&self) -> usize {
        self.secondary.census(false).kept
    }

    fn quarantined(&self) -> usize {
        self.secondary.census(false).quarantined
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.secondary.unmap_all();
    }
}

/// Everything that is freed goes into the address quarantine at once.
const NOTHING_KEPT: Options = Options { release_interval_ms: 0, ..Options::DEFAULT };
const KEPT_FOR_EVER: Options = Options { release_interval_ms: -1, ..Options::DEFAULT };

fn bytes<'a>(chunk: usize, size: usize) -> &'a mut [u8] {
    // SAFETY: the tests' own live chunk, looked at through one slice at a time.
    unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(chunk), size) }
}

#[test]
fn a_chunk_ends_at_its_guard_at_every_alignment_also_where_mappings_are_kept() {
    let large = Large::new(KEPT_FOR_EVER);
    for align_log2 in [4, 5, 11, 12, 13, 16, 20] {
        for size in [300_000, 300_016, 262_145, 5 * MIB + 1] {
            let chunk = large.try_allocate(size, align_log2).expect("memory");
            let entry = large.live(chunk);
            assert!(chunk.is_multiple_of(1 << align_log2));
            assert_eq!(entry.data_end(), page_ceil(chunk + size), "2^{align_log2}");
            assert!(entry.data_start + FRONT <= chunk);
            assert!(entry.data_start >= entry.map_start + PAGE && entry.data_end() + PAGE <= entry.map_end());
            assert!(large.release(chunk));
        }
    }
}

#[test]
fn a_census_counts_what_is_resident_and_an_emptied_secondary_has_nothing() {
    let large = Large::new(KEPT_FOR_EVER);
    let chunk = large.allocate(300_000);
    assert_eq!(large.secondary.census(false).resident, 0, "not asked for");
    bytes(chunk, 300_000).fill(1);
    let census = large.secondary.census(true);
    assert!(census.resident >= 300_000, "{census:?}");
    assert!(census.table.0 != 0 && census.table.1 >= PAGE);
    assert!(large.release(chunk));
    assert!(large.secondary.census(true).resident >= 300_000, "kept");
    large.secondary.purge(large.ground());
    assert_eq!(large.secondary.census(true).resident, 0);
    let live = large.allocate(300_000);
    assert!(is_accessible(live));
    large.secondary.unmap_all();
    assert!(!is_accessible(live) && !is_accessible(live + 299_999));
    assert_eq!(large.secondary.census(false).chunks, 0);
}

#[test]
fn absurd_sizes_and_alignments_are_refused_and_cost_nothing() {
    let large = Large::new(Options::DEFAULT);
    for size in [usize::MAX, usize::MAX - 16, usize::MAX - (1 << 33), isize::MAX as usize, isize::MAX as usize - 4096] {
        assert_eq!(large.try_allocate(size, 4), Err(OutOfMemory));
    }
    for align_log2 in [41, 63, 64, 1000] {
        assert_eq!(large.try_allocate(300_000, align_log2), Err(OutOfMemory), "2^{align_log2}");
    }
    assert_eq!((large.budget.used(), large.secondary.census(false).chunks), (0, 0));
}

#[test]
fn mappings_follow_each_other_at_distances_that_vary() {
    let large = Large::new(Options::DEFAULT);
    let chunks: Vec<Entry> = (0..40).map(|_| large.live(large.allocate(300_000))).collect();
    let gaps: Vec<usize> =
        chunks.windows(2).map(|pair| pair[1].map_start.wrapping_sub(page_ceil(pair[0].map_end()))).collect();
    // Where something else lies, another zone is chosen: seldom.
    let near = gaps.iter().filter(|&&gap| gap < GAP_PAGES as usize * PAGE).count();
    assert!(near >= 35, "{gaps:x?}");
    // Of 39 draws from 1,024 gaps 15 are repetitions once in 10^14.
    let distinct: std::collections::BTreeSet<_> = gaps.iter().collect();
    assert!(distinct.len() >= 25, "{gaps:x?}");
}

#[test]
fn places_depend_on_the_randomness_and_change_when_it_does() {
    let first = |seed, reseed: Option<u64>| {
        let large = Large::with(Options::DEFAULT, usize::MAX, Random::from_number(seed));
        let before = large.allocate(300_000);
        if let Some(seed) = reseed {
            large.secondary.reseed(Random::from_number(seed));
        }
        (before, large.allocate(300_000))
    };
    let far = |one: usize, other: usize| one.abs_diff(other) > 1 << 30;
    assert!(far(first(1, None).0, first(2, None).0));
    // Sisters after a fork, and what their parent would have done.
    let (one, other, parent) = (first(1, Some(10)).1, first(1, Some(11)).1, first(1, None).1);
    assert!(far(one, other) && far(one, parent) && far(other, parent));
}

#[test]
fn every_byte_in_front_of_a_chunk_is_checked() {
    let large = Large::new(Options::DEFAULT);
    let chunk = large.allocate(300_000);
    for distance in 1..=FRONT {
        let byte = &mut bytes(chunk - FRONT, FRONT)[FRONT - distance];
        *byte ^= 0x10;
        let found = large.secondary.find(large.ground(), chunk, Operation::Free).expect_err("an underflow");
        assert_eq!(found.kind, Kind::CorruptHeader, "{distance} bytes in front");
        // The header is told as a whole, canaries by the first byte that was changed.
        let place = if distance <= 8 { 8 } else { distance };
        assert_eq!(found.offset, Some(-place.cast_signed()));
        assert_eq!(large.secondary.check(large.ground()).map_err(|found| found.kind), Err(Kind::CorruptHeader));
        bytes(chunk - FRONT, FRONT)[FRONT - distance] ^= 0x10;
    }
    large.live(chunk);
    assert_eq!(large.secondary.check(large.ground()), Ok(()));
}

/// Attack: front and header of a chunk that had the address before, read while it had it, are put back.
#[test]
fn the_front_of_an_earlier_chunk_at_the_same_address_is_damage() {
    let large = Large::new(Options::DEFAULT);
    let entry = large.live(large.allocate(300_000));
    let earlier = [
        Entry { size: entry.size - 1, ..entry },
        Entry { size: entry.size - PAGE, ..entry },
        Entry { origin: Origin::New, ..entry },
        Entry { align_log2: 6, ..entry },
    ];
    let front = |entry: &Entry| bytes(entry.chunk - FRONT, FRONT).to_vec();
    for earlier in earlier {
        super::layout::dress(&large.seal, &earlier);
        let leaked = front(&earlier);
        super::layout::dress(&large.seal, &entry);
        let now = front(&entry);
        large.live(entry.chunk);
        // All of it, the canaries alone, the header alone.
        for part in [0..FRONT, 0..FRONT - 8, FRONT - 8..FRONT] {
            bytes(entry.chunk - FRONT, FRONT)[part.clone()].copy_from_slice(&leaked[part]);
            let found =
                large.secondary.find(large.ground(), entry.chunk, Operation::Free).expect_err("another's front");
            assert_eq!(found.kind, Kind::CorruptHeader);
            bytes(entry.chunk - FRONT, FRONT).copy_from_slice(&now);
        }
        large.live(entry.chunk);
    }
}

#[test]
fn the_chunk_near_an_address_is_told_live_or_freed() {
    let large = Large::new(NOTHING_KEPT);
    let chunk = large.allocate(300_000);
    let entry = large.live(chunk);
    for live in [true, false] {
        for address in [entry.map_start, chunk, entry.data_end(), entry.map_end() - 1] {
            let near = large.secondary.chunk_near(address).expect("its mapping");
            assert_eq!((near.chunk, near.live), (chunk, live));
        }
        assert!(large.secondary.chunk_near(entry.map_start - 1).is_none());
        assert!(large.secondary.chunk_near(entry.map_end()).is_none());
        assert_eq!(large.release(chunk), live);
    }
    let mut locks = 0;
    large.secondary.for_each_lock(|lock| {
        lock.acquire();
        locks += 1;
        assert!(large.secondary.chunk_near(chunk).is_none(), "it does not wait for who holds the lock");
        lock.release();
    });
    assert_eq!(locks, 1);
}

/// Chunks come, grow, shrink and go in any order: contents stay, what is new is zero, every byte of memory is accounted for.
#[test]
fn contents_and_accounts_stay_right_in_any_order() {
    for options in [Options::DEFAULT, KEPT_FOR_EVER, NOTHING_KEPT, Options { ration_large: false, ..Options::DEFAULT }]
    {
        let large = Large::new(options);
        let mut random = Random::from_number(7);
        // Address, size, contents.
        let mut live: Vec<(usize, usize, u8)> = Vec::new();
        for step in 0..250_u32 {
            let size = 100_000 + random.below(if step % 16 == 0 { 6 << 20 } else { 500_000 }) as usize;
            let which = random.below(live.len().max(1) as u32) as usize;
            let value = (step % 255 + 1) as u8;
            match random.below(4) {
                0 | 1 if live.len() < 8 => {
                    let align_log2 = [4, 6, 12, 14][random.below(4) as usize];
                    let chunk = large.try_allocate(size, align_log2).expect("memory");
                    assert!(bytes(chunk, size).iter().all(|&byte| byte == 0), "old contents");
                    bytes(chunk, size).fill(value);
                    live.push((chunk, size, value));
                }
                2 if !live.is_empty() => {
                    let (chunk, old, contents) = live[which];
                    let align_log2 = large.live(chunk).align_log2;
                    let moved = large.resize(chunk, size).expect("memory");
                    assert!(moved.is_multiple_of(1 << align_log2));
                    assert!(moved == chunk || large.is_known_as_freed(chunk));
                    let common = old.min(size);
                    assert!(bytes(moved, common).iter().all(|&byte| byte == contents), "its contents");
                    assert!(bytes(moved, size)[common..].iter().all(|&byte| byte == 0), "what it gained");
                    bytes(moved, size).fill(value);
                    live[which] = (moved, size, value);
                }
                3 if !live.is_empty() => {
                    let (chunk, size, contents) = live.swap_remove(which);
                    assert!(bytes(chunk, size).iter().all(|&byte| byte == contents));
                    assert!(large.release(chunk));
                    assert!(large.is_known_as_freed(chunk));
                }
                _ => {}
            }
            let census = large.secondary.census(false);
            let sizes = live.iter().map(|chunk| chunk.1).sum::<usize>();
            assert_eq!((census.chunks, census.allocated), (live.len(), sizes));
            assert_eq!(census.active, live.iter().map(|chunk| large.live(chunk.0).data_bytes).sum::<usize>());
            assert_eq!(large.budget.used(), census.active + census.kept);
            assert_eq!(large.secondary.state.lock().live, census.active);
            assert_eq!(large.secondary.check(large.ground()), Ok(()));
        }
        for (chunk, ..) in live {
            assert!(large.release(chunk));
        }
        large.secondary.purge(large.ground());
        assert_eq!((large.budget.used(), large.kept()), (0, 0));
    }
}
