//! Aligned allocation and the sized frees of C23 do what their standards say.

mod support;

use support::check::checks;

checks! { of "conformance_aligned.c";
    aligned_alloc_aligns
    memalign_aligns
    less_than_malloc_aligns_is_never_given
    posix_memalign_aligns
    many_aligned_chunks_live_at_once
    memalign_rounds_odd_alignments_up
    huge_alignments_work
    posix_memalign_refuses_bad_alignments_with_einval
    aligned_alloc_takes_sizes_that_are_no_multiple
    valloc_aligns_to_pages
    pvalloc_aligns_and_rounds_up_to_pages
    realloc_of_aligned_memory_keeps_the_contents
    free_sized_frees
    free_sized_frees_what_realloc_made_of_aligned_memory
    free_aligned_sized_frees
    sized_frees_preserve_errno
}
