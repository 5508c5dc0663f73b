//! Operators that the program itself replaces.
//!
//! C++ lets a program replace some of the operators only, mostly plain `new` and `delete`; the others then have to go by way of those: sized
//! `delete` calls `delete`, `new[]` calls `new`, the nothrow form the throwing one. Here they do not, for speed; and this library comes
//! before the C++ runtime, whose do. So where one is replaced, the runtime's form of those that depend on it has the call.

use crate::loader::own_code;
use core::ffi::{CStr, c_void};
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// An operator that others go by way of, as a bit.
#[derive(Clone, Copy)]
pub struct Base {
    bit: u8,
    name: &'static CStr,
}

pub const NEW: Base = Base { bit: 1, name: c"_Znwm" };
pub const NEW_ARRAY: Base = Base { bit: 1 << 1, name: c"_Znam" };
pub const DELETE: Base = Base { bit: 1 << 2, name: c"_ZdlPv" };
pub const DELETE_ARRAY: Base = Base { bit: 1 << 3, name: c"_ZdaPv" };
pub const ALIGNED_NEW: Base = Base { bit: 1 << 4, name: c"_ZnwmSt11align_val_t" };
pub const ALIGNED_NEW_ARRAY: Base = Base { bit: 1 << 5, name: c"_ZnamSt11align_val_t" };
pub const ALIGNED_DELETE: Base = Base { bit: 1 << 6, name: c"_ZdlPvSt11align_val_t" };
pub const ALIGNED_DELETE_ARRAY: Base = Base { bit: 1 << 7, name: c"_ZdaPvSt11align_val_t" };

const BASES: [Base; 8] =
    [NEW, NEW_ARRAY, DELETE, DELETE_ARRAY, ALIGNED_NEW, ALIGNED_NEW_ARRAY, ALIGNED_DELETE, ALIGNED_DELETE_ARRAY];

/// Which of them the program replaces, and whether that is known.
static REPLACED: AtomicU8 = AtomicU8::new(0);
static LOOKED_FOR: AtomicU8 = AtomicU8::new(0);

/// Finds out which operators the program replaces, before it runs: later the loader's lock may be held by a thread that waits for this one,
/// where a plug-in starts threads while it is loaded. Constructors of libraries that come before this one's ask themselves.
pub fn look_for_replaced() {
    let own_code = own_code();
    let replaced = BASES.iter().filter(|base| is_replaced(base.name, &own_code)).fold(0, |bits, base| bits | base.bit);
    REPLACED.store(replaced, Ordering::Relaxed);
    LOOKED_FOR.store(1, Ordering::Release);
}

/// An operator of the C++ runtime that is called in place of this library's; null when there is none.
#[repr(transparent)]
pub struct Forward(AtomicPtr<c_void>);

/// Not looked for yet.
const UNKNOWN: *mut c_void = ptr::without_provenance_mut(1);

impl Forward {
    pub const fn new() -> Self {
        Self(AtomicPtr::new(UNKNOWN))
    }

    /// The runtime's operator of this name, where the program replaces one of `bases`.
    #[cold]
    pub fn find(&self, name: &CStr, bases: &[Base]) -> *mut c_void {
        let known = self.0.load(Ordering::Relaxed);
        if known != UNKNOWN {
            return known;
        }
        if LOOKED_FOR.load(Ordering::Acquire) == 0 {
            look_for_replaced();
        }
        let replaced = REPLACED.load(Ordering::Relaxed);
        let found = if bases.iter().any(|base| replaced & base.bit != 0) { next(name) } else { ptr::null_mut() };
        self.0.store(found, Ordering::Relaxed);
        found
    }
}

/// Whether the first operator of this name in the process is neither this library's nor that which comes behind it.
fn is_replaced(name: &CStr, own_code: &Range<usize>) -> bool {
    // SAFETY: a terminated name.
    let first = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    !first.is_null() && !own_code.contains(&first.addr()) && first != next(name)
}

fn next(name: &CStr) -> *mut c_void {
    // SAFETY: a terminated name.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

/// `$symbol`: `$own`, unless the program replaces one of the operators that it is to go by way of.
#[cfg(target_arch = "x86_64")]
macro_rules! derived {
    ($($module:ident: $symbol:ident $name:literal ($($argument:ident: $type:ty),*) $(-> $result:ty)?, [$($base:ident)+] => $own:path;)*) => {
        $(
            mod $module {
                pub static FORWARD: crate::replaced::Forward = crate::replaced::Forward::new();

                pub extern "C" fn find() -> *mut core::ffi::c_void {
                    FORWARD.find($name, &[$(crate::replaced::$base),+])
                }
            }

            /// An operator that goes by way of another one, where that is replaced. Jumps only: whoever looks at the return address sees
            /// the caller's, and exceptions pass.
            ///
            /// # Safety
            /// Called as the C++ ABI says.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            pub unsafe extern "C" fn $symbol($($argument: $type),*) $(-> $result)? {
                core::arch::naked_asm!(
                    ".cfi_startproc",
                    "cmp qword ptr [rip + {forward}], 0",
                    "jne 2f",
                    "jmp {own}",
                    "2:",
                    "push rdi",
                    ".cfi_adjust_cfa_offset 8",
                    "push rsi",
                    ".cfi_adjust_cfa_offset 8",
                    "push rdx",
                    ".cfi_adjust_cfa_offset 8",
                    "call {find}",
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
                    "jmp {own}",
                    ".cfi_endproc",
                    forward = sym $module::FORWARD,
                    find = sym $module::find,
                    own = sym $own,
                )
            }
        )*
    };
}

/// The same as a call.
#[cfg(not(target_arch = "x86_64"))]
macro_rules! derived {
    ($($module:ident: $symbol:ident $name:literal ($($argument:ident: $type:ty),*) $(-> $result:ty)?, [$($base:ident)+] => $own:path;)*) => {
        $(
            /// An operator that goes by way of another one, where that is replaced.
            ///
            /// # Safety
            /// Called as the C++ ABI says.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $symbol($($argument: $type),*) $(-> $result)? {
                static FORWARD: crate::replaced::Forward = crate::replaced::Forward::new();
                let forward = FORWARD.find($name, &[$(crate::replaced::$base),+]);
                if forward.is_null() {
                    return $own($($argument),*);
                }
                // SAFETY: the C++ runtime's function of this name, which has these arguments.
                unsafe {
                    core::mem::transmute::<*mut c_void, extern "C" fn($($type),*) $(-> $result)?>(forward)($($argument),*)
                }
            }
        )*
    };
}

pub(crate) use derived;
