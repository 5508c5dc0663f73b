//! Chunk headers cannot be forged, whatever other headers the forger has seen.

mod support;

use support::attack::{ALL, Must, SMALL, claims};

/// Enough of one size to find four whose addresses XOR to nothing.
const MANY: &[usize] = &[8, 16, 24, 40, 100, 1000, 4096];
const FORGED: Must = Must::AbortOrFault(&["corrupted chunk header"]);
/// Putting a freed chunk's header back is a write after free and a second free in one.
const REVIVED: Must = Must::AbortOrFault(&["corrupted chunk header", "double free", "write after free"]);
/// The memory may have been given back to the system meanwhile.
const REVIVED_OR_GONE: Must =
    Must::AbortOrFault(&["corrupted chunk header", "double free", "write after free", "invalid free"]);
const REVIVED_REALLOC: Must =
    Must::AbortOrFault(&["corrupted chunk header", "realloc of a freed chunk", "write after free"]);

claims! { of "header.c";
    one_flipped_bit: "one_bit", both, [ALL => FORGED];
    two_flipped_bits: "two_bits", both, [ALL => FORGED];
    zeroed: "zero", both, [ALL => FORGED];
    guessed: "guessed", both, [ALL => FORGED];
    copied_from_another_chunk: "of_another_chunk", both, [ALL => FORGED];
    copied_from_a_chunk_of_another_size: "of_a_chunk_of_another_size", both, [ALL => FORGED];
    copied_from_a_freed_chunk: "of_a_freed_chunk", both, [SMALL => FORGED];
    copied_from_a_distant_chunk: "of_a_distant_chunk", both, [ALL => FORGED];
    by_the_difference_of_two_sizes: "by_the_difference_of_two_sizes", both, [SMALL => FORGED];
    by_the_difference_of_two_states: "by_the_difference_of_two_states", both, [SMALL => REVIVED];
    by_the_difference_of_two_addresses: "by_the_difference_of_two_addresses", both, [MANY => REVIVED];
    restored_after_free: "restored", both, [ALL => REVIVED];
    restored_after_many_frees: "restored_after_other_frees", both, [SMALL => REVIVED_OR_GONE];
    restored_after_traffic: "restored_after_traffic", both, [SMALL => REVIVED];
    restored_with_contents_and_canary: "restored_with_contents", both, [SMALL => REVIVED];
    restored_then_reallocated: "restored_then_realloc", both, [ALL => REVIVED_REALLOC];
    replayed_from_an_earlier_life: "replayed_from_an_earlier_life", both, [&[24, 1000, 4096] => REVIVED];
}
