//! Where chunks come to lie differs from one process to the next, and from one run to the next.

mod support;

use std::collections::HashSet;

use support::Profile;
use support::attack::{Side, children};

const PROCESSES: u32 = 40;
/// 40 draws from 2^28 places, the fewest that are asked about here, meet more than twice with chance 10^-17.
const MANY: usize = PROCESSES as usize - 2;
/// At least three bits.
const SOME: usize = 8;

fn outcomes(what: &str, profile: Profile, size: usize) -> usize {
    let noted = children("placement.c", what, Side::Bug, profile, (PROCESSES, 1), &[size]);
    assert_eq!(noted.len(), PROCESSES as usize);
    noted.iter().map(|child| child.value).collect::<HashSet<_>>().len()
}

fn differs(what: &str, sizes: &[usize], at_least: usize) {
    for profile in [Profile::Default, Profile::Strict] {
        for &size in sizes {
            let found = outcomes(what, profile, size);
            assert!(
                found >= at_least,
                "{what} in {profile:?}, {size} bytes: {found} different in {PROCESSES} processes, not {at_least}"
            );
        }
    }
}

#[test]
fn a_first_chunk_lies_elsewhere_in_every_process() {
    differs("address", &[24, 1000, 4096, 20_000, 300_000], MANY);
}

#[test]
fn a_chunk_tells_nothing_of_where_the_program_is() {
    differs("to_the_program", &[24, 1000, 20_000, 300_000], MANY);
}

#[test]
fn a_chunk_tells_nothing_of_where_the_c_library_is() {
    differs("to_the_library", &[24, 1000, 20_000], MANY);
}

#[test]
fn a_large_chunk_lies_at_no_fixed_distance_from_the_c_library() {
    differs("to_the_library", &[300_000], SOME);
}

#[test]
fn a_chunk_tells_nothing_of_where_other_classes_are() {
    differs("to_another_class", &[24, 1000, 20_000], MANY);
}

#[test]
fn a_small_chunk_tells_nothing_of_where_large_ones_are() {
    differs("to_a_large_chunk", &[24, 1000, 20_000], MANY);
}

#[test]
fn a_large_chunk_lies_at_no_fixed_distance_from_the_one_before() {
    differs("next_chunk", &[300_000], SOME);
}

#[test]
fn a_hundred_chunks_are_laid_out_differently_each_time() {
    differs("order_of_a_hundred", &[24, 100, 1000, 4096, 20_000], SOME);
}

#[test]
fn a_hundred_freed_slots_come_back_differently_each_time() {
    differs("order_of_return", &[24, 100, 1000, 4096, 20_000], SOME);
}
