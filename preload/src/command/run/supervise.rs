//! Waits for the program as if this command were it: signals go through, stops are followed, the end is the same.
//!
//! The program stays in this process's group, so that job control of shells and pipelines is as without this command.
//! What a terminal sends, it sends to the whole group; what somebody sends to this process alone is handed on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::FromRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Status(u8),
    /// This signal ended it.
    Signal(i32),
}

impl Ended {
    fn of(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Status(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
        }
    }

    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signal(signal) => Some(signal),
            Self::Status(_) => None,
        }
    }
}

/// Where reports of the program, and of all that it starts, are copied to: a file without a name, which they open
/// through this process. No descriptor is left open in the program, and none that it closes is missed.
#[derive(Debug)]
pub struct ReportFile {
    file: File,
    address: OsString,
}

impl ReportFile {
    /// The environment variable that tells the library.
    pub const VARIABLE: &'static str = "TESTUDO_REPORT_COPY";
    /// More than this is not read back.
    const MOST: u64 = 64 << 10;

    pub fn new() -> io::Result<Self> {
        // SAFETY: a terminated name.
        let descriptor = unsafe { libc::memfd_create(c"testudo-reports".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let metadata = file.metadata()?;
        // Device and inode, so that nothing is ever written to another file that took this one's place.
        let address = format!("{}:{}:/proc/{}/fd/{descriptor}", metadata.dev(), metadata.ino(), std::process::id());
        Ok(Self { file, address: address.into() })
    }

    pub fn address(&self) -> &OsString {
        &self.address
    }

    /// Everything that was reported.
    pub fn read(mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.file.rewind().and_then(|()| self.file.take(Self::MOST).read_to_end(&mut bytes));
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// What SIGPIPE did when this process was started. Rust's start-up code ignores it.
static PIPE_ACTION: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

extern "C" fn remember_pipe_action() {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a valid place; only asks.
    if unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) } == 0 {
        PIPE_ACTION.store(action.sa_sigaction, Ordering::Relaxed);
    }
}

/// Runs before Rust's start-up code.
#[used]
// SAFETY: the section holds pointers to functions that are called without arguments they need.
#[unsafe(link_section = ".init_array")]
static BEFORE_START: extern "C" fn() = remember_pipe_action;

fn signals(which: &[i32]) -> libc::sigset_t {
    // SAFETY: all-zero is a valid value; the calls fill a valid place with valid numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in which {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn change_mask(how: i32, set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = signals(&[]);
    // SAFETY: two valid sets; the mask is this thread's own, and there is no other thread.
    unsafe { libc::pthread_sigmask(how, set, &raw mut before) };
    before
}

fn set_action(signal: i32, action: libc::sighandler_t) -> libc::sighandler_t {
    // SAFETY: the action is default, ignore, or what this returned before.
    unsafe { libc::signal(signal, action) }
}

/// Prepares `command` so that the program finds signals as this process found them: std would reset SIGPIPE, which
/// service managers ignore for their services, and empty the mask.
pub fn as_it_was_started(command: &mut Command) {
    restore(command, change_mask(libc::SIG_BLOCK, &signals(&[])));
}

fn restore(command: &mut Command, mask: libc::sigset_t) {
    let pipe = PIPE_ACTION.load(Ordering::Relaxed);
    let restore = move || {
        set_action(libc::SIGPIPE, pipe);
        change_mask(libc::SIG_SETMASK, &mask);
        Ok(())
    };
    // SAFETY: only calls that are allowed between fork and exec.
    unsafe { command.pre_exec(restore) };
}

/// Should this command be killed in a way that cannot be handed on, the program ends too.
fn bind_to_this_process(command: &mut Command) {
    let parent = std::process::id();
    let bind = move || {
        // SAFETY: these touch no memory.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid().unsigned_abs() != parent {
                libc::raise(libc::SIGKILL);
            }
        }
        Ok(())
    };
    // SAFETY: only calls that are allowed between fork and exec.
    unsafe { command.pre_exec(bind) };
}

/// Runs the program to its end; the number that its process had, and how it ended.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command) -> io::Result<(u32, Ended)> {
    let watched = watched();
    let mask = change_mask(libc::SIG_BLOCK, &watched);
    // A parent may have left it ignored, and then ends would not be told.
    let of_children = set_action(libc::SIGCHLD, libc::SIG_DFL);
    // SAFETY: only a call that is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            set_action(libc::SIGCHLD, of_children);
            Ok(())
        });
    }
    restore(command, mask);
    bind_to_this_process(command);
    let child = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
    loop {
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: a valid set and a valid place.
        let signal = unsafe { libc::sigwaitinfo(&raw const watched, &raw mut info) };
        if signal == libc::SIGCHLD {
            if let Some(ended) = look_at_children(child) {
                return Ok((child.unsigned_abs(), ended));
            }
        } else if signal > 0 && info.si_code != libc::SI_KERNEL {
            // Sent by a process. Should it have been sent to the whole group, the program gets it twice.
            // SAFETY: touches no memory; the child has not been waited for, so the number is its own.
            unsafe { libc::kill(child, signal) };
        }
    }
}

/// All that can be handed on: not what the program's own faults raise, and neither SIGKILL nor SIGSTOP.
fn watched() -> libc::sigset_t {
    let named = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGWINCH,
        libc::SIGURG,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGCONT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGCHLD,
    ];
    let all: Vec<i32> = named.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()).collect();
    signals(&all)
}

/// Takes note of every child that changed: the program's end or stop, and, where this is a container's first process,
/// the ends of orphans.
fn look_at_children(child: i32) -> Option<Ended> {
    loop {
        let mut status = 0;
        // SAFETY: a valid place.
        let changed = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
        if changed <= 0 {
            return None;
        }
        if changed != child {
            continue;
        }
        if libc::WIFSTOPPED(status) {
            stop_by(libc::WSTOPSIG(status));
        } else {
            return Some(Ended::of(status));
        }
    }
}

/// Stops this process too, so that the shell sees its job stopped; returns when it is continued.
fn stop_by(signal: i32) {
    // Ignored from the start, perhaps, but not by the program.
    let before = set_action(signal, libc::SIG_DFL);
    // SAFETY: touches no memory.
    unsafe { libc::raise(signal) };
    let one = signals(&[signal]);
    change_mask(libc::SIG_UNBLOCK, &one);
    change_mask(libc::SIG_BLOCK, &one);
    if before != libc::SIG_ERR {
        set_action(signal, before);
    }
}

/// Ends this process as the program was ended. The core is the program's, there is no second one.
pub fn end_by(signal: i32) -> ExitCode {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid structure; the other calls touch no memory.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    set_action(signal, libc::SIG_DFL);
    change_mask(libc::SIG_UNBLOCK, &signals(&[signal]));
    // SAFETY: touches no memory.
    unsafe { libc::raise(signal) };
    // Only a signal that ends nothing gets here.
    ExitCode::from(128_u8.saturating_add(u8::try_from(signal).unwrap_or(0)))
}
