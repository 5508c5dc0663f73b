//! Sizes that overflow, or that nothing could hold, end in NULL and ENOMEM, never in a small chunk.

mod support;

use support::check::checks;

checks! { of "conformance.c";
    malloc_of_too_much_fails_with_enomem
    calloc_of_too_much_fails_with_enomem
    calloc_fails_when_the_product_overflows
    realloc_that_fails_leaves_the_chunk
    reallocarray_fails_when_the_product_overflows
}

checks! { of "conformance_aligned.c";
    posix_memalign_returns_enomem_and_leaves_errno
    aligned_alloc_and_memalign_of_too_much_fail_with_enomem
    an_impossible_alignment_fails
}

checks! { of "conformance_cxx.cpp";
    new_throws_bad_alloc_when_it_fails
    nothrow_new_returns_null_when_it_fails
    a_length_that_overflows_throws
}
