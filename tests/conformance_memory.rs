//! malloc, calloc, realloc and free do what the C standard and the GNU C library's manual say.

mod support;

use support::check::checks;

checks! { of "conformance.c";
    malloc_aligns_for_every_type
    calloc_and_realloc_align_for_every_type
    live_chunks_do_not_overlap
    malloc_zero_returns_distinct_pointers
    calloc_returns_zeroes
    calloc_of_a_gibibyte_takes_memory_only_where_it_is_written_to
    calloc_with_a_zero_factor_returns_a_pointer
    realloc_of_null_is_malloc
    realloc_to_zero_frees_and_returns_null
    realloc_keeps_the_contents
    realloc_step_by_step_keeps_the_contents
    reallocarray_multiplies
    free_of_null_does_nothing
    free_preserves_errno
    success_leaves_errno_alone
    usable_size_is_what_was_asked_for
    other_names_are_of_the_same_heap
}
