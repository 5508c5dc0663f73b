//! The C library's functions.

use crate::cache;
use crate::size_class::MIN_ALIGN;
use crate::slots::region_of;
use core::ffi::c_void;
use core::ptr::{null_mut, with_exposed_provenance_mut};

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_free(chunk: *mut c_void);
    fn __libc_realloc(chunk: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    match cache::allocate(size) {
        Some(chunk) => with_exposed_provenance_mut(chunk),
        // SAFETY: the C library's own malloc.
        None => unsafe { __libc_malloc(size) },
    }
}

#[unsafe(no_mangle)]
extern "C" fn free(chunk: *mut c_void) {
    match region_of(chunk.addr()) {
        Some((class, _)) => cache::free(class, chunk.expose_provenance()),
        // SAFETY: all chunks outside of the arena are the C library's.
        None => unsafe { __libc_free(chunk) },
    }
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size).and_then(cache::allocate) {
        // Slots are zero.
        Some(chunk) => with_exposed_provenance_mut(chunk),
        // SAFETY: the C library's own calloc.
        None => unsafe { __libc_calloc(count, size) },
    }
}

#[unsafe(no_mangle)]
extern "C" fn realloc(chunk: *mut c_void, size: usize) -> *mut c_void {
    if chunk.is_null() {
        return malloc(size);
    }
    if region_of(chunk.addr()).is_none() {
        // SAFETY: as in `free`. A chunk of the C library's stays one.
        return unsafe { __libc_realloc(chunk, size) };
    }
    let moved = malloc(size);
    if !moved.is_null() {
        let bytes = cache::size(chunk.addr()).min(size);
        // SAFETY: both chunks have so many bytes, and the new one is another.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(chunk.cast(), bytes) };
        free(chunk);
    }
    moved
}

#[unsafe(no_mangle)]
extern "C" fn reallocarray(chunk: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => realloc(chunk, bytes),
        None => null_mut(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
    if alignment <= MIN_ALIGN {
        return malloc(size);
    }
    // SAFETY: the C library's own.
    unsafe { __libc_memalign(alignment, size) }
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    memalign(alignment, size)
}

#[unsafe(no_mangle)]
extern "C" fn posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> i32 {
    let chunk = memalign(alignment, size);
    if chunk.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *place = chunk };
    0
}

#[unsafe(no_mangle)]
extern "C" fn malloc_usable_size(chunk: *mut c_void) -> usize {
    if chunk.is_null() {
        return 0;
    }
    if region_of(chunk.addr()).is_some() {
        return cache::size(chunk.addr());
    }
    // SAFETY: the C library keeps the size of a chunk, with three flags, in the word in front of it.
    let word = unsafe { *chunk.cast::<usize>().sub(1) };
    // A chunk with a mapping of its own (the second flag) cannot use the next one's first word.
    (word & !7) - if word & 2 == 0 { 8 } else { 16 }
}
