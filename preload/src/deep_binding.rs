//! `dlopen` without `RTLD_DEEPBIND`.
//!
//! A module that is opened with that flag takes functions from the libraries that it was linked with before those that the
//! program and `LD_PRELOAD` put in their place: so also `malloc` and `free`, from the C library. What it allocates has none of this
//! library's protection, and a chunk that it gives to the program, or gets from it, is given back to the wrong one of two allocators,
//! which ends the process. All of PHP's extensions are opened so. Without the flag a module is bound like any other;
//! `deepbind=1` leaves it.
//!
//! Only on x86-64: the C library looks for the module where its caller's `RUNPATH` says, and knows the caller by the return address.
//! So this must be a jump.
#![cfg(target_arch = "x86_64")]

use crate::loader;
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use hardened_heap::c_api;

/// The C library's `dlopen`; null until the first call.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// The flags that are left; valid once [`NEXT`] is there.
static FLAGS: AtomicI32 = AtomicI32::new(!0);

/// See dlopen(3).
///
/// # Safety
/// As there.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void {
    // `file` is in rdi, `flags` in esi. Both, and the alignment of the stack, are as they were when the jump is taken.
    core::arch::naked_asm!(
        "mov rax, [rip + {next}]",
        "test rax, rax",
        "jz 2f",
        "3:",
        "and esi, [rip + {flags}]",
        "jmp rax",
        "2:",
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {find}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jnz 3b",
        "ret",
        next = sym NEXT,
        flags = sym FLAGS,
        find = sym find,
    )
}

/// Finds the C library's function, and what is to be done about flags.
extern "C" fn find() -> *mut c_void {
    if loader::is_the_allocator() && !c_api::leaves_deepbind() {
        FLAGS.store(!libc::RTLD_DEEPBIND, Ordering::Relaxed);
    }
    // SAFETY: a terminated name.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr()) };
    NEXT.store(next, Ordering::Release);
    next
}
