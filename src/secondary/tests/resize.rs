//! Making chunks longer and shorter.

use super::super::layout::dress;
use super::super::{GivenBack, NotResized};
use super::{Large, MIB, NOTHING_KEPT, bytes};
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::os::mapping::{self, PAGE, is_accessible, page_ceil};
use crate::secondary::table::Entry;
use crate::violation::{Kind, Operation};

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
    let longer = Entry { map_bytes: entry.map_bytes + PAGE, ..entry };
    for stale in [Entry { size: 300_001, ..entry }, Entry { map_start: entry.map_start + PAGE, ..entry }, longer] {
        assert_eq!(large.secondary.while_held(&stale, || panic!("held")), Err(GivenBack));
    }
    assert!(large.release(chunk));
    assert_eq!(large.secondary.while_held(&entry, || panic!("held")), Err(GivenBack));
}

/// A program that reserves much, and learns then how little it needs, may do so often.
#[test]
fn a_live_chunk_that_shrinks_much_gives_most_of_its_address_space_back() {
    let large = Large::new(Options::DEFAULT);
    let chunk = large.allocate(512 * MIB);
    bytes(chunk, 300_000).fill(7);
    let before = large.live(chunk).map_end();
    assert_eq!(large.resize(chunk, 200 * MIB), Ok(chunk));
    assert_eq!(large.live(chunk).map_end(), before, "it may grow again");
    assert_eq!(large.resize(chunk, 300_000), Ok(chunk));
    let entry = large.live(chunk);
    let room = entry.map_end() - entry.data_end();
    assert!((entry.data_bytes / 2..entry.data_bytes).contains(&room), "{room} bytes to grow into");
    assert!((entry.data_end()..entry.map_end()).step_by(PAGE).all(|page| !is_accessible(page)));
    // What lies there now is not its own.
    let other = mapping::reserve(entry.map_end(), PAGE).expect("address space");
    assert_eq!(other, entry.map_end(), "it was given back");
    mapping::commit(other, PAGE).expect("memory");
    assert_eq!(large.resize(chunk, 400_000), Ok(chunk), "in place");
    let moved = large.resize(chunk, 2 * MIB).expect("memory");
    assert!(moved != chunk && bytes(moved, 300_000).iter().all(|&byte| byte == 7));
    assert!(bytes(moved, 2 * MIB)[300_000..].iter().all(|&byte| byte == 0));
    assert!(is_accessible(other) && large.is_known_as_freed(chunk));
    mapping::unmap(other, PAGE);
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
