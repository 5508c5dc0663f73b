//! One thread-local word, reached without a function call.
//!
//! `thread_local!` in a shared library calls `__tls_get_addr` on every access and registers
//! destructors that allocate. A TLS symbol of our own, read through `@GOTTPOFF` (initial-exec model),
//! costs two loads. Elsewhere than on x86-64 the word is a `pthread` key: slower, same contract.

#[cfg(target_arch = "x86_64")]
mod imp {
    use core::arch::{asm, global_asm};

    // Hidden: each copy of the library in a process has its own word.
    global_asm!(
        ".pushsection .tbss.testudo_thread_word,\"awT\",@nobits",
        ".balign 8",
        ".globl testudo_thread_word",
        ".hidden testudo_thread_word",
        ".type testudo_thread_word, @object",
        ".size testudo_thread_word, 8",
        "testudo_thread_word:",
        ".zero 8",
        ".popsection",
    );

    /// The calling thread's word; zero until it was set.
    #[inline(always)]
    pub(crate) fn get() -> usize {
        let value: usize;
        // SAFETY: reads eight bytes of this thread's own TLS block, at the offset that the linker filled in.
        unsafe {
            asm!(
                "mov {value}, qword ptr [rip + testudo_thread_word@GOTTPOFF]",
                "mov {value}, qword ptr fs:[{value}]",
                value = out(reg) value,
                options(nostack, preserves_flags, readonly),
            );
        }
        value
    }

    /// Sets the calling thread's word.
    #[inline]
    pub(crate) fn set(value: usize) {
        // SAFETY: as in `get`, writing.
        unsafe {
            asm!(
                "mov {offset}, qword ptr [rip + testudo_thread_word@GOTTPOFF]",
                "mov qword ptr fs:[{offset}], {value}",
                offset = out(reg) _,
                value = in(reg) value,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    use core::sync::atomic::{AtomicU32, Ordering};

    /// Key number plus one; zero while there is none.
    static KEY: AtomicU32 = AtomicU32::new(0);

    fn key() -> libc::pthread_key_t {
        let known = KEY.load(Ordering::Acquire);
        if known != 0 {
            return known - 1;
        }
        let mut fresh: libc::pthread_key_t = 0;
        // SAFETY: `fresh` is a valid place; no destructor.
        if unsafe { libc::pthread_key_create(&raw mut fresh, None) } != 0 {
            crate::report::fatal("no thread-local key is left (PTHREAD_KEYS_MAX)");
        }
        match KEY.compare_exchange(0, fresh + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(first) => {
                // SAFETY: the key was made above and nobody else saw it.
                unsafe { libc::pthread_key_delete(fresh) };
                first - 1
            }
        }
    }

    /// The calling thread's word; zero until it was set.
    #[inline]
    pub(crate) fn get() -> usize {
        // SAFETY: the key exists.
        unsafe { libc::pthread_getspecific(key()) }.addr()
    }

    /// Sets the calling thread's word.
    #[inline]
    pub(crate) fn set(value: usize) {
        // SAFETY: the key exists. A failure leaves zero, and the thread works through the shared cache.
        unsafe { libc::pthread_setspecific(key(), core::ptr::without_provenance(value)) };
    }
}

pub(crate) use imp::{get, set};
