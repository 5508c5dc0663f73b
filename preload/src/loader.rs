//! What the loader knows: which module an address lies in, and functions as another module sees them.

use core::ffi::{CStr, c_char, c_void};
use core::ops::Range;
use core::ptr;

/// The beginning of the loader's `struct link_map`.
#[repr(C)]
struct LinkMap {
    displacement: usize,
    name: *const c_char,
    /// The module's table for the loader, which lies behind all code.
    dynamic: usize,
}

/// The module that an address lies in.
fn module_of(address: *const c_void) -> Option<&'static LinkMap> {
    const RTLD_DL_LINKMAP: i32 = 2;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    let mut module = ptr::null_mut();
    // SAFETY: valid places; any address may be asked for. The module stays loaded: its code is running, or is this library's.
    unsafe {
        if libc::dladdr1(address, &raw mut info, &raw mut module, RTLD_DL_LINKMAP) == 0 {
            return None;
        }
        module.cast::<LinkMap>().cast_const().as_ref()
    }
}

/// The function of this name that the module with this code, or one that it was linked with, has; null when there is none.
pub fn seen_from(caller: *const c_void, name: &CStr) -> *mut c_void {
    let Some(module) = module_of(caller) else { return ptr::null_mut() };
    // SAFETY: the loader's own terminated name of the module.
    if module.name.is_null() || unsafe { *module.name } == 0 {
        // The program, and all that it was linked with, are found by everybody.
        return ptr::null_mut();
    }
    // SAFETY: as above. The loader knows it by this name without looking at files.
    let handle = unsafe { libc::dlopen(module.name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return handle;
    }
    // SAFETY: a valid handle and a terminated name. The module stays loaded when the handle is given back: its code is running.
    unsafe {
        let found = libc::dlsym(handle, name.as_ptr());
        libc::dlclose(handle);
        found
    }
}

/// Whether an address lies in this library.
pub fn is_this_library(address: *const c_void) -> bool {
    let own = module_of(is_this_library as *const c_void).map(ptr::from_ref);
    module_of(address).map(ptr::from_ref) == own
}

/// Where this library's code lies. One question to the loader for any number of functions that may be this library's.
pub fn own_code() -> Range<usize> {
    module_of(own_code as *const c_void).map_or(0..0, |own| own.displacement..own.dynamic)
}

/// Whether this library is the allocator of the process. The `testudo` command, for one, only loads it to look at it.
pub fn is_the_allocator() -> bool {
    // SAFETY: a terminated name.
    is_this_library(unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr()) })
}
