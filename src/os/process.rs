//! `errno`, thread, program and CPU questions, the raw write to standard error, and the way out.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

/// Restores the calling thread's `errno` when dropped.
pub(crate) struct Errno(i32);

impl Errno {
    /// Remembers `errno` until the value is dropped.
    pub(crate) fn keep() -> Self {
        // SAFETY: glibc's location of the calling thread's errno is always valid.
        Self(unsafe { *libc::__errno_location() })
    }

    /// Reads `errno`.
    pub(crate) fn get() -> i32 {
        // SAFETY: as in `keep`.
        unsafe { *libc::__errno_location() }
    }

    /// Sets `errno`.
    pub(crate) fn set(value: i32) {
        // SAFETY: as in `keep`.
        unsafe { *libc::__errno_location() = value }
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        Self::set(self.0);
    }
}

/// The kernel's number of the calling thread.
pub(crate) fn thread_number() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() }
}

/// The process number.
pub(crate) fn process_number() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getpid() }
}

/// The program's name; zero bytes until `note_program` has run.
static PROGRAM: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Remembers the program's name, for reports: a process that a report speaks of is gone when somebody reads it, and its number
/// tells nothing. Asked at start, because later the calling thread may have a name of its own, or a sandbox that ends who asks.
pub(crate) fn note_program() {
    let _errno = Errno::keep();
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, the last of them zero.
    if unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) } == 0 {
        let (first, second) = name.split_at(8);
        for (place, part) in PROGRAM.iter().zip([first, second]) {
            place.store(part.try_into().map_or(0, u64::from_ne_bytes), Ordering::Relaxed);
        }
    }
}

/// The program's name, up to 15 bytes as the kernel has it: of a script its own, not its interpreter's.
#[derive(Clone, Copy)]
pub(crate) struct Program([u8; 16]);

impl Program {
    /// The name of this process's program; empty when it is not known.
    pub(crate) fn of_this_process() -> Self {
        let mut name = [0; 16];
        for (out, part) in name.chunks_exact_mut(8).zip(&PROGRAM) {
            out.copy_from_slice(&part.load(Ordering::Relaxed).to_ne_bytes());
        }
        Self(name)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0[0] == 0
    }
}

/// What is no plain letter is a question mark: whoever names a file must not write to the terminal of whoever reads reports.
impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take_while(|&&byte| byte != 0) {
            out.write_char(if byte == b' ' || byte.is_ascii_graphic() { char::from(byte) } else { '?' })?;
        }
        Ok(())
    }
}

/// The mode of the kernel's sandbox (seccomp) that the thread runs in: 0 is none; negative where that must not be asked.
pub(crate) fn sandbox() -> i32 {
    let _errno = Errno::keep();
    // SAFETY: only asks.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }
}

/// Milliseconds of a clock that never goes back; a few milliseconds coarse, no system call.
pub(crate) fn milliseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write to. A failure leaves zero.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1000 + time.tv_nsec.cast_unsigned() / 1_000_000
}

/// Seconds since 1970, for reports.
pub(crate) fn seconds_since_1970() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write to. A failure leaves zero.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    time.tv_sec
}

/// Gives the rest of the time slice away.
pub(crate) fn yield_now() {
    #[cfg(test)]
    super::interference::waiting();
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}

/// The set of one signal: that of a write whose reader has gone.
fn broken_pipe() -> libc::sigset_t {
    // SAFETY: a plain structure, filled in by the calls.
    unsafe {
        let mut set = core::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        set
    }
}

/// Writes to a descriptor, never waiting for a reader: a full pipe drops the rest, because a process
/// that must die may not hang on its own obituary.
///
/// Only for a process that is about to end: SIGPIPE stays blocked, because the signal of a reader that has gone must
/// not take the place of the one that says why. Returns the error number of what kept the rest from being written.
pub(crate) fn write_all(descriptor: i32, bytes: &[u8]) -> Option<i32> {
    let _errno = Errno::keep();
    let pipe = broken_pipe();
    // SAFETY: a valid signal set; the mask is this thread's own.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, core::ptr::null_mut()) };
    write_without_waiting(descriptor, bytes)
}

/// The same in a process that goes on, which a reader that has gone must not end: nothing of the SIGPIPE is left, neither
/// blocked nor pending.
pub(crate) fn write_and_go_on(descriptor: i32, bytes: &[u8]) {
    const SET_BYTES: usize = size_of::<u64>();
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let _errno = Errno::keep();
    let pipe = broken_pipe();
    // SAFETY: valid signal sets; the mask is this thread's own, and so is the signal of its own write.
    unsafe {
        let mut before = core::mem::zeroed();
        let mut pending = core::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, &raw mut before);
        libc::sigpending(&raw mut pending);
        write_without_waiting(descriptor, bytes);
        // One that was pending before is the program's.
        if libc::sigismember(&raw const pending, libc::SIGPIPE) == 0 {
            let nothing = core::ptr::null_mut::<libc::siginfo_t>();
            libc::syscall(libc::SYS_rt_sigtimedwait, &raw const pipe, nothing, &raw const at_once, SET_BYTES);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, core::ptr::null_mut());
    }
}

/// Writes what the reader takes. By bare system calls: glibc's own would end a thread that has been cancelled here, in the
/// middle of its report, and the process would live on.
fn write_without_waiting(descriptor: i32, mut bytes: &[u8]) -> Option<i32> {
    while !bytes.is_empty() {
        if let Some(error) = takes_no_more(descriptor) {
            return Some(error);
        }
        // A pipe that polls writable takes at least 512 bytes (PIPE_BUF) without waiting.
        let part = bytes.len().min(512);
        // SAFETY: the buffer is valid for `part` bytes.
        let written = unsafe { libc::syscall(libc::SYS_write, descriptor, bytes.as_ptr(), part) };
        match usize::try_from(written) {
            Ok(0) => return Some(libc::EIO),
            Err(_) => return Some(Errno::get()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
        }
    }
    None
}

/// Why a descriptor cannot be written to, if so; up to 100 ms are given to a slow reader.
fn takes_no_more(descriptor: i32) -> Option<i32> {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    // The call that a sandbox expects of the C library.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::syscall(libc::SYS_poll, &raw mut poll, 1, 100) };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: one valid pollfd and a valid time; the mask stays as it is.
    let ready = unsafe {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let same_mask = core::ptr::null::<libc::sigset_t>();
        libc::syscall(libc::SYS_ppoll, &raw mut poll, 1, &raw const time, same_mask, size_of::<u64>())
    };
    match poll.revents {
        _ if ready != 1 => Some(libc::EAGAIN),
        events if events & libc::POLLOUT != 0 => None,
        events if events & libc::POLLNVAL != 0 => Some(libc::EBADF),
        _ => Some(libc::EPIPE),
    }
}

/// Ends the process by SIGABRT, whatever handlers or masks the program has set.
///
/// To the first process of a container the kernel gives no SIGABRT that it does not handle. glibc's abort faults then, and a handler of
/// SIGSEGV that jumps would keep the process alive: there it gets none.
pub(crate) fn abort() -> ! {
    if process_number() == 1 {
        // SAFETY: a plain structure, for which zeroes are the default action, no flags and an empty mask.
        unsafe {
            let usual = core::mem::zeroed::<libc::sigaction>();
            libc::sigaction(libc::SIGSEGV, &raw const usual, core::ptr::null_mut());
        }
    }
    // SAFETY: glibc's abort raises SIGABRT, lets a handler of the program see it, then resets the action
    // and raises it again. It does not allocate and does not return.
    unsafe { libc::abort() }
}

/// Ends the process with a status, before the program has begun.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: does not return and runs no handlers.
    unsafe { libc::_exit(status) }
}

/// Whether the CPU has the CRC32 instruction (SSE 4.2). Asked once, at start.
pub(crate) fn has_crc32_instruction() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use super::cpu::{self, Register};
        // Leaf 1, ECX bit 20.
        cpu::has(1, Register::Ecx, 20)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether the CPU and the kernel have the vectors that profiles are compiled with: AVX2. Asked once, at start.
pub(crate) fn has_native_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use super::cpu::{self, Register};
        // Leaf 7, EBX bit 5.
        cpu::has(7, Register::Ebx, 5)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Program;

    #[test]
    fn a_program_s_name_cannot_command_a_terminal() {
        let program = Program(*b"a b\x1b[2J\xffc\n\0\0\0\0\0\0");
        assert_eq!((program.to_string().as_str(), program.is_empty()), ("a b?[2J?c?", false));
        assert!(Program([0; 16]).is_empty());
    }
}
