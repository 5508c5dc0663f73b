//! What becomes of freed chunks: kept mappings, and addresses in quarantine.

use super::super::{Contents, FRONT, Found};
use super::{KEPT_FOR_EVER, Large, MIB, NOTHING_KEPT, bytes};
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::os::mapping::{self, OutOfMemory, PAGE, is_accessible, page_ceil};
use crate::secondary::table::Entry;

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
        let chunk =
            large.secondary.allocate(large.ground(), 390_001, 7, Origin::New, Contents::Zeroes).expect("memory");
        assert!(large.kept() < kept, "it was not used");
        let entry = large.live(chunk);
        assert_eq!((entry.size, entry.origin, entry.align_log2, entry.live), (390_001, Origin::New, 7, true));
        assert!(chunk.is_multiple_of(128) && entry.data_end() - (chunk + 390_001) < 128);
        assert!(bytes(chunk, 390_001).iter().all(|&byte| byte == 0));
    }
}

/// Zeroing costs as much as all the rest of a loop over such chunks, and who asks for none gets none.
#[test]
fn what_a_kept_mapping_held_is_there_unless_the_next_chunk_is_to_be_zero() {
    let large = Large::new(KEPT_FOR_EVER);
    let next = |contents| {
        let chunk = large.allocate(400_000);
        bytes(chunk, 400_000).fill(0xaa);
        assert!(large.release(chunk));
        let kept = large.kept();
        let next = large.secondary.allocate(large.ground(), 390_000, 4, Origin::Malloc, contents).expect("memory");
        assert!(large.kept() < kept, "it was not used");
        let seen = bytes(next, 390_000).to_vec();
        assert!(large.release(next));
        seen
    };
    assert!(next(Contents::Any).iter().all(|&byte| byte == 0xaa));
    assert!(next(Contents::Zeroes).iter().all(|&byte| byte == 0));
}

/// Where none that is kept fits, one that is too short or too long is made to.
#[test]
fn a_kept_mapping_of_another_length_is_a_new_chunk_in_every_respect() {
    // Moved when they are freed, and left where they are.
    for frees in [1, 80] {
        for (size, other) in [(800_000, 300_000), (300_000, 800_000), (300_000, 400_000), (700_001, 699_000)] {
            let large = Large::new(KEPT_FOR_EVER);
            let mut first = 0;
            for _ in 0..frees {
                first = large.allocate(size);
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
            assert!(other < size || large.is_known_as_freed(first), "its pages have moved, and its address is known");
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

/// Gives a chunk back whose ration is used up; `false` where the test was held up, and there is a token again.
fn release_where_it_is(large: &Large, chunk: usize) -> bool {
    {
        let mut state = large.secondary.state.lock();
        while state.ration.spend() {}
    }
    assert!(large.release(chunk));
    // Nothing more is collected.
    large.secondary.state.lock().cache.set_share(0);
    is_accessible(chunk)
}

/// A system call instead of four, and no address is lost to a loop whose sizes vary.
#[test]
fn a_kept_mapping_is_made_longer_in_the_room_behind_it() {
    let in_place = || {
        let large = Large::new(KEPT_FOR_EVER);
        let mut last: Option<Entry> = None;
        // Cut, longer in what was cut off, moved because there is no room, longer in the room that it has since.
        for (size, moves) in [(600_000, false), (300_000, false), (500_000, false), (700_000, true), (1_000_000, false)]
        {
            let chunk = large.allocate(size);
            let entry = large.live(chunk);
            assert_eq!(last.is_some_and(|last| last.data_start != entry.data_start), moves, "{size}");
            assert_eq!((large.kept(), large.budget.used()), (0, entry.data_bytes), "{size}");
            assert!(!is_accessible(entry.data_start - 1) && !is_accessible(entry.data_end()), "{size}: guards");
            assert!(entry.data_end() + PAGE <= entry.map_end(), "{size}: its own guard");
            assert!(bytes(chunk, size).iter().all(|&byte| byte == 0), "{size}");
            bytes(chunk, size).fill(0xaa);
            if !release_where_it_is(&large, chunk) {
                return false;
            }
            last = Some(entry);
        }
        true
    };
    assert!((0..100).any(|_| in_place()), "held up each time");
}

#[test]
fn a_kept_mapping_has_no_room_to_grow_where_every_freed_chunk_moves() {
    for (ration_large, room) in [(true, 450_000), (false, 2 * PAGE)] {
        let large = Large::new(Options { ration_large, ..KEPT_FOR_EVER });
        let first = large.allocate(300_000);
        assert!(large.release(first));
        large.secondary.state.lock().cache.set_share(0);
        let entry = large.live(large.allocate(900_000));
        let reserved = entry.map_bytes - entry.data_bytes;
        assert!((room..=room + 3 * PAGE).contains(&reserved), "{reserved} bytes beside the chunk");
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

/// To zero it for the next user would bring all of it into memory.
#[test]
fn a_long_chunk_of_which_little_is_in_memory_is_not_kept() {
    for (touched, is_kept) in [(1, false), (3 * MIB, true)] {
        let large = Large::new(KEPT_FOR_EVER);
        let chunk = large.allocate(3 * MIB);
        bytes(chunk, touched).fill(1);
        large.secondary.state.lock().cache.make_hot();
        assert!(large.release(chunk));
        assert_eq!(large.kept() > 0, is_kept, "{touched} bytes");
        assert_eq!(large.budget.used(), large.kept());
        assert!(!is_accessible(chunk) && large.is_known_as_freed(chunk));
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

fn is_mapped(address: usize) -> bool {
    // SAFETY: a question to the kernel, which may be about any address.
    unsafe { libc::msync(core::ptr::without_provenance_mut(address), PAGE, libc::MS_ASYNC) == 0 }
}

/// One that was longer once, or is aligned to much more than it is long, has far more address space than it needs.
#[test]
fn a_freed_chunk_holds_its_own_addresses_and_little_more() {
    let shrunk = |large: &Large| {
        let chunk = large.allocate(512 * MIB);
        assert_eq!(large.resize(chunk, 300_000), Ok(chunk));
        chunk
    };
    let aligned = |large: &Large| large.try_allocate(300_000, 29).expect("memory");
    let empty = |large: &Large| large.try_allocate(0, 29).expect("memory");
    for options in [NOTHING_KEPT, KEPT_FOR_EVER] {
        for (size, make) in [(300_000, &shrunk as &dyn Fn(&Large) -> usize), (300_000, &aligned), (0, &empty)] {
            let large = Large::new(options);
            let chunk = make(&large);
            let before = large.live(chunk);
            assert!(large.release(chunk));
            let Found::Freed(entry) = large.find(chunk) else { panic!("it is known as freed") };
            assert!(entry.map_start < chunk && chunk + size < entry.map_end(), "{entry:?}");
            assert!(
                (entry.map_start..entry.map_end()).step_by(PAGE).all(|page| is_mapped(page) && !is_accessible(page))
            );
            let held = large.secondary.state.lock().quarantine.held();
            assert!(held == entry.map_bytes && held < 1_000_000, "{held} bytes");
            let gone = |from: usize, to: usize| (from..to).step_by(MIB).all(|page| !is_mapped(page));
            assert!(gone(before.map_start, entry.map_start) && gone(entry.map_end(), before.map_end()), "{before:?}");
            large.secondary.purge(large.ground());
            let mut all = 0;
            let visited: Result<(), core::convert::Infallible> = large.secondary.state.lock().table.for_each(|entry| {
                all += entry.map_bytes;
                Ok(())
            });
            assert!(visited == Ok(()) && all < 1_000_000, "{all} bytes are held in all");
        }
    }
}

/// Address space runs out long before the bytes of chunks that hold much more of it than they are long.
#[test]
fn room_is_made_where_the_address_space_in_quarantine_is_enough_though_its_chunks_are_not() {
    let large = Large::new(NOTHING_KEPT);
    for _ in 0..10 {
        let chunk = large.try_allocate(16, 17).expect("memory");
        assert!(large.release(chunk));
    }
    assert_eq!(large.quarantined(), 160);
    assert_eq!(large.secondary.make_room(large.ground(), 20 * MIB), Err(OutOfMemory), "that would not help");
    assert_eq!(large.quarantined(), 160);
    assert_eq!(large.secondary.make_room(large.ground(), MIB), Ok(()));
    let held = large.secondary.state.lock().quarantine.held();
    assert_eq!((large.quarantined(), held), (0, 0));
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

/// Each of many threads has entered its chunk before any of them looks for what has to leave.
#[test]
fn what_has_to_leave_a_queue_that_is_full_is_unmapped() {
    let large = Large::new(NOTHING_KEPT);
    let chunks: Vec<usize> = (0..1002).map(|_| large.allocate(16)).collect();
    let (&last, others) = chunks.split_last().expect("chunks");
    let first = large.live(others[0]);
    for &chunk in others {
        let mut state = large.secondary.state.lock();
        let known = state.table.get(chunk).expect("it is known");
        known.live = false;
        let entry = *known;
        assert!(state.enqueue(&entry).is_none());
    }
    assert!(large.is_known_as_freed(others[0]));
    assert!(large.release(last));
    assert!(matches!(large.find(others[0]), Found::Nothing));
    // SAFETY: a question to the kernel, which may be about any address.
    let is_mapped = |page| unsafe { libc::msync(core::ptr::without_provenance_mut(page), PAGE, libc::MS_ASYNC) == 0 };
    assert!(!(first.map_start..first.map_end()).step_by(PAGE).any(is_mapped));
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

/// More freed chunks than there are places for, though they are few bytes: those that were freed first make room.
#[test]
fn where_places_run_out_the_first_to_come_are_the_first_to_go() {
    let large = Large::new(NOTHING_KEPT);
    let chunks: Vec<usize> = (0..5000).map(|_| large.allocate(16)).collect();
    for &chunk in &chunks {
        assert!(large.release(chunk));
        assert!(large.is_known_as_freed(chunk));
    }
    let known = chunks.iter().filter(|&&chunk| large.is_known_as_freed(chunk)).count();
    assert!((1000..5000).contains(&known), "{known}");
    assert!(chunks[5000 - known..].iter().all(|&chunk| large.is_known_as_freed(chunk)), "the last ones are");
    for options in [KEPT_FOR_EVER, Options { ration_large: false, ..KEPT_FOR_EVER }] {
        let large = Large::new(options);
        let chunks: Vec<usize> = (0..400).map(|_| large.allocate(300_000)).collect();
        for chunk in chunks {
            bytes(chunk, 300_000)[0] = 1;
            assert!(large.release(chunk));
        }
        let kept = large.kept();
        assert!((300_000..400 * 300_000).contains(&kept), "{kept}");
    }
}
