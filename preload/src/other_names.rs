//! The C library's other names for its functions. Programs that wrap `malloc` call the original by them, and old ones free by `cfree`; were
//! they the C library's, each would meet chunks of the other allocator.

use core::ffi::c_void;
use hardened_heap::c_api;

macro_rules! names {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? = $function:ident;)*) => {
        $(
            /// The C library's other name of a function.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($argument: $type),*) $(-> $result)? {
                c_api::$function($($argument),*)
            }
        )*
    };
}

names! {
    cfree(chunk: *mut c_void) = free;
    __libc_malloc(size: usize) -> *mut c_void = malloc;
    __libc_free(chunk: *mut c_void) = free;
    __libc_calloc(count: usize, size: usize) -> *mut c_void = calloc;
    __libc_realloc(chunk: *mut c_void, size: usize) -> *mut c_void = realloc;
    __libc_memalign(align: usize, size: usize) -> *mut c_void = memalign;
    __libc_valloc(size: usize) -> *mut c_void = valloc;
    __libc_pvalloc(size: usize) -> *mut c_void = pvalloc;
}
