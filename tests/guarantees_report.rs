//! The first line of a report says what happened, where, and to what kind of chunk.

mod support;

use support::Profile;
use support::attack::{Side, children};

/// Sizes of each kind: without slack, with slack, large.
const SIZES: &[usize] = &[24, 100, 20_000, 300_001];

/// Claims that the report begins with `what`, the chunk's address and size, and `origin`.
fn says(source: &str, attack: &str, what: &str, origin: &str) {
    for child in children(source, attack, Side::Bug, Profile::Default, (2, 2), SIZES) {
        let expected = format!("testudo: {what} at {:#x} ({}-byte {origin} chunk", child.subject, child.size);
        assert!(
            child.first_line.starts_with(&expected) && child.first_line.ends_with(')'),
            "{attack}: {:?} does not begin with {expected:?}",
            child.first_line
        );
    }
}

#[test]
fn of_a_double_free() {
    says("double_free.c", "at_once", "double free", "malloc");
}

#[test]
fn of_a_double_free_of_an_aligned_chunk() {
    says("double_free.c", "aligned_to_64", "double free", "aligned_alloc");
}

#[test]
fn of_an_overflow() {
    says("overflow.c", "behind_by_1_nul", "buffer overflow", "malloc");
}

#[test]
fn of_a_chunk_from_malloc_deleted() {
    says("mismatch.cpp", "malloc_delete", "mismatched deallocation", "malloc");
}

#[test]
fn of_a_chunk_from_new_freed() {
    says("mismatch.cpp", "new_free", "mismatched deallocation", "operator new");
}

#[test]
fn of_a_chunk_from_new_array_freed() {
    says("mismatch.cpp", "new_array_free", "mismatched deallocation", "operator new[]");
}

#[test]
fn of_a_chunk_from_memalign_deleted() {
    says("mismatch.cpp", "memalign_delete", "mismatched deallocation", "aligned_alloc");
}

#[test]
fn of_a_wrong_size() {
    says("mismatch.cpp", "sized_delete_1_more", "wrong size", "operator new");
}
