//! A pointer to no bytes cannot be read or written through.

mod support;

use support::attack::{Must, claims};

const ONCE: &[usize] = &[0];

claims! { of "zero_size.cpp";
    read_of_malloc: "malloc_read", certain, [ONCE => Must::Fault];
    write_to_malloc: "malloc_write", certain, [ONCE => Must::Fault];
    write_behind_malloc: "malloc_write_behind", certain, [ONCE => Must::Fault];
    read_of_calloc: "calloc_read", certain, [ONCE => Must::Fault];
    write_to_calloc: "calloc_write", certain, [ONCE => Must::Fault];
    read_of_realloc: "realloc_read", certain, [ONCE => Must::Fault];
    write_to_realloc: "realloc_write", certain, [ONCE => Must::Fault];
    read_of_aligned_alloc: "aligned_alloc_read", certain, [ONCE => Must::Fault];
    write_to_aligned_alloc: "aligned_alloc_write", certain, [ONCE => Must::Fault];
    read_of_posix_memalign: "posix_memalign_read", certain, [ONCE => Must::Fault];
    write_to_posix_memalign: "posix_memalign_write", certain, [ONCE => Must::Fault];
    read_of_new: "new_read", certain, [ONCE => Must::Fault];
    write_to_new: "new_write", certain, [ONCE => Must::Fault];
    write_behind_new: "new_write_behind", certain, [ONCE => Must::Fault];
    read_of_new_array: "new_array_read", certain, [ONCE => Must::Fault];
    write_to_new_array: "new_array_write", certain, [ONCE => Must::Fault];
    read_of_aligned_new: "aligned_new_read", certain, [ONCE => Must::Fault];
    write_to_aligned_new: "aligned_new_write", certain, [ONCE => Must::Fault];
    read_of_reallocarray: "reallocarray_read", certain, [ONCE => Must::Fault];
    write_to_reallocarray: "reallocarray_write", certain, [ONCE => Must::Fault];
}
