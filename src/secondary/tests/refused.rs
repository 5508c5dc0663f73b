//! What the system refuses in the middle of a change: nothing is lost, counted twice, or left accessible that was given back.

use super::super::{Found, NotResized};
use super::{KEPT_FOR_EVER, Large, MIB, NOTHING_KEPT, bytes};
use crate::options::Options;
use crate::os::interference::{ALL, Call, refusing};
use crate::os::mapping::{OutOfMemory, PAGE, is_accessible};
use crate::secondary::table::Entry;

/// As many as the table has room for: the next one needs a larger table.
const ROOM: usize = 24;

fn is_mapped(address: usize) -> bool {
    // SAFETY: a question to the kernel, which may be about any address.
    unsafe { libc::msync(core::ptr::without_provenance_mut(address), PAGE, libc::MS_ASYNC) == 0 }
}

/// Nothing of a mapping is there any more.
fn is_gone(entry: &Entry) -> bool {
    (entry.map_start..entry.map_end()).step_by(PAGE).all(|page| !is_mapped(page))
}

/// What must hold of a chunk that was given back, where its addresses can still be held.
fn assert_freed(large: &Large, chunk: usize, size: usize) {
    assert!(large.is_known_as_freed(chunk));
    assert!(!is_accessible(chunk) && !is_accessible(chunk + size - 1));
    assert!(!large.release(chunk), "a second free");
}

/// A secondary with as many chunks as its table has room for.
fn full(options: Options) -> (Large, Vec<usize>) {
    let large = Large::new(options);
    let chunks: Vec<usize> = (0..ROOM).map(|_| large.allocate(300_000)).collect();
    for (number, &chunk) in chunks.iter().enumerate() {
        bytes(chunk, 300_000).fill(number as u8);
    }
    (large, chunks)
}

/// All but the first are as they were, and nothing but them and `more` bytes is counted.
fn assert_others_live(large: &Large, chunks: &[usize], more: usize) {
    let mut used = more;
    for (number, &chunk) in chunks.iter().enumerate().skip(1) {
        used += large.live(chunk).data_bytes;
        assert!(bytes(chunk, 300_000).iter().all(|&byte| usize::from(byte) == number));
    }
    assert_eq!(large.budget.used(), used);
}

#[test]
fn a_freed_chunk_that_can_not_be_moved_is_made_inaccessible_where_it_is() {
    let large = Large::new(KEPT_FOR_EVER);
    let chunk = large.allocate(300_000);
    assert!(refusing(&[(Call::Move, 1)], || large.release(chunk)));
    assert_freed(&large, chunk, 300_000);
    assert_eq!((large.kept(), large.budget.used()), (0, 0));
    // The twin: where it can, its pages are kept.
    let chunk = large.allocate(300_000);
    assert!(large.release(chunk));
    assert_freed(&large, chunk, 300_000);
    assert!(large.kept() > 0);
}

#[test]
fn a_freed_chunk_whose_new_place_finds_no_room_in_the_table_is_not_kept() {
    let (large, chunks) = full(KEPT_FOR_EVER);
    // The mapping that it moves to is granted, the larger table is not, and its old addresses are held.
    assert!(refusing(&[(Call::Map, 0b010)], || large.release(chunks[0])));
    assert_freed(&large, chunks[0], 300_000);
    assert_eq!(large.kept(), 0);
    assert_others_live(&large, &chunks, 0);
}

/// Another thread may map something there before; or there are no mappings left.
#[test]
fn the_addresses_of_a_moved_chunk_that_can_not_be_held_are_let_go_of_whole() {
    let large = Large::new(KEPT_FOR_EVER);
    let chunk = large.allocate(300_000);
    let entry = large.live(chunk);
    assert!(refusing(&[(Call::Map, 0b10)], || large.release(chunk)));
    assert!(matches!(large.find(chunk), Found::Nothing));
    assert!(is_gone(&entry));
    assert!(large.kept() >= 300_000);
    assert_eq!((large.budget.used(), large.quarantined()), (large.kept(), 0));
}

#[test]
fn memory_that_can_not_be_replaced_is_made_inaccessible_and_what_can_not_be_either_is_unmapped() {
    let large = Large::new(NOTHING_KEPT);
    let (first, second) = (large.allocate(300_000), large.allocate(300_000));
    assert!(refusing(&[(Call::Map, 1)], || large.release(first)));
    assert_freed(&large, first, 300_000);
    let entry = large.live(second);
    assert!(refusing(&[(Call::Map, 1), (Call::Protect, 1)], || large.release(second)));
    assert!(is_gone(&entry));
    assert!(matches!(large.find(second), Found::Nothing));
    assert!(!large.release(second), "a second free");
    assert_eq!(large.budget.used(), 0);
}

/// Longer, by moving it; shorter, by making what is behind inaccessible.
#[test]
fn a_kept_mapping_that_can_not_be_reshaped_is_given_back_and_a_fresh_one_taken() {
    for (size, call) in [(600_000, Call::Move), (100_000, Call::Advise), (100_000, Call::Protect)] {
        let large = Large::new(KEPT_FOR_EVER);
        let first = large.allocate(300_000);
        bytes(first, 300_000).fill(1);
        assert!(large.release(first));
        large.secondary.state.lock().cache.set_share(0);
        let chunk = refusing(&[(call, 1)], || large.try_allocate(size, 4)).expect("memory");
        assert_eq!((large.live(chunk).size, large.kept()), (size, 0), "{call:?}");
        assert_eq!(large.budget.used(), large.live(chunk).data_bytes, "{call:?}");
        assert!(bytes(chunk, size).iter().all(|&byte| byte == 0));
        assert_freed(&large, first, 300_000);
    }
}

#[test]
fn a_chunk_for_which_the_table_has_no_room_is_refused_and_leaves_nothing() {
    let (large, chunks) = full(NOTHING_KEPT);
    let used = large.budget.used();
    let refused = refusing(&[(Call::Map, 0b10)], || large.try_allocate(300_000, 4));
    assert_eq!((refused, large.budget.used()), (Err(OutOfMemory), used));
    let more = large.allocate(300_000);
    assert_others_live(&large, &chunks, large.live(chunks[0]).data_bytes + large.live(more).data_bytes);
}

/// Twice: for the new place, which then takes that of the old one in the table, and for the old one.
#[test]
fn a_chunk_that_moved_while_the_table_can_not_grow_is_known_and_its_old_addresses_are_gone() {
    let (large, chunks) = full(NOTHING_KEPT);
    let old = large.live(chunks[0]);
    let moved = refusing(&[(Call::Map, 0b1010)], || large.resize(chunks[0], 3 * MIB)).expect("memory");
    assert_ne!(moved, chunks[0]);
    assert!(bytes(moved, 3 * MIB).iter().all(|&byte| byte == 0), "its contents");
    assert_eq!(large.live(moved).size, 3 * MIB);
    assert!(matches!(large.find(chunks[0]), Found::Nothing));
    assert!(is_gone(&old));
    assert_others_live(&large, &chunks, large.live(moved).data_bytes);
    assert!(large.release(moved));
    assert!(large.is_known_as_freed(moved));
}

/// Without the room to grow further, or in what was kept, or not at all.
#[test]
fn a_chunk_grows_as_long_as_the_system_grants_any_of_the_ways() {
    for (refused, other_is_kept, grows) in
        [(0b1, false, true), (0b11, false, false), (0b11, true, true), (ALL, true, false), (ALL, false, false)]
    {
        let large = Large::new(KEPT_FOR_EVER);
        let chunk = large.allocate(300_000);
        bytes(chunk, 300_000).fill(0x5a);
        if other_is_kept {
            let other = large.allocate(400_000);
            assert!(large.release(other) && large.kept() > 0);
        }
        let resized = refusing(&[(Call::Move, refused)], || large.resize(chunk, 800_000));
        let (now, size) = match resized {
            Ok(moved) => (moved, 800_000),
            Err(why) => {
                assert_eq!(why, NotResized::OutOfMemory);
                (chunk, 300_000)
            }
        };
        assert_eq!(size == 800_000, grows, "{refused:b}, {other_is_kept}");
        let entry = large.live(now);
        assert_eq!((entry.size, large.budget.used()), (size, entry.data_bytes + large.kept()));
        assert!(bytes(now, 300_000).iter().all(|&byte| byte == 0x5a));
        assert!(bytes(now, size)[300_000..].iter().all(|&byte| byte == 0));
        if refused != 0b1 {
            assert_eq!(large.kept(), 0, "it made room");
        }
        if grows {
            assert_freed(&large, chunk, 300_000);
        }
        let room = entry.map_end() - entry.data_end();
        assert!(refused != 0b1 || room < 400_000, "{room} bytes to grow into");
    }
}

/// Other threads may have used up the last mappings.
#[test]
fn room_to_grow_that_can_not_be_made_inaccessible_is_given_up() {
    let large = Large::new(NOTHING_KEPT);
    let chunk = large.allocate(300_000);
    bytes(chunk, 300_000).fill(0x5a);
    let moved = refusing(&[(Call::Protect, 1)], || large.resize(chunk, 800_000)).expect("memory");
    let entry = large.live(moved);
    assert_eq!(entry.map_end(), entry.data_end());
    // Half as much again as it needs.
    let room = entry.data_end()..entry.data_end() + 400_000;
    assert!(room.step_by(PAGE).all(|page| !is_accessible(page)), "an overflow");
    assert!(bytes(moved, 300_000).iter().all(|&byte| byte == 0x5a));
    assert_freed(&large, chunk, 300_000);
    let again = large.resize(moved, 900_000).expect("memory");
    assert!(again != moved && large.release(again));
    assert_eq!(large.budget.used(), 0);
}

/// The memory behind it, where there is room: the advice goes before the protection.
#[test]
fn a_chunk_that_shrinks_or_grows_in_place_is_in_order_whatever_is_refused() {
    let large = Large::new(NOTHING_KEPT);
    let first = large.allocate(300_000);
    let chunk = large.resize(first, 600_000).expect("memory");
    let mut before = large.live(chunk).data_bytes;
    assert_eq!(refusing(&[(Call::Protect, 1)], || large.resize(chunk, 700_000)), Err(NotResized::OutOfMemory));
    assert_eq!((large.live(chunk).size, large.live(chunk).data_bytes), (600_000, before));
    // By replacing it, or not at all: then it stays, and is canary.
    for (calls, cut) in [(&[(Call::Advise, 1)][..], 2 * PAGE), (&[(Call::Advise, 1), (Call::Map, 1)], 0)] {
        let size = large.live(chunk).size - 2 * PAGE;
        assert_eq!(refusing(calls, || large.resize(chunk, size)), Ok(chunk));
        assert_eq!((large.live(chunk).size, large.live(chunk).data_bytes), (size, before - cut));
        before -= cut;
        assert_eq!(large.budget.used(), before);
    }
    assert!(large.release(chunk));
    assert_eq!(large.budget.used(), 0);
}
