//! C++'s `operator new` and `operator delete` in all their forms.
//!
//! `operator new` must call the new handler and throw `std::bad_alloc` when there is no memory. No
//! exception may cross a Rust frame, so the frames that one crosses are assembly with unwind
//! information, and Rust only looks up what to call. libstdc++ is found at run time: C programs have none.

use core::ffi::{CStr, c_void};
use hardened_heap::c_api::{self, New};

/// Finds a function of the C++ runtime, if the process has one.
fn runtime_function(name: &CStr) -> *mut c_void {
    // SAFETY: a terminated name.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// The new handler of the program; null when there is none.
extern "C" fn new_handler() -> *mut c_void {
    let get = runtime_function(c"_ZSt15get_new_handlerv");
    if get.is_null() {
        return get;
    }
    // SAFETY: std::get_new_handler takes nothing, returns a function pointer and does not throw.
    unsafe { core::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(get)() }
}

/// The function that throws `std::bad_alloc`. Without a C++ runtime nobody could catch it: the process ends.
extern "C" fn bad_alloc_thrower() -> *mut c_void {
    let throw = runtime_function(c"_ZSt17__throw_bad_allocv");
    if throw.is_null() {
        const LINE: &[u8] = b"testudo: operator new failed and there is no C++ runtime to throw std::bad_alloc\n";
        // SAFETY: a valid buffer; abort does not return.
        unsafe {
            libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
            libc::abort();
        }
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
/// it throws.
#[cfg(target_arch = "x86_64")]
macro_rules! throwing {
    ($($symbol:ident => $allocate:ident;)*) => {
        $(
            /// `operator new`, throwing.
            ///
            /// # Safety
            /// Called as the C++ ABI says.
            #[unsafe(no_mangle)]
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
                    "call {handler}",
                    "test rax, rax",
                    "jz 4f",
                    "call rax",
                    "mov rdi, rbx",
                    "mov rsi, r12",
                    "jmp 2b",
                    "4:",
                    "call {thrower}",
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
    ($($symbol:ident => $allocate:ident;)*) => {
        $(
            /// `operator new`.
            #[unsafe(no_mangle)]
            pub extern "C" fn $symbol(size: usize, align: usize) -> *mut c_void {
                let chunk = $allocate(size, align);
                if chunk.is_null() {
                    const LINE: &[u8] = b"testudo: operator new failed\n";
                    // SAFETY: a valid buffer; abort does not return.
                    unsafe {
                        libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
                        libc::abort();
                    }
                }
                chunk
            }
        )*
    };
}

throwing! {
    _Znwm => new_single;
    _Znam => new_array;
    _ZnwmSt11align_val_t => new_aligned_single;
    _ZnamSt11align_val_t => new_aligned_array;
}

/// A failing nothrow form still owes the program its new handler, which may throw, and no exception may leave it. The C++
/// runtime's own nothrow form calls the throwing one, which is ours, and catches what it throws: so it is asked.
/// The second of two tokens: names the type of an argument that may be there.
macro_rules! with_type {
    ($name:ident $type:ty) => {
        $type
    };
}

macro_rules! nothrow {
    ($($symbol:ident($($align:ident: usize)?) => $expression:expr;)*) => {
        $(
            /// `operator new`, nothrow.
            #[unsafe(no_mangle)]
            pub extern "C" fn $symbol(size: usize, $($align: usize,)? _nothrow: *const c_void) -> *mut c_void {
                const ALLOCATE: fn(usize, usize) -> *mut c_void = $expression;
                let chunk = ALLOCATE(size, 0 $(+ $align)?);
                if !chunk.is_null() {
                    return chunk;
                }
                const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($symbol), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                };
                // SAFETY: a terminated name.
                let next = unsafe { libc::dlsym(libc::RTLD_NEXT, NAME.as_ptr()) };
                if next.is_null() {
                    return next;
                }
                // SAFETY: the C++ runtime's function of this name has this type, and does not throw.
                unsafe {
                    core::mem::transmute::<
                        *mut c_void,
                        extern "C" fn(usize, $(with_type!($align usize),)? *const c_void) -> *mut c_void,
                    >(next)(size, $($align,)? _nothrow)
                }
            }
        )*
    };
}

nothrow! {
    _ZnwmRKSt9nothrow_t() => |size, _| c_api::new(New::Single, size);
    _ZnamRKSt9nothrow_t() => |size, _| c_api::new(New::Array, size);
    _ZnwmSt11align_val_tRKSt9nothrow_t(align: usize) => |size, align| c_api::new_aligned(New::Single, size, align);
    _ZnamSt11align_val_tRKSt9nothrow_t(align: usize) => |size, align| c_api::new_aligned(New::Array, size, align);
}

macro_rules! delete {
    ($($symbol:ident($chunk:ident $(, $argument:ident: $type:ty)*) => $body:expr;)*) => {
        $(
            /// `operator delete`.
            #[unsafe(no_mangle)]
            pub extern "C" fn $symbol($chunk: *mut c_void $(, $argument: $type)*) {
                $body;
            }
        )*
    };
}

delete! {
    _ZdlPv(chunk) => c_api::delete(New::Single, chunk);
    _ZdaPv(chunk) => c_api::delete(New::Array, chunk);
    _ZdlPvm(chunk, size: usize) => c_api::delete_sized(New::Single, chunk, size);
    _ZdaPvm(chunk, size: usize) => c_api::delete_sized(New::Array, chunk, size);
    _ZdlPvRKSt9nothrow_t(chunk, _nothrow: *const c_void) => c_api::delete(New::Single, chunk);
    _ZdaPvRKSt9nothrow_t(chunk, _nothrow: *const c_void) => c_api::delete(New::Array, chunk);
    _ZdlPvSt11align_val_t(chunk, align: usize) => c_api::delete_aligned(New::Single, chunk, None, align);
    _ZdaPvSt11align_val_t(chunk, align: usize) => c_api::delete_aligned(New::Array, chunk, None, align);
    _ZdlPvmSt11align_val_t(chunk, size: usize, align: usize) => c_api::delete_aligned(New::Single, chunk, Some(size), align);
    _ZdaPvmSt11align_val_t(chunk, size: usize, align: usize) => c_api::delete_aligned(New::Array, chunk, Some(size), align);
    _ZdlPvSt11align_val_tRKSt9nothrow_t(chunk, align: usize, _nothrow: *const c_void) => c_api::delete_aligned(New::Single, chunk, None, align);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(chunk, align: usize, _nothrow: *const c_void) => c_api::delete_aligned(New::Array, chunk, None, align);
}
