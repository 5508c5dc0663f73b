//! `libtestudo.so`: the C and C++ allocation symbols, for `LD_PRELOAD` or for linking.
//!
//! Each symbol is one call into [`hardened_heap::c_api`], but for operators of C++ that go by way of one that the program replaces. Besides
//! them only `dlopen` is exported, for the sake of modules that would go past them.
//!
//! The library has no part of std in it, and so needs no libgcc_s, which a small program would wait for at every start. Only
//! where cargo builds it for tests, with unwinding panics, std is there to handle them.
#![cfg_attr(panic = "abort", no_std)]

mod cxx;
mod deep_binding;
mod extensions;
mod introspection;
mod loader;
mod other_names;
mod replaced;

use core::ffi::c_void;
use hardened_heap::c_api;

// The crate `libc` leaves this to std when a package of the same build asks it for its feature `std`, and the library then
// has functions that no loader finds: `cargo build --workspace` made such a one.
#[link(name = "c")]
unsafe extern "C" {}

/// There are no panics in the allocator: this is for the compiler.
#[cfg(panic = "abort")]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

/// Some programs allocate late or never: a wrong option must end them before they have done anything. The heap itself is made at
/// the first allocation, so that signal handlers that the program installed before are called after this library's.
extern "C" fn at_load() {
    if loader::is_the_allocator() {
        c_api::check_options();
        replaced::look_for_replaced();
    }
}

#[used]
// SAFETY: the section holds pointers to functions that are called without arguments they need.
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

/// See malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    c_api::malloc(size)
}

/// See malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn free(chunk: *mut c_void) {
    c_api::free(chunk);
}

/// See malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    c_api::calloc(count, size)
}

/// See malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn realloc(chunk: *mut c_void, size: usize) -> *mut c_void {
    c_api::realloc(chunk, size)
}

/// See malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn reallocarray(chunk: *mut c_void, count: usize, size: usize) -> *mut c_void {
    c_api::reallocarray(chunk, count, size)
}

/// See posix_memalign(3).
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    c_api::memalign(align, size)
}

/// See posix_memalign(3).
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    c_api::aligned_alloc(align, size)
}

/// See posix_memalign(3).
///
/// # Safety
/// `place` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { c_api::posix_memalign(place, align, size) }
}

/// See posix_memalign(3).
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    c_api::valloc(size)
}

/// See posix_memalign(3).
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    c_api::pvalloc(size)
}

/// See malloc_usable_size(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc_usable_size(chunk: *mut c_void) -> usize {
    c_api::usable_size(chunk)
}

/// C23, 7.24.3.4.
#[unsafe(no_mangle)]
pub extern "C" fn free_sized(chunk: *mut c_void, size: usize) {
    c_api::free_sized(chunk, size);
}

/// C23, 7.24.3.5.
#[unsafe(no_mangle)]
pub extern "C" fn free_aligned_sized(chunk: *mut c_void, align: usize, size: usize) {
    c_api::free_aligned_sized(chunk, align, size);
}
