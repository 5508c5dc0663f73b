//! Claims about large chunks, each on a secondary of its own.

use super::layout::dress;
use super::{FRONT, Found, GAP_PAGES, GivenBack, Ground, NotResized, Secondary};
use crate::budget::Budget;
use crate::chunk::checksum::{Seal, Secrets};
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::os::mapping::{self, OutOfMemory, PAGE, is_accessible, page_ceil};
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
        self.secondary.allocate(self.ground(), size, align_log2, Origin::Malloc)
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
fn a_chunk_is_taken_back_once_and_known_as_freed_then() {
    for options in [NOTHING_KEPT, KEPT_FOR_EVER, Options { ration_large: false, ..KEPT_FOR_EVER }] {
        let large = Large::new(options);
        let chunk = large.allocate(300_000);
        assert_eq!(large.live(chunk).size, 300_000);
        assert!(large.release(chunk));
        assert!(large.is_known_as_freed(chunk));
        assert!(!large.release(chunk), "a second free");
        assert!(matches!(large.find(chunk + 16), Found::Nothing));
        assert!(!large.release(chunk + 16), "an address inside");
    }
}

#[test]
fn a_kept_mapping_is_a_new_chunk_in_every_respect() {
    // Moved when they are freed, and left where they are.
    for frees in [1, 80] {
        let large = Large::new(KEPT_FOR_EVER);
        for _ in 0..frees {
            let first = large.allocate(400_000);
            bytes(first, 400_000).fill(0xaa);
            assert!(large.release(first));
        }
        let kept = large.kept();
        assert!(kept >= 400_000);
        let chunk = large.secondary.allocate(large.ground(), 390_001, 7, Origin::New).expect("memory");
        assert!(large.kept() < kept, "it was not used");
        let entry = large.live(chunk);
        assert_eq!((entry.size, entry.origin, entry.align_log2, entry.live), (390_001, Origin::New, 7, true));
        assert!(chunk.is_multiple_of(128) && entry.data_end() - (chunk + 390_001) < 128);
        assert!(bytes(chunk, 390_001).iter().all(|&byte| byte == 0));
    }
}

/// Where none that is kept fits, one that is too short or too long is made to.
#[test]
fn a_kept_mapping_of_another_length_is_a_new_chunk_in_every_respect() {
    // Moved when they are freed, and left where they are.
    for frees in [1, 80] {
        for (size, other) in [(800_000, 300_000), (300_000, 800_000), (300_000, 400_000), (700_001, 699_000)] {
            let large = Large::new(KEPT_FOR_EVER);
            for _ in 0..frees {
                let first = large.allocate(size);
                bytes(first, size).fill(0xaa);
                assert!(large.release(first));
            }
            // Nothing more is collected.
            large.secondary.state.lock().cache.set_share(0);
            let before = large.kept();
            let resident = large.secondary.census(true).resident;
            let chunk = large.try_allocate(other, 7).expect("memory");
            assert_eq!(large.kept(), 0, "{before} were kept");
            let entry = large.live(chunk);
            assert_eq!((entry.size, entry.align_log2, entry.unknown), (other, 7, false));
            assert!(chunk.is_multiple_of(128) && entry.data_end() - (chunk + other) < 128);
            assert!(entry.data_start + FRONT <= chunk);
            assert!(!is_accessible(entry.data_start - 1) && !is_accessible(entry.data_end()), "guards");
            assert_eq!(large.budget.used(), entry.data_bytes);
            assert!(large.secondary.census(true).resident > resident.min(other) / 10 * 9, "pages were lost");
            assert!(bytes(chunk, other).iter().all(|&byte| byte == 0));
            bytes(chunk, other).fill(0xbb);
            assert!(large.release(chunk));
            assert!(large.is_known_as_freed(chunk));
        }
    }
}

#[test]
fn a_kept_mapping_that_can_not_be_made_longer_is_given_back_and_a_fresh_one_taken() {
    let large = Large::within(KEPT_FOR_EVER, 1_000_000);
    let (first, live) = (large.allocate(300_000), large.allocate(500_000));
    assert!(large.release(first));
    large.secondary.state.lock().cache.set_share(0);
    assert_eq!(large.try_allocate(600_000, 4), Err(OutOfMemory), "beyond the budget");
    assert_eq!(large.budget.used(), large.live(live).data_bytes);
    assert!(large.is_known_as_freed(first));
    large.allocate(400_000);
}

/// What is kept lies where the program never knew it, so it has no place in the queue of addresses that may dangle.
#[test]
fn kept_mappings_that_go_do_not_shorten_the_time_that_addresses_stay_known() {
    let large = Large::new(Options { large_quarantine_mb: 16, ..KEPT_FOR_EVER });
    let chunks: Vec<usize> = (0..16).map(|_| large.allocate(MIB)).collect();
    for &chunk in &chunks {
        assert!(large.release(chunk));
    }
    assert!(large.kept() < 8 * MIB, "most were displaced");
    assert!(chunks.iter().all(|&chunk| large.is_known_as_freed(chunk)));
    large.secondary.purge(large.ground());
    assert!(chunks.iter().all(|&chunk| large.is_known_as_freed(chunk)));
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

/// A kept mapping is only used where header and canaries in front of the chunk fit into it too.
#[test]
fn a_kept_mapping_that_is_too_short_by_a_little_is_not_used() {
    for align_log2 in [4, 6, 12] {
        for less in
            (0..=FRONT + PAGE + 64).step_by(if align_log2 == 12 { 16 } else { 8 }).filter(|less| *less % 4096 < 200)
        {
            let large = Large::new(KEPT_FOR_EVER);
            let first = large.allocate(300_000);
            let data_bytes = large.live(first).data_bytes;
            assert!(large.release(first));
            let chunk = large.try_allocate(data_bytes - less, align_log2).expect("memory");
            let entry = large.live(chunk);
            assert!(entry.data_start + FRONT <= chunk && chunk.is_multiple_of(1 << align_log2));
            assert_eq!(entry.data_end(), page_ceil(chunk + entry.size));
        }
    }
}

/// `strict`, and in every profile chunks of more than 2 MiB.
#[test]
fn a_freed_chunk_is_never_left_accessible_where_that_is_not_rationed() {
    let strict = Options { ration_large: false, ..KEPT_FOR_EVER };
    for (options, size, hot) in [(strict, 300_000, false), (KEPT_FOR_EVER, 3 * MIB, true), (strict, 3 * MIB, true)] {
        let large = Large::new(options);
        for _ in 0..100 {
            let chunk = large.allocate(size);
            bytes(chunk, size).fill(1);
            if hot {
                large.secondary.state.lock().cache.make_hot();
            }
            assert!(large.release(chunk));
            assert!(!is_accessible(chunk) && !is_accessible(chunk + size - 1), "{size} bytes");
        }
    }
}

/// The ration: a burst of frees, and what comes seldom, has it in `default` too.
#[test]
fn the_first_freed_chunks_are_inaccessible_where_it_is_rationed() {
    let large = Large::new(KEPT_FOR_EVER);
    for _ in 0..60 {
        let chunk = large.allocate(300_000);
        assert!(is_accessible(chunk));
        assert!(large.release(chunk));
        assert!(!is_accessible(chunk) && !is_accessible(chunk + 299_999));
    }
}

#[test]
fn a_chunk_that_grows_step_by_step_always_ends_at_a_guard() {
    let large = Large::new(Options::DEFAULT);
    let mut chunk = large.allocate(300_000);
    let mut in_place = 0;
    for step in 1..200 {
        let moved = large.resize(chunk, 300_000 + step * 1500).expect("memory");
        in_place += usize::from(moved == chunk);
        chunk = moved;
        let entry = large.live(chunk);
        assert_eq!(entry.data_end(), page_ceil(chunk + entry.size));
        assert!(entry.data_end() + PAGE <= entry.map_end() && !is_accessible(entry.data_end()));
        assert!(entry.data_start >= entry.map_start + PAGE && !is_accessible(entry.data_start - 1));
    }
    assert!(in_place > 150, "there is room to grow into");
}

#[test]
fn a_resized_chunk_has_the_origin_that_the_resize_gives_it() {
    let large = Large::new(Options::DEFAULT);
    let chunk = large.allocate(300_000);
    for size in [300_100, 200_000, 900_000] {
        let entry = large.live(chunk);
        let moved = large.secondary.resize(large.ground(), &entry, size, Origin::Rust).expect("memory");
        assert_eq!(large.live(moved).origin, Origin::Rust);
        if moved != chunk {
            break;
        }
    }
}

/// Where another mapping lies in the hole that a moved chunk left, its addresses can't be held: they are forgotten, with the
/// guards that were around them.
#[test]
fn addresses_that_can_not_be_held_are_let_go_of_whole() {
    let large = Large::new(Options::DEFAULT);
    let chunk = large.allocate(300_000);
    let entry = large.live(chunk);
    assert!(large.secondary.hold(&entry));
    // Its pages are still there, so nothing can be reserved in their place.
    large.secondary.quarantine_addresses(&entry);
    assert!(matches!(large.find(chunk), Found::Nothing));
    let is_mapped = |address: usize| {
        // SAFETY: a question to the kernel, which may be about any address.
        unsafe { libc::msync(core::ptr::without_provenance_mut(address), PAGE, libc::MS_ASYNC) == 0 }
    };
    assert!(is_mapped(entry.data_start) && is_mapped(entry.data_end() - PAGE));
    assert!(!is_mapped(entry.map_start) && !is_mapped(entry.data_start - PAGE));
    assert!(!is_mapped(entry.data_end()) && !is_mapped(entry.map_end() - PAGE));
    mapping::unmap(entry.data_start, entry.data_bytes);
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
fn room_is_only_made_where_something_is_held() {
    let large = Large::new(KEPT_FOR_EVER);
    let room = |size| large.secondary.make_room(large.ground(), size);
    assert_eq!(room(1), Err(OutOfMemory));
    let chunk = large.allocate(300_000);
    assert_eq!(room(1), Err(OutOfMemory), "what is live is not given back");
    assert!(large.release(chunk));
    assert!(large.kept() > 0);
    // More than is in quarantine: that stays, what is kept goes there.
    assert_eq!(room(usize::MAX / 2), Ok(()));
    assert_eq!(large.kept(), 0);
    assert!(large.quarantined() >= 300_000 && large.is_known_as_freed(chunk));
    assert_eq!(room(usize::MAX / 2), Err(OutOfMemory));
    let quarantined = large.quarantined();
    assert!(quarantined > 0);
    assert_eq!(room(quarantined), Ok(()));
    assert_eq!(large.quarantined(), 0);
    assert!(matches!(large.find(chunk), Found::Nothing));
}

/// Whoever may ask for absurd sizes can't empty the address quarantine.
#[test]
fn a_request_beyond_the_budget_does_not_empty_the_address_quarantine() {
    let large = Large::within(NOTHING_KEPT, MIB);
    let live = large.allocate(600_000);
    let freed = large.allocate(300_000);
    assert!(large.release(freed));
    assert_eq!(large.secondary.make_room(large.ground(), 600_000), Err(OutOfMemory));
    assert!(large.is_known_as_freed(freed));
    assert!(large.try_allocate(600_000, 4).is_err());
    assert!(large.is_known_as_freed(freed));
    assert!(large.release(live));
}

#[test]
fn an_address_stays_known_until_as_many_bytes_were_freed_as_the_option_says() {
    let large = Large::new(Options { large_quarantine_mb: 4, ..NOTHING_KEPT });
    let first = large.allocate(MIB);
    assert!(large.release(first));
    for _ in 0..3 {
        let other = large.allocate(MIB);
        assert!(large.release(other));
        assert!(large.is_known_as_freed(first));
    }
    let last = large.allocate(MIB);
    assert!(large.release(last));
    assert!(matches!(large.find(first), Found::Nothing));
    assert!(large.is_known_as_freed(last));
}

#[test]
fn the_release_interval_says_how_long_mappings_are_kept() {
    let kept_after = |options: Options| {
        let large = Large::new(options);
        let chunk = large.allocate(300_000);
        assert!(large.release(chunk));
        std::thread::sleep(std::time::Duration::from_millis(20));
        large.secondary.decay(large.ground());
        large.kept()
    };
    assert_eq!(kept_after(NOTHING_KEPT), 0);
    assert_eq!(kept_after(Options { release_interval_ms: 10, ..Options::DEFAULT }), 0);
    assert!(kept_after(KEPT_FOR_EVER) > 0);
    assert!(kept_after(Options { release_interval_ms: i32::MAX, ..Options::DEFAULT }) > 0);
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
    let distinct: std::collections::BTreeSet<_> = gaps.iter().collect();
    assert!(distinct.len() >= 35, "{gaps:x?}");
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

#[test]
fn every_byte_between_a_shrunk_chunk_and_its_guard_is_checked() {
    let large = Large::new(Options::DEFAULT);
    let chunk = large.allocate(300_000);
    let size = large.live(chunk).data_end() - chunk - 2 * PAGE - 100;
    assert_eq!(large.resize(chunk, size), Ok(chunk));
    let entry = large.live(chunk);
    assert_eq!(entry.data_end() - (chunk + size), 100);
    for offset in 0..100 {
        bytes(chunk, size + 100)[size + offset] ^= 0x10;
        let found = large.secondary.find(large.ground(), chunk, Operation::Free).expect_err("an overflow");
        assert_eq!(found.kind, Kind::Overflow, "byte {offset}");
        assert_eq!(found.offset, Some((size + offset).cast_signed()));
        bytes(chunk, size + 100)[size + offset] ^= 0x10;
    }
    large.live(chunk);
}

/// The system may refuse to take back what a chunk lost when it shrank; all of that is canary then, and must not be found in
/// the chunk when it grows again.
#[test]
fn a_chunk_that_grows_again_into_memory_that_could_not_be_given_back_is_zero_there() {
    let large = Large::new(Options::DEFAULT);
    for size in [101, PAGE, 6 * PAGE, 10 * PAGE] {
        let chunk = large.allocate(10 * PAGE);
        let shrunk = Entry { size: 100, ..large.live(chunk) };
        bytes(chunk, 100).fill(7);
        dress(&large.seal, &shrunk);
        let grown = large.secondary.resize_held(large.ground(), &shrunk, size).expect("memory");
        let (before, after) = bytes(grown.chunk, size).split_at(100);
        assert!(before.iter().all(|&byte| byte == 7) && after.iter().all(|&byte| byte == 0), "{size} bytes");
    }
}

/// While `realloc` copies or moves a chunk, another thread that gives it back is told so.
#[test]
fn a_chunk_that_is_held_can_not_be_given_back_or_resized() {
    let large = Large::new(Options::DEFAULT);
    let chunk = large.allocate(300_000);
    let entry = large.live(chunk);
    let mut looked = false;
    let held = large.secondary.while_held(&entry, || {
        looked = true;
        assert!(!large.release(chunk));
        assert!(large.is_known_as_freed(chunk));
        let resized = large.secondary.resize(large.ground(), &entry, 400_000, Origin::Malloc);
        assert_eq!(resized, Err(NotResized::GivenBack));
        assert_eq!(large.secondary.while_held(&entry, || ()), Err(GivenBack));
    });
    assert!(held == Ok(()) && looked);
    assert_eq!(large.live(chunk).size, 300_000);
    // What was found before is not what is there now: another size, another mapping.
    for stale in [Entry { size: 300_001, ..entry }, Entry { map_start: entry.map_start + PAGE, ..entry }] {
        assert_eq!(large.secondary.while_held(&stale, || panic!("held")), Err(GivenBack));
    }
    assert!(large.release(chunk));
    assert_eq!(large.secondary.while_held(&entry, || panic!("held")), Err(GivenBack));
}

#[test]
fn a_refused_resize_leaves_the_chunk_as_it_was() {
    let large = Large::within(NOTHING_KEPT, MIB);
    let chunk = large.allocate(300_000);
    bytes(chunk, 300_000).fill(0x5a);
    let used = large.budget.used();
    assert_eq!(large.resize(chunk, 2 * MIB), Err(NotResized::OutOfMemory));
    assert_eq!((large.live(chunk).size, large.budget.used()), (300_000, used));
    assert!(bytes(chunk, 300_000).iter().all(|&byte| byte == 0x5a));
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
            assert_eq!(large.secondary.check(large.ground()), Ok(()));
        }
        for (chunk, ..) in live {
            assert!(large.release(chunk));
        }
        large.secondary.purge(large.ground());
        assert_eq!((large.budget.used(), large.kept()), (0, 0));
    }
}
