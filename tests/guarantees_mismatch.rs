//! What one interface allocated, no other releases; and a size or alignment that is said must be true.

mod support;

use support::attack::{ALL, Must, claims};

/// A base class smaller than what was made: the size is the classes', not the test's.
const ONCE: &[usize] = &[32];
const MISMATCH: Must = Must::Abort(&["mismatched deallocation"]);
const SIZE: Must = Must::Abort(&["wrong size"]);
const ALIGNMENT: Must = Must::Abort(&["wrong alignment"]);
/// Memory of plain new said to be aligned, or the other way round, is both.
const ALIGNMENT_OR_MISMATCH: Must = Must::Abort(&["wrong alignment", "mismatched deallocation"]);
const INVALID: Must = Must::Abort(&["invalid free"]);
const TWICE: Must = Must::Abort(&["double free"]);

/// Room for a place inside that is aligned like a chunk.
const ROOMY: &[usize] = &[40, 100, 1024, 4096, 20_000, 100_000, 262_144, 300_000];

claims! { of "mismatch.cpp";
    malloc_with_delete: "malloc_delete", certain, [ALL => MISMATCH];
    malloc_with_delete_array: "malloc_delete_array", certain, [ALL => MISMATCH];
    malloc_with_sized_delete: "malloc_sized_delete", certain, [ALL => MISMATCH];
    malloc_with_nothrow_delete: "malloc_nothrow_delete", certain, [ALL => MISMATCH];
    malloc_with_aligned_delete: "malloc_aligned_delete", certain, [ALL => ALIGNMENT_OR_MISMATCH];
    calloc_with_delete: "calloc_delete", certain, [ALL => MISMATCH];
    realloc_with_delete: "realloc_delete", certain, [ALL => MISMATCH];
    memalign_with_delete: "memalign_delete", certain, [ALL => MISMATCH];
    memalign_with_delete_array: "memalign_delete_array", certain, [ALL => MISMATCH];
    memalign_with_aligned_delete: "memalign_aligned_delete", certain, [ALL => MISMATCH];
    aligned_alloc_with_delete: "aligned_alloc_delete", certain, [ALL => MISMATCH];
    posix_memalign_with_delete: "posix_memalign_delete", certain, [ALL => MISMATCH];
    valloc_with_delete: "valloc_delete", certain, [ALL => MISMATCH];
    new_with_free: "new_free", certain, [ALL => MISMATCH];
    new_with_realloc: "new_realloc", certain, [ALL => MISMATCH];
    new_with_free_sized: "new_free_sized", certain, [ALL => MISMATCH];
    new_with_delete_array: "new_delete_array", certain, [ALL => MISMATCH];
    new_with_sized_delete_array: "new_sized_delete_array", certain, [ALL => MISMATCH];
    new_with_aligned_delete: "new_aligned_delete", certain, [ALL => ALIGNMENT_OR_MISMATCH];
    new_array_with_free: "new_array_free", certain, [ALL => MISMATCH];
    new_array_with_delete: "new_array_delete", certain, [ALL => MISMATCH];
    new_array_with_sized_delete: "new_array_sized_delete", certain, [ALL => MISMATCH];
    new_array_with_aligned_delete_array: "new_array_aligned_delete_array", certain, [ALL => ALIGNMENT_OR_MISMATCH];
    nothrow_new_with_free: "nothrow_new_free", certain, [ALL => MISMATCH];
    nothrow_new_with_delete_array: "nothrow_new_delete_array", certain, [ALL => MISMATCH];
    nothrow_new_array_with_delete: "nothrow_new_array_delete", certain, [ALL => MISMATCH];
    aligned_new_with_free: "aligned_new_free", certain, [ALL => MISMATCH];
    aligned_new_with_delete: "aligned_new_delete", certain, [ALL => ALIGNMENT_OR_MISMATCH];
    aligned_new_with_delete_array: "aligned_new_delete_array", certain, [ALL => ALIGNMENT_OR_MISMATCH];
    aligned_new_with_aligned_delete_array: "aligned_new_aligned_delete_array", certain, [ALL => MISMATCH];
    aligned_new_array_with_free: "aligned_new_array_free", certain, [ALL => MISMATCH];
    aligned_new_array_with_aligned_delete: "aligned_new_array_aligned_delete", certain, [ALL => MISMATCH];
    a_new_array_expression_with_plain_delete: "expression_new_array_delete", certain, [ALL => MISMATCH];

    sized_delete_of_one_more: "sized_delete_1_more", certain, [ALL => SIZE];
    sized_delete_of_one_less: "sized_delete_1_less", certain, [ALL => SIZE];
    sized_delete_of_much_more: "sized_delete_much_more", certain, [ALL => SIZE];
    sized_delete_array_of_one_more: "sized_delete_array_1_more", certain, [ALL => SIZE];
    sized_delete_array_of_one_less: "sized_delete_array_1_less", certain, [ALL => SIZE];
    aligned_sized_delete_of_one_more: "aligned_sized_delete_1_more", certain, [ALL => SIZE];
    aligned_sized_delete_of_one_less: "aligned_sized_delete_1_less", certain, [ALL => SIZE];
    delete_through_a_smaller_base: "through_a_smaller_base", certain, [ONCE => SIZE];
    free_sized_of_one_more: "free_sized_1_more", certain, [ALL => SIZE];
    free_sized_of_one_less: "free_sized_1_less", certain, [ALL => SIZE];
    free_sized_after_realloc: "free_sized_after_realloc", certain, [ALL => SIZE];
    free_aligned_sized_of_one_more: "free_aligned_sized_1_more", certain, [ALL => SIZE];
    free_aligned_sized_of_one_less: "free_aligned_sized_1_less", certain, [ALL => SIZE];
    free_aligned_sized_with_twice_the_alignment: "free_aligned_sized_alignment_128", both, [ALL => ALIGNMENT];
    free_aligned_sized_with_half_the_alignment: "free_aligned_sized_alignment_32", both, [ALL => ALIGNMENT];
    aligned_delete_with_twice_the_alignment: "aligned_delete_alignment_128", both, [ALL => ALIGNMENT];
    aligned_delete_with_half_the_alignment: "aligned_delete_alignment_32", both, [ALL => ALIGNMENT];

    delete_of_an_interior_pointer: "delete_interior", certain, [ROOMY => INVALID];
    delete_of_a_global: "delete_global", certain, [ROOMY => INVALID];
    delete_of_no_address: "delete_nowhere", certain, [ROOMY => INVALID];
    delete_array_of_an_interior_pointer: "delete_array_interior", certain, [ROOMY => INVALID];
    sized_delete_of_an_interior_pointer: "sized_delete_interior", certain, [ROOMY => INVALID];
    free_sized_of_an_interior_pointer: "free_sized_interior", certain, [ROOMY => INVALID];
    delete_twice: "delete_twice", certain, [ALL => TWICE];
    sized_delete_twice: "sized_delete_twice", certain, [ALL => TWICE];
    delete_array_twice: "delete_array_twice", certain, [ALL => TWICE];
    aligned_delete_twice: "aligned_delete_twice", certain, [ALL => TWICE];
    free_sized_twice: "free_sized_twice", certain, [ALL => TWICE];
    free_aligned_sized_twice: "free_aligned_sized_twice", certain, [ALL => TWICE];
}
