//! free, realloc and malloc_usable_size refuse every pointer that is not the start of a live chunk.

mod support;

use support::attack::{ALL, Must, claims};

/// Chunks with room inside for what looks like another chunk.
const ROOMY: &[usize] = &[40, 100, 1024, 4096, 20_000, 100_000, 262_144, 300_000];
/// Where the address is nobody's, the size of the live chunk hardly matters.
const TWO: &[usize] = &[24, 300_000];

const FREE: Must = Must::Abort(&["invalid free"]);
const REALLOC: Must = Must::Abort(&["invalid realloc"]);
const USABLE: Must = Must::Abort(&["invalid malloc_usable_size"]);
/// What was freed, or lies among what was, may be known as that.
const FREE_GONE: Must = Must::Abort(&["invalid free", "double free"]);
const REALLOC_GONE: Must = Must::Abort(&["invalid realloc", "realloc of a freed chunk"]);
const USABLE_GONE: Must = Must::Abort(&["invalid malloc_usable_size", "malloc_usable_size of a freed chunk"]);

mod free {
    use super::*;
    claims! { of "invalid_pointer.c";
        one_byte_inside: "free_interior_by_1", certain, [ALL => FREE];
        four_bytes_inside: "free_interior_by_4", certain, [ALL => FREE];
        eight_bytes_inside: "free_interior_by_8", certain, [ALL => FREE];
        sixteen_bytes_inside: "free_interior_by_16", certain, [ROOMY => FREE];
        half_inside: "free_interior_half", certain, [ROOMY => FREE];
        its_last_byte: "free_interior_last_byte", certain, [ROOMY => FREE];
        anywhere_inside: "free_interior_anywhere", both, [ROOMY => FREE];
        any_aligned_place_inside: "free_interior_multiple_of_16", both, [ROOMY => FREE];
        inside_behind_a_true_header: "free_interior_with_a_true_header", both, [ROOMY => FREE];
        one_byte_before: "free_before_by_1", certain, [ALL => FREE];
        eight_bytes_before: "free_before_by_8", certain, [ALL => FREE];
        the_stack: "free_on_the_stack", certain, [TWO => FREE];
        the_stack_behind_a_true_header: "free_on_the_stack_with_a_true_header", both, [ALL => FREE];
        a_global: "free_global", certain, [TWO => FREE];
        a_thread_local: "free_thread_local_variable", certain, [TWO => FREE];
        a_literal: "free_literal", certain, [TWO => FREE];
        a_function: "free_code", certain, [TWO => FREE];
        the_environment: "free_environment", certain, [TWO => FREE];
        a_foreign_mapping: "free_foreign_mapping_start", certain, [TWO => FREE];
        the_inside_of_a_foreign_mapping: "free_foreign_mapping_inside", certain, [TWO => FREE];
        the_first_page: "free_nowhere_first_page", certain, [TWO => FREE];
        a_low_address: "free_nowhere_low", certain, [TWO => FREE];
        a_high_address: "free_nowhere_high", certain, [TWO => FREE];
        no_address: "free_nowhere_not_canonical", certain, [TWO => FREE];
        the_last_address: "free_nowhere_last", certain, [TWO => FREE];
        far_from_a_chunk: "free_far_from_a_chunk", both, [ALL => FREE_GONE];
        a_slot_never_handed_out: "free_never_handed_out", both, [&[1000, 4096, 20_000] => FREE_GONE];
        a_slot_of_an_emptied_slab: "free_of_an_emptied_slab", both, [ALL => FREE_GONE];
    }
}

mod realloc {
    use super::*;
    claims! { of "invalid_pointer.c";
        one_byte_inside: "realloc_interior_by_1", certain, [ALL => REALLOC];
        eight_bytes_inside: "realloc_interior_by_8", certain, [ALL => REALLOC];
        any_aligned_place_inside: "realloc_interior_multiple_of_16", both, [ROOMY => REALLOC];
        inside_behind_a_true_header: "realloc_interior_with_a_true_header", both, [ROOMY => REALLOC];
        eight_bytes_before: "realloc_before_by_8", certain, [ALL => REALLOC];
        the_stack: "realloc_on_the_stack", certain, [TWO => REALLOC];
        the_stack_behind_a_true_header: "realloc_on_the_stack_with_a_true_header", both, [ALL => REALLOC];
        a_global: "realloc_global", certain, [TWO => REALLOC];
        a_literal: "realloc_literal", certain, [TWO => REALLOC];
        a_foreign_mapping: "realloc_foreign_mapping_start", certain, [TWO => REALLOC];
        the_inside_of_a_foreign_mapping: "realloc_foreign_mapping_inside", certain, [TWO => REALLOC];
        the_first_page: "realloc_nowhere_first_page", certain, [TWO => REALLOC];
        a_low_address: "realloc_nowhere_low", certain, [TWO => REALLOC];
        a_high_address: "realloc_nowhere_high", certain, [TWO => REALLOC];
        no_address: "realloc_nowhere_not_canonical", certain, [TWO => REALLOC];
        the_last_address: "realloc_nowhere_last", certain, [TWO => REALLOC];
        far_from_a_chunk: "realloc_far_from_a_chunk", both, [ALL => REALLOC_GONE];
        a_slot_never_handed_out: "realloc_never_handed_out", both, [&[1000, 4096, 20_000] => REALLOC_GONE];
        a_freed_chunk: "realloc_freed", both, [ALL => Must::Abort(&["realloc of a freed chunk"])];
        a_slot_of_an_emptied_slab: "realloc_of_an_emptied_slab", both, [ALL => REALLOC_GONE];
    }
}

mod usable_size {
    use super::*;
    claims! { of "invalid_pointer.c";
        one_byte_inside: "usable_size_interior_by_1", certain, [ALL => USABLE];
        eight_bytes_inside: "usable_size_interior_by_8", certain, [ALL => USABLE];
        any_aligned_place_inside: "usable_size_interior_multiple_of_16", both, [ROOMY => USABLE];
        inside_behind_a_true_header: "usable_size_interior_with_a_true_header", both, [ROOMY => USABLE];
        eight_bytes_before: "usable_size_before_by_8", certain, [ALL => USABLE];
        the_stack: "usable_size_on_the_stack", certain, [TWO => USABLE];
        the_stack_behind_a_true_header: "usable_size_on_the_stack_with_a_true_header", both, [ALL => USABLE];
        a_global: "usable_size_global", certain, [TWO => USABLE];
        a_literal: "usable_size_literal", certain, [TWO => USABLE];
        a_foreign_mapping: "usable_size_foreign_mapping_start", certain, [TWO => USABLE];
        the_first_page: "usable_size_nowhere_first_page", certain, [TWO => USABLE];
        a_low_address: "usable_size_nowhere_low", certain, [TWO => USABLE];
        a_high_address: "usable_size_nowhere_high", certain, [TWO => USABLE];
        no_address: "usable_size_nowhere_not_canonical", certain, [TWO => USABLE];
        the_last_address: "usable_size_nowhere_last", certain, [TWO => USABLE];
        far_from_a_chunk: "usable_size_far_from_a_chunk", both, [ALL => USABLE_GONE];
        a_slot_never_handed_out: "usable_size_never_handed_out", both, [&[1000, 4096, 20_000] => USABLE_GONE];
        a_freed_chunk: "usable_size_freed", both, [ALL => Must::Abort(&["malloc_usable_size of a freed chunk"])];
        a_slot_of_an_emptied_slab: "usable_size_of_an_emptied_slab", both, [ALL => USABLE_GONE];
    }
}
