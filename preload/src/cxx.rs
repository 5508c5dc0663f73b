//! C++'s `operator new` and `operator delete` in all their forms.
//!
//! `operator new` must call the new handler and throw `std::bad_alloc` when there is no memory. No
//! exception may cross a Rust frame, so the frames that one crosses are assembly with unwind
//! information, and Rust only looks up what to call. The C++ runtime is found at run time: C programs have none, and one
//! process may have several.

use crate::loader::{is_this_library, seen_from};
use crate::replaced::derived;
use core::ffi::{CStr, c_void};
use hardened_heap::c_api::{self, New};

/// Finds a function of the C++ runtime, if the process has one.
///
/// First by the eyes of the module that calls `operator new`: a plug-in (a Python extension in C++, say) brings its runtime
/// with it, in a scope of its own where nobody else would find it, and only that runtime's exceptions are caught there.
fn runtime_function(name: &CStr, caller: *const c_void) -> *mut c_void {
    let found = seen_from(caller, name);
    if !found.is_null() {
        return found;
    }
    // SAFETY: a terminated name.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// The new handler of the program; null when there is none.
extern "C" fn new_handler(caller: *const c_void) -> *mut c_void {
    let get = runtime_function(c"_ZSt15get_new_handlerv", caller);
    if get.is_null() {
        return get;
    }
    // SAFETY: std::get_new_handler takes nothing, returns a function pointer and does not throw.
    unsafe { core::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(get)() }
}

/// A function that throws `std::bad_alloc` when called with the largest number. Without a C++ runtime nobody could catch it: the
/// process ends.
extern "C" fn bad_alloc_thrower(caller: *const c_void) -> *mut c_void {
    let mut throw = runtime_function(c"_ZSt17__throw_bad_allocv", caller);
    if throw.is_null() {
        // A runtime that is linked into a module has only what the module uses. Its own `operator new` is there, and finds no
        // memory of that size.
        throw = runtimes_own(c"_Znwm", caller);
    }
    if throw.is_null() {
        c_api::end_for_want_of_memory();
    }
    throw
}

macro_rules! allocate {
    ($($name:ident => $expression:expr;)*) => {
        $(
            extern "C" fn $name(size: usize, align: usize) -> *mut c_void {
                const ALLOCATE: fn(usize, usize) -> *mut c_void = $expression;
                ALLOCATE(size, align)
            }
        )*
    };
}

allocate! {
    new_single => |size, _| c_api::new(New::Single, size);
    new_array => |size, _| c_api::new(New::Array, size);
    new_aligned_single => |size, align| c_api::new_aligned(New::Single, size, align);
    new_aligned_array => |size, align| c_api::new_aligned(New::Array, size, align);
}

/// `$symbol`: tries `$allocate`; on failure calls the new handler and tries again, until there is no handler: then
/// it throws. The return address, 24 bytes up the stack, tells which module called.
#[cfg(target_arch = "x86_64")]
macro_rules! throwing {
    ($($(#[$attribute:meta])* $symbol:ident => $allocate:ident;)*) => {
        $(
            /// `operator new`, throwing.
            ///
            /// # Safety
            /// Called as the C++ ABI says.
            $(#[$attribute])*
            #[unsafe(naked)]
            pub unsafe extern "C" fn $symbol(size: usize, align: usize) -> *mut c_void {
                core::arch::naked_asm!(
                    ".cfi_startproc",
                    "push rbx",
                    ".cfi_adjust_cfa_offset 8",
                    ".cfi_rel_offset rbx, 0",
                    "push r12",
                    ".cfi_adjust_cfa_offset 8",
                    ".cfi_rel_offset r12, 0",
                    "sub rsp, 8",
                    ".cfi_adjust_cfa_offset 8",
                    "mov rbx, rdi",
                    "mov r12, rsi",
                    "2:",
                    "call {allocate}",
                    "test rax, rax",
                    "jz 3f",
                    "add rsp, 8",
                    ".cfi_remember_state",
                    ".cfi_adjust_cfa_offset -8",
                    "pop r12",
                    ".cfi_adjust_cfa_offset -8",
                    ".cfi_restore r12",
                    "pop rbx",
                    ".cfi_adjust_cfa_offset -8",
                    ".cfi_restore rbx",
                    "ret",
                    ".cfi_restore_state",
                    "3:",
                    "mov rdi, [rsp + 24]",
                    "call {handler}",
                    "test rax, rax",
                    "jz 4f",
                    "call rax",
                    "mov rdi, rbx",
                    "mov rsi, r12",
                    "jmp 2b",
                    "4:",
                    "mov rdi, [rsp + 24]",
                    "call {thrower}",
                    "mov rdi, -1",
                    "call rax",
                    "ud2",
                    ".cfi_endproc",
                    allocate = sym $allocate,
                    handler = sym new_handler,
                    thrower = sym bad_alloc_thrower,
                )
            }
        )*
    };
}

/// Elsewhere a failing `operator new` ends the process.
#[cfg(not(target_arch = "x86_64"))]
macro_rules! throwing {
    ($($(#[$attribute:meta])* $symbol:ident => $allocate:ident;)*) => {
        $(
            /// `operator new`.
            $(#[$attribute])*
            pub extern "C" fn $symbol(size: usize, align: usize) -> *mut c_void {
                let chunk = $allocate(size, align);
                if chunk.is_null() {
                    c_api::end_for_want_of_memory();
                }
                chunk
            }
        )*
    };
}

throwing! {
    #[unsafe(no_mangle)]
    _Znwm => new_single;
    #[unsafe(no_mangle)]
    _ZnwmSt11align_val_t => new_aligned_single;
    array_or_throw => new_array;
    aligned_array_or_throw => new_aligned_array;
}

derived! {
    array: _Znam c"_Znam" (size: usize, align: usize) -> *mut c_void, [NEW] => array_or_throw;
    aligned_array: _ZnamSt11align_val_t c"_ZnamSt11align_val_t" (size: usize, align: usize) -> *mut c_void,
        [ALIGNED_NEW] => aligned_array_or_throw;
}

/// The C++ runtime's own form of an `operator new` that failed here; null when there is none.
///
/// A failing nothrow form still owes the program its new handler, which may throw, and no exception may leave it. The
/// runtime's calls the throwing form, which is ours, and catches what it throws: so it is asked.
fn runtimes_own(name: &CStr, caller: *const c_void) -> *mut c_void {
    let own = seen_from(caller, name);
    // A module that was linked with this library finds ours.
    if !own.is_null() && !is_this_library(own) {
        return own;
    }
    // SAFETY: a terminated name.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

/// `$symbol`: tries `$allocate`; when that fails, the C++ runtime's form of this name has the call in its place.
#[cfg(target_arch = "x86_64")]
macro_rules! nothrow {
    ($($symbol:ident $name:literal, $finds:ident => $allocate:ident;)*) => {
        $(
            extern "C" fn $finds(caller: *const c_void) -> *mut c_void {
                runtimes_own($name, caller)
            }

            /// `operator new`, nothrow.
            ///
            /// # Safety
            /// Called as the C++ ABI says.
            #[unsafe(naked)]
            pub unsafe extern "C" fn $symbol(size: usize, align: usize, nothrow: *const c_void) -> *mut c_void {
                core::arch::naked_asm!(
                    ".cfi_startproc",
                    "push rdi",
                    ".cfi_adjust_cfa_offset 8",
                    "push rsi",
                    ".cfi_adjust_cfa_offset 8",
                    "push rdx",
                    ".cfi_adjust_cfa_offset 8",
                    "call {allocate}",
                    "test rax, rax",
                    "jz 2f",
                    "add rsp, 24",
                    ".cfi_remember_state",
                    ".cfi_adjust_cfa_offset -24",
                    "ret",
                    ".cfi_restore_state",
                    "2:",
                    "mov rdi, [rsp + 24]",
                    "call {finds}",
                    "pop rdx",
                    ".cfi_adjust_cfa_offset -8",
                    "pop rsi",
                    ".cfi_adjust_cfa_offset -8",
                    "pop rdi",
                    ".cfi_adjust_cfa_offset -8",
                    "test rax, rax",
                    "jz 3f",
                    "jmp rax",
                    "3:",
                    "ret",
                    ".cfi_endproc",
                    allocate = sym $allocate,
                    finds = sym $finds,
                )
            }
        )*
    };
}

/// Elsewhere it is NULL, and the new handler is not called.
#[cfg(not(target_arch = "x86_64"))]
macro_rules! nothrow {
    ($($symbol:ident $name:literal, $finds:ident => $allocate:ident;)*) => {
        $(
            /// `operator new`, nothrow.
            pub extern "C" fn $symbol(size: usize, align: usize, _nothrow: *const c_void) -> *mut c_void {
                $allocate(size, align)
            }
        )*
    };
}

nothrow! {
    single_or_null c"_ZnwmRKSt9nothrow_t", runtimes_single => new_single;
    array_or_null c"_ZnamRKSt9nothrow_t", runtimes_array => new_array;
    aligned_single_or_null c"_ZnwmSt11align_val_tRKSt9nothrow_t", runtimes_aligned_single => new_aligned_single;
    aligned_array_or_null c"_ZnamSt11align_val_tRKSt9nothrow_t", runtimes_aligned_array => new_aligned_array;
}

derived! {
    nothrow: _ZnwmRKSt9nothrow_t c"_ZnwmRKSt9nothrow_t" (size: usize, align: usize, nothrow: *const c_void) -> *mut c_void,
        [NEW] => single_or_null;
    nothrow_array: _ZnamRKSt9nothrow_t c"_ZnamRKSt9nothrow_t" (size: usize, align: usize, nothrow: *const c_void) -> *mut c_void,
        [NEW_ARRAY NEW] => array_or_null;
    nothrow_aligned: _ZnwmSt11align_val_tRKSt9nothrow_t c"_ZnwmSt11align_val_tRKSt9nothrow_t"
        (size: usize, align: usize, nothrow: *const c_void) -> *mut c_void,
        [ALIGNED_NEW] => aligned_single_or_null;
    nothrow_aligned_array: _ZnamSt11align_val_tRKSt9nothrow_t c"_ZnamSt11align_val_tRKSt9nothrow_t"
        (size: usize, align: usize, nothrow: *const c_void) -> *mut c_void,
        [ALIGNED_NEW_ARRAY ALIGNED_NEW] => aligned_array_or_null;
}

macro_rules! delete {
    ($($(#[$attribute:meta])* $symbol:ident($chunk:ident $(, $argument:ident: $type:ty)*) => $body:expr;)*) => {
        $(
            /// `operator delete`.
            $(#[$attribute])*
            pub extern "C" fn $symbol($chunk: *mut c_void $(, $argument: $type)*) {
                $body;
            }
        )*
    };
}

delete! {
    #[unsafe(no_mangle)]
    _ZdlPv(chunk) => c_api::delete(New::Single, chunk);
    #[unsafe(no_mangle)]
    _ZdlPvSt11align_val_t(chunk, align: usize) => c_api::delete_aligned(New::Single, chunk, None, align);
    delete_array(chunk) => c_api::delete(New::Array, chunk);
    delete_sized(chunk, size: usize) => c_api::delete_sized(New::Single, chunk, size);
    delete_sized_array(chunk, size: usize) => c_api::delete_sized(New::Array, chunk, size);
    delete_nothrow(chunk, _nothrow: *const c_void) => c_api::delete(New::Single, chunk);
    delete_nothrow_array(chunk, _nothrow: *const c_void) => c_api::delete(New::Array, chunk);
    delete_nothrow_aligned(chunk, align: usize, _nothrow: *const c_void) => c_api::delete_aligned(New::Single, chunk, None, align);
    delete_nothrow_aligned_array(chunk, align: usize, _nothrow: *const c_void) => c_api::delete_aligned(New::Array, chunk, None, align);
    delete_aligned_array(chunk, align: usize) => c_api::delete_aligned(New::Array, chunk, None, align);
    delete_sized_aligned(chunk, size: usize, align: usize) => c_api::delete_aligned(New::Single, chunk, Some(size), align);
    delete_sized_aligned_array(chunk, size: usize, align: usize) => c_api::delete_aligned(New::Array, chunk, Some(size), align);
}

derived! {
    of_array: _ZdaPv c"_ZdaPv" (chunk: *mut c_void), [DELETE] => delete_array;
    sized: _ZdlPvm c"_ZdlPvm" (chunk: *mut c_void, size: usize), [DELETE] => delete_sized;
    sized_of_array: _ZdaPvm c"_ZdaPvm" (chunk: *mut c_void, size: usize), [DELETE_ARRAY DELETE] => delete_sized_array;
    of_nothrow: _ZdlPvRKSt9nothrow_t c"_ZdlPvRKSt9nothrow_t" (chunk: *mut c_void, nothrow: *const c_void), [DELETE] => delete_nothrow;
    of_nothrow_array: _ZdaPvRKSt9nothrow_t c"_ZdaPvRKSt9nothrow_t" (chunk: *mut c_void, nothrow: *const c_void),
        [DELETE_ARRAY DELETE] => delete_nothrow_array;
    of_aligned_array: _ZdaPvSt11align_val_t c"_ZdaPvSt11align_val_t" (chunk: *mut c_void, align: usize),
        [ALIGNED_DELETE] => delete_aligned_array;
    sized_of_aligned: _ZdlPvmSt11align_val_t c"_ZdlPvmSt11align_val_t" (chunk: *mut c_void, size: usize, align: usize),
        [ALIGNED_DELETE] => delete_sized_aligned;
    sized_of_aligned_array: _ZdaPvmSt11align_val_t c"_ZdaPvmSt11align_val_t" (chunk: *mut c_void, size: usize, align: usize),
        [ALIGNED_DELETE_ARRAY ALIGNED_DELETE] => delete_sized_aligned_array;
    of_nothrow_aligned: _ZdlPvSt11align_val_tRKSt9nothrow_t c"_ZdlPvSt11align_val_tRKSt9nothrow_t"
        (chunk: *mut c_void, align: usize, nothrow: *const c_void),
        [ALIGNED_DELETE] => delete_nothrow_aligned;
    of_nothrow_aligned_array: _ZdaPvSt11align_val_tRKSt9nothrow_t c"_ZdaPvSt11align_val_tRKSt9nothrow_t"
        (chunk: *mut c_void, align: usize, nothrow: *const c_void),
        [ALIGNED_DELETE_ARRAY ALIGNED_DELETE] => delete_nothrow_aligned_array;
}
