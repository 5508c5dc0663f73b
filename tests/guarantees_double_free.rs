//! A chunk freed twice is reported, however the two frees lie to each other.

mod support;

use support::attack::{ALL, Must, SMALL, claims};

const WITH_ZERO: &[usize] = &[0, 8, 16, 24, 40, 100, 1000, 1024, 4096, 20_000, 100_000, 262_144, 300_000];
const TWICE: Must = Must::Abort(&["double free"]);
/// Memory given back to the system is known to hold no chunk, but no longer which chunks it held.
const TWICE_OR_GONE: Must = Must::Abort(&["double free", "invalid free"]);

claims! { of "double_free.c";
    twice_in_a_row: "at_once", both, [WITH_ZERO => TWICE];
    with_another_free_between: "interleaved", both, [WITH_ZERO => TWICE];
    of_a_chunk_from_calloc: "calloced", both, [ALL => TWICE];
    of_a_chunk_aligned_to_64: "aligned_to_64", both, [ALL => TWICE];
    of_a_chunk_aligned_to_4096: "aligned_to_4096", both, [ALL => TWICE];
    after_thousands_of_frees_of_other_sizes: "after_frees_of_other_sizes", both, [ALL => TWICE_OR_GONE];
    after_thousands_of_frees_of_the_same_size: "after_frees_of_the_same_size", both, [ALL => TWICE_OR_GONE];
    after_traffic_of_other_sizes: "after_traffic_of_other_sizes", both, [ALL => TWICE_OR_GONE];
    after_traffic_of_the_same_size: "after_traffic_of_the_same_size", both, [ALL => TWICE];
    after_malloc_trim: "after_trim", both, [ALL => TWICE_OR_GONE];
    of_what_realloc_moved: "after_realloc_moved_it", both, [SMALL => TWICE];
    again_in_another_thread: "again_in_another_thread", both, [ALL => TWICE];
    after_the_freeing_thread_ended: "freed_by_a_thread_that_ended", both, [ALL => TWICE];
    after_the_allocating_thread_ended: "of_a_thread_that_ended", both, [ALL => TWICE];
    by_two_threads_in_the_same_instant: "race_then_traffic", both, [ALL => TWICE];
    by_two_threads_is_seen_without_a_later_call: "race_and_nothing_else", strict, [ALL => TWICE];
}
