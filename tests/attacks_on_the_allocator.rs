//! Known techniques against heap allocators, each with what an attacker usually has: an overflow in a row, eight bytes written
//! at a chosen place, a dangling pointer, one leaked pointer, one leaked header.
//!
//! The names are those under which the techniques were published against glibc, Scudo and `hardened_malloc`. What happens
//! here need not be what happened there: a technique is stopped when the process ends before the attacker has what they wanted.

mod support;

use support::attack::{Must, claims};

/// Chunks with room for four words, in classes of all kinds.
const ROOMY: &[usize] = &[32, 40, 100, 1000, 4096, 20_000];
const SMALL: &[usize] = &[24, 40, 100, 1000, 1024, 4096, 20_000];
/// Sizes that end where their slot does, so that the next header follows.
const FULL: &[usize] = &[40, 104, 1000, 4088];
const LARGE: &[usize] = &[262_144, 300_000, 1_000_000, 5_000_000];
const ANY: &[usize] = &[8, 40, 1000, 20_000];

const WRITTEN: Must = Must::Abort(&["write after free"]);
/// Where the chunk in front fills its slot, its free sees the header of this one first.
const WRITTEN_OR_OVERFLOW: Must = Must::Abort(&["write after free", "buffer overflow"]);
const TWICE: Must = Must::Abort(&["double free"]);
const TWICE_OR_GONE: Must = Must::Abort(&["double free", "invalid free"]);
const TWICE_OR_WRITTEN: Must = Must::Abort(&["double free", "write after free", "corrupted chunk header"]);
const HEADER: Must = Must::Abort(&["corrupted chunk header"]);
const HEADER_OR_OVERFLOW: Must = Must::Abort(&["corrupted chunk header", "buffer overflow"]);
const OVERFLOW: Must = Must::Abort(&["buffer overflow"]);
const INVALID: Must = Must::Abort(&["invalid free"]);
const INVALID_REALLOC: Must = Must::Abort(&["invalid realloc"]);
const INVALID_USABLE: Must = Must::Abort(&["invalid malloc_usable_size"]);

mod free_lists {
    use super::*;

    claims! { of "attack_free_lists.c";
        tcache_poisoning: "tcache_poisoning", both, [SMALL => WRITTEN];
        tcache_poisoning_past_safe_linking: "safe_linked_poisoning", both, [SMALL => WRITTEN];
        byte_swapped_links: "byte_swapped_poisoning", both, [SMALL => WRITTEN];
        compacted_links: "compacted_poisoning", both, [SMALL => WRITTEN];
        house_of_roman: "house_of_roman", both, [SMALL => WRITTEN];
        unsorted_bin_attack: "unsorted_bin_attack", both, [SMALL => WRITTEN];
        house_of_lore: "house_of_lore", both, [SMALL => WRITTEN];
        large_bin_attack: "large_bin_attack", both, [ROOMY => WRITTEN];
        a_link_where_the_header_is: "header_as_link", both, [SMALL => WRITTEN_OR_OVERFLOW];
        a_link_and_the_header: "header_and_link", both, [SMALL => WRITTEN_OR_OVERFLOW];
        poisoning_of_another_threads_cache: "poisoning_of_another_cache", both, [SMALL => WRITTEN];
        poisoning_of_the_shared_slabs: "poisoning_of_the_shared_slabs", both, [&[24, 100, 1000, 4096] => WRITTEN];
        a_second_free_with_the_key_cleared: "second_free_with_the_key_cleared", both, [SMALL => TWICE];
        fastbin_dup: "fastbin_dup", both, [SMALL => TWICE, LARGE => TWICE];
        a_second_free_after_a_large_request: "second_free_after_a_large_request", both, [SMALL => TWICE];
        a_second_free_after_a_trim: "second_free_after_a_trim", both, [SMALL => TWICE_OR_GONE];
        house_of_botcake: "house_of_botcake", both, [SMALL => TWICE];
        a_second_free_after_a_flood: "second_free_after_a_flood", both, [SMALL => TWICE];
    }
}

mod headers {
    use super::*;

    claims! { of "attack_headers.c";
        overlapping_chunks_by_size: "size_then_free", both, [SMALL => HEADER, LARGE => HEADER];
        overlapping_chunks_by_size_and_realloc: "size_then_realloc", both, [SMALL => HEADER, LARGE => HEADER];
        overlapping_chunks_by_size_and_usable_size: "size_then_usable_size", both, [SMALL => HEADER, LARGE => HEADER];
        overlapping_mappings_by_size: "size_of_a_mapping_then_free", both, [SMALL => HEADER, LARGE => HEADER];
        house_of_mind: "house_of_mind", both, [SMALL => HEADER];
        own_size_field_by_one: "own_size_by_one_then_free", both, [SMALL => HEADER];
        own_size_field_to_the_class: "own_size_to_the_class_then_free", both, [&[33, 100, 1001, 4090] => HEADER];
        own_size_field_to_the_largest: "own_size_to_the_largest_then_free", both, [SMALL => HEADER];
        own_size_field_then_realloc: "own_size_to_the_largest_then_realloc", both, [SMALL => HEADER];
        own_size_field_then_shrink: "own_size_to_the_largest_then_shrink", both, [SMALL => HEADER];
        own_size_field_then_usable_size: "own_size_to_the_largest_then_usable_size", both, [SMALL => HEADER];
        one_byte_of_the_header: "one_byte_of_the_header", both, [SMALL => HEADER];
        eight_bytes_anywhere_outside: "eight_bytes_anywhere", both, [SMALL => HEADER_OR_OVERFLOW];
        unsafe_unlink: "unsafe_unlink", both, [FULL => HEADER, SMALL => HEADER_OR_OVERFLOW];
        unsafe_unlink_seen_from_below: "unsafe_unlink_seen_from_below", both, [SMALL => HEADER_OR_OVERFLOW];
        house_of_einherjar: "house_of_einherjar", both, [FULL => HEADER, SMALL => HEADER_OR_OVERFLOW];
        poison_nul_byte: "poison_nul_byte", both, [FULL => OVERFLOW, SMALL => HEADER_OR_OVERFLOW];
        house_of_force: "house_of_force", both, [SMALL => WRITTEN_OR_OVERFLOW];
        house_of_spirit: "house_of_spirit", certain, [SMALL => INVALID];
        house_of_spirit_with_a_true_header: "house_of_spirit_with_a_true_header", certain, [SMALL => INVALID];
        class_confusion: "class_confusion", both, [SMALL => HEADER];
        class_confusion_then_realloc: "class_confusion_then_realloc", both, [SMALL => HEADER];
        class_confusion_then_usable_size: "class_confusion_then_usable_size", both, [SMALL => HEADER];
        header_of_a_large_chunk: "header_of_a_large_chunk", both, [SMALL => HEADER];
        leaked_header_of_the_same_place: "leaked_header_of_the_same_place", both, [SMALL => TWICE_OR_WRITTEN];
        leaked_header_of_a_larger_chunk_gains_nothing_of_others:
            "leaked_header_of_a_larger_chunk", observed, [&[40, 104, 1000] => Must::Pass];
        canary_of_another_chunk: "canary_of_another_chunk", both, [&[24 + 1, 100, 1001, 4090] => OVERFLOW];
    }
}

mod mappings {
    use super::*;

    claims! { of "attack_mappings.c";
        header_as_pointer: "header_as_pointer", both, [LARGE => HEADER];
        list_unlink: "list_unlink", both, [LARGE => HEADER];
        front_of_a_neighbour: "front_of_a_neighbour", both, [LARGE => HEADER];
        header_of_a_neighbour: "header_of_a_neighbour", both, [LARGE => HEADER];
        larger_extent: "larger_extent", both, [LARGE => HEADER];
        larger_extent_everywhere: "larger_extent_everywhere", both, [LARGE => HEADER];
        larger_size_then_realloc: "larger_size_then_realloc", both, [LARGE => HEADER];
        larger_size_then_usable_size: "larger_size_then_usable_size", both, [LARGE => HEADER];
        poisoning_of_kept_mappings: "poisoning_of_kept_mappings", observed, [&[300_000, 1_000_000] => Must::Pass];
        fake_front_inside: "fake_front_inside", both, [LARGE => INVALID];
        behind_what_was_cut_off: "behind_what_was_cut_off", both, [LARGE => Must::Fault];
    }
}

mod confusion {
    use super::*;

    const ONE: &[usize] = &[0];
    const ALIGNED: &[usize] = &[40, 100, 300];

    claims! { of "attack_confusion.c";
        free_next_to_a_zero_sized_chunk: "free_next_to_zero_sized", both, [ONE => INVALID];
        free_before_a_zero_sized_chunk: "free_before_zero_sized", both, [ONE => INVALID];
        free_inside_a_zero_sized_chunk: "free_inside_zero_sized", both, [ONE => INVALID];
        free_one_behind_a_zero_sized_chunk: "free_one_behind_zero_sized", both, [ONE => INVALID];
        free_far_behind_zero_sized_chunks: "free_far_behind_zero_sized", both, [ONE => INVALID];
        realloc_next_to_a_zero_sized_chunk: "realloc_next_to_zero_sized", both, [ONE => INVALID_REALLOC];
        realloc_inside_a_zero_sized_chunk: "realloc_inside_zero_sized", both, [ONE => INVALID_REALLOC];
        realloc_far_behind_zero_sized_chunks: "realloc_far_behind_zero_sized", both, [ONE => INVALID_REALLOC];
        usable_size_next_to_a_zero_sized_chunk: "usable_size_next_to_zero_sized", both, [ONE => INVALID_USABLE];
        usable_size_inside_a_zero_sized_chunk: "usable_size_inside_zero_sized", both, [ONE => INVALID_USABLE];
        usable_size_far_behind_zero_sized_chunks: "usable_size_far_behind_zero_sized", both, [ONE => INVALID_USABLE];
        header_of_a_zero_sized_chunk: "header_of_a_zero_sized_chunk", both, [&[100] => Must::Fault];
        a_zero_sized_chunk_twice: "zero_sized_twice", both, [ONE => TWICE];
        free_of_an_over_aligned_slot: "free_over_aligned_slot", both, [ALIGNED => INVALID];
        realloc_of_an_over_aligned_slot: "realloc_over_aligned_slot", both, [ALIGNED => INVALID_REALLOC];
        usable_size_of_an_over_aligned_slot: "usable_size_over_aligned_slot", both, [ALIGNED => INVALID_USABLE];
        free_aligned_sized_of_an_over_aligned_slot:
            "free_aligned_sized_over_aligned_slot", both, [ALIGNED => INVALID];
        pages_of_one_size_never_hold_another:
            "pages_of_another_size", observed, [&[24, 100, 1000, 20_000] => Must::Pass];
        a_size_that_is_wrong_beyond_the_headers_bits:
            "size_beyond_the_header", both, [ANY => Must::Abort(&["wrong size"])];
        an_alignment_that_is_wrong_beyond_the_headers_bits:
            "alignment_beyond_the_header", both, [ANY => Must::Abort(&["wrong alignment"])];
        an_alignment_that_is_no_power_of_two:
            "alignment_that_is_no_power_of_two", both, [ANY => Must::Abort(&["wrong alignment"])];
    }
}

mod races {
    use super::*;

    const SIZES: &[usize] = &[40, 1000, 20_000];
    const MAPPED: &[usize] = &[300_000, 5_000_000];
    const TWICE_AT_ONCE: Must =
        Must::AbortOrFault(&["double free", "realloc of a freed chunk", "write after free", "corrupted chunk header"]);
    /// What both have freed may be long gone when the first one comes to free it.
    const TWICE_OR_LONG_AGO: Must = Must::Abort(&["double free", "realloc of a freed chunk", "invalid free"]);

    claims! { of "attack_races.c";
        free_against_growing: "free_against_growing", both, [SIZES => TWICE_AT_ONCE, MAPPED => TWICE_OR_LONG_AGO];
        free_against_shrinking: "free_against_shrinking", both, [SIZES => TWICE_AT_ONCE, MAPPED => TWICE_OR_LONG_AGO];
        free_against_resizing_in_place:
            "free_against_resizing_in_place", both, [SIZES => TWICE_AT_ONCE, MAPPED => TWICE_OR_LONG_AGO];
        growing_against_growing: "growing_against_growing", both, [SIZES => TWICE_AT_ONCE, MAPPED => TWICE_OR_LONG_AGO];
        resizing_in_place_twice: "resizing_in_place_twice", both, [SIZES => TWICE_AT_ONCE, MAPPED => TWICE_OR_LONG_AGO];
        a_zero_sized_chunk_twice_at_once: "zero_sized_twice_at_once", both, [&[0] => TWICE];
    }
}
