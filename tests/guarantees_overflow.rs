//! Writes behind and in front of a chunk are found: at the access for large chunks, else at free.

mod support;

use support::attack::{LARGE, Must, SMALL, claims};

/// Large sizes that leave room before the guard page, since chunks are aligned to 16.
const LARGE_WITH_SLACK: &[usize] = &[262_145, 270_001, 300_007, 1_000_001];
/// Sizes that may be served either way.
const MIDDLE: &[usize] = &[65_536, 100_000, 131_072, 200_001];
/// From here up a chunk has neighbours only by luck.
const CROWDED: &[usize] = &[8, 16, 24, 40, 100, 1000, 1024, 4096];

const OVERFLOW: Must = Must::Abort(&["buffer overflow"]);
const OVERFLOW_OR_FAULT: Must = Must::AbortOrFault(&["buffer overflow"]);
/// Without slack an overflow is found in the next chunk's header; when that is the chunk being freed,
/// whose doing it was cannot be told.
const OVERFLOW_OR_HEADER: Must = Must::Abort(&["buffer overflow", "corrupted chunk header"]);
const FOUND_BY_AUDIT: Must = Must::AbortOrFault(&["buffer overflow", "corrupted chunk header"]);
const HEADER: Must = Must::Abort(&["corrupted chunk header"]);
/// The slot in front of a slab's first is a guard page.
const HEADER_OR_FAULT: Must = Must::AbortOrFault(&["corrupted chunk header"]);
/// Going far downwards also meets what belongs to the chunk in front.
const EITHER_OR_FAULT: Must = Must::AbortOrFault(&["corrupted chunk header", "buffer overflow"]);
const FREE_SLOT: Must = Must::AbortOrFault(&["write after free", "corrupted chunk header", "buffer overflow"]);

claims! { of "overflow.c";
    by_one_byte: "behind_by_1_A", both, [SMALL => OVERFLOW_OR_FAULT, MIDDLE => OVERFLOW_OR_FAULT, LARGE => Must::Fault, LARGE_WITH_SLACK => OVERFLOW];
    by_one_nul: "behind_by_1_nul", both, [SMALL => OVERFLOW_OR_FAULT, MIDDLE => OVERFLOW_OR_FAULT, LARGE => Must::Fault, LARGE_WITH_SLACK => OVERFLOW];
    by_one_ff: "behind_by_1_ff", both, [SMALL => OVERFLOW_OR_FAULT, MIDDLE => OVERFLOW_OR_FAULT, LARGE => Must::Fault, LARGE_WITH_SLACK => OVERFLOW];
    by_a_word: "behind_by_8_A", both, [SMALL => OVERFLOW_OR_FAULT, MIDDLE => OVERFLOW_OR_FAULT, LARGE => Must::Fault, LARGE_WITH_SLACK => OVERFLOW_OR_FAULT];
    by_a_word_of_nuls: "behind_by_8_nul", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => Must::Fault];
    by_a_word_of_ff: "behind_by_8_ff", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => Must::Fault];
    by_a_struct: "behind_by_a_struct_A", both, [SMALL => OVERFLOW_OR_FAULT, MIDDLE => OVERFLOW_OR_FAULT, LARGE => Must::Fault, LARGE_WITH_SLACK => Must::Fault];
    by_a_struct_of_nuls: "behind_by_a_struct_nul", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => Must::Fault];
    by_a_struct_of_ff: "behind_by_a_struct_ff", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => Must::Fault];
    by_a_header_copied_from_a_live_chunk: "behind_by_a_live_header", both, [SMALL => OVERFLOW_OR_FAULT];
    by_a_header_copied_from_a_freed_chunk: "behind_by_a_freed_header", both, [SMALL => OVERFLOW_OR_FAULT];
    of_a_chunk_from_calloc: "behind_calloc_nul", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => Must::Fault];
    of_a_chunk_that_realloc_grew: "behind_realloc_grew_nul", both, [SMALL => OVERFLOW_OR_FAULT];
    of_a_chunk_that_realloc_shrank: "behind_realloc_shrank_nul", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => OVERFLOW_OR_FAULT];
    of_an_aligned_chunk: "behind_aligned_nul", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => OVERFLOW_OR_FAULT];
    anywhere_in_the_slack: "slack_A", both, [SMALL => OVERFLOW_OR_FAULT];
    a_nul_anywhere_in_the_slack: "slack_nul", both, [SMALL => OVERFLOW_OR_FAULT];
    an_ff_anywhere_in_the_slack: "slack_ff", both, [SMALL => OVERFLOW_OR_FAULT];
    seen_by_realloc: "checked_by_realloc", both, [SMALL => OVERFLOW_OR_FAULT, LARGE_WITH_SLACK => OVERFLOW];
    of_a_large_chunk_grown_in_place: "behind_a_grown_chunk_by_1", both, [LARGE => OVERFLOW_OR_FAULT, LARGE_WITH_SLACK => OVERFLOW_OR_FAULT];
    of_a_large_chunk_much_grown: "behind_a_much_grown_chunk_by_1", both, [LARGE => OVERFLOW_OR_FAULT, LARGE_WITH_SLACK => OVERFLOW_OR_FAULT];
    of_a_large_grown_chunk_by_more_than_a_page: "behind_a_grown_chunk_by_a_page", both, [LARGE => Must::Fault, LARGE_WITH_SLACK => Must::Fault];
    of_a_shrunk_chunk: "behind_a_shrunk_chunk", both, [SMALL => OVERFLOW_OR_FAULT, LARGE => OVERFLOW_OR_FAULT, LARGE_WITH_SLACK => OVERFLOW_OR_FAULT];
    into_a_free_slot: "into_a_free_slot", both, [CROWDED => FREE_SLOT];
    never_freed_is_found_at_exit: "behind_never_freed_A", strict, [SMALL => FOUND_BY_AUDIT, LARGE_WITH_SLACK => OVERFLOW];
    a_nul_never_freed_is_found_at_exit: "behind_never_freed_nul", strict, [SMALL => FOUND_BY_AUDIT, LARGE_WITH_SLACK => OVERFLOW];

    underflow_by_two: "in_front_by_2_A", both, [SMALL => HEADER_OR_FAULT, MIDDLE => HEADER_OR_FAULT, LARGE => HEADER_OR_FAULT, LARGE_WITH_SLACK => HEADER_OR_FAULT];
    underflow_by_two_nuls: "in_front_by_2_nul", both, [SMALL => HEADER_OR_FAULT, LARGE => HEADER_OR_FAULT];
    underflow_by_the_header: "in_front_by_8_A", both, [SMALL => HEADER, MIDDLE => HEADER, LARGE => HEADER_OR_FAULT, LARGE_WITH_SLACK => HEADER_OR_FAULT];
    underflow_by_a_header_of_nuls: "in_front_by_8_nul", both, [SMALL => HEADER, LARGE => HEADER_OR_FAULT];
    underflow_by_a_header_of_ff: "in_front_by_8_ff", both, [SMALL => HEADER, LARGE => HEADER_OR_FAULT];
    underflow_by_16: "in_front_by_16_A", both, [SMALL => EITHER_OR_FAULT, LARGE => EITHER_OR_FAULT];
    underflow_by_32: "in_front_by_32_A", both, [SMALL => EITHER_OR_FAULT, LARGE => EITHER_OR_FAULT, LARGE_WITH_SLACK => EITHER_OR_FAULT];
    underflow_by_32_nuls: "in_front_by_32_nul", both, [SMALL => EITHER_OR_FAULT, LARGE => EITHER_OR_FAULT];
    underflow_of_1_to_32_by_a_loop: "in_front_by_a_loop", both, [SMALL => EITHER_OR_FAULT, MIDDLE => EITHER_OR_FAULT, LARGE => EITHER_OR_FAULT, LARGE_WITH_SLACK => EITHER_OR_FAULT];
    underflow_of_an_aligned_chunk: "in_front_aligned_A", both, [SMALL => HEADER, LARGE => HEADER_OR_FAULT];
    underflow_of_a_chunk_from_calloc: "in_front_calloc_nul", both, [SMALL => HEADER, LARGE => HEADER_OR_FAULT];
    // The whole header is gone, so an audit cannot know whether the chunk in front did it.
    underflow_never_freed_is_found_at_exit: "in_front_never_freed_A", strict, [SMALL => EITHER_OR_FAULT, LARGE => HEADER_OR_FAULT];

    behind_the_lower_neighbour_is_found_at_free: "behind_the_lower_neighbour", strict, [CROWDED => OVERFLOW_OR_HEADER];
    in_front_of_the_lower_neighbour_is_found_at_free: "in_front_of_the_lower_neighbour", strict, [CROWDED => HEADER];
    behind_the_upper_neighbour_is_found_at_free: "behind_the_upper_neighbour", strict, [CROWDED => OVERFLOW_OR_FAULT];
    in_front_of_the_upper_neighbour_is_found_at_free: "in_front_of_the_upper_neighbour", strict, [CROWDED => EITHER_OR_FAULT];
}
