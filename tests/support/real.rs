//! Whole programs run to their end, with and without testudo: what each printed and how it ended.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support;

/// After this long a program counts as hung. Generous: a slow machine must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(900);

/// How a program ended and what it printed.
#[derive(PartialEq, Eq, Clone)]
pub struct Ended {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Everything written to standard output.
    pub stdout: Vec<u8>,
    /// Everything written to standard error.
    pub stderr: Vec<u8>,
}

impl Ended {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "{}", self.status)?;
        writeln!(to, "--- stdout, the end of it\n{}", the_end_of(&self.out()))?;
        writeln!(to, "--- stderr, the end of it\n{}", the_end_of(&self.err()))
    }
}

fn the_end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be started, and when it hangs.
pub fn to_the_end(command: &mut Command) -> Ended {
    to_the_end_within(command, DEADLINE)
}

/// The same with another bound on the time.
///
/// # Panics
/// When it cannot be started, and when it hangs.
pub fn to_the_end_within(command: &mut Command, deadline: Duration) -> Ended {
    // Files instead of pipes: a program that prints a lot before it hangs never blocks on us, and a
    // child that outlives it cannot keep us waiting.
    let stdout = tempfile::tempfile().expect("a temporary file");
    let stderr = tempfile::tempfile().expect("a temporary file");
    command.stdout(stdout.try_clone().expect("a duplicate")).stderr(stderr.try_clone().expect("a duplicate"));
    let status = end_within(start(command), command, deadline);
    Ended { status, stdout: contents(stdout), stderr: contents(stderr) }
}

/// Starts `command` in a process group of its own, so that all of it can be stopped.
pub fn start(command: &mut Command) -> Child {
    command.process_group(0).spawn().unwrap_or_else(|why| panic!("{command:?} does not start: {why}"))
}

/// Waits for `child`, started by [`start`] from `command`.
///
/// # Panics
/// When it hangs; it is ended first, with everything it started.
pub fn end_of(child: Child, command: &Command) -> ExitStatus {
    end_within(child, command, DEADLINE)
}

fn end_within(mut child: Child, command: &Command, deadline: Duration) -> ExitStatus {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if started.elapsed() > deadline {
            let group = i32::try_from(child.id()).expect("a process id");
            // SAFETY: `kill` touches no memory; the group is the child's own, and the child has not
            // been waited for, so its number has not been given to anyone else.
            unsafe { libc::kill(-group, libc::SIGKILL) };
            let status = child.wait();
            panic!("{command:?} hangs, and was stopped: {status:?}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn contents(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("a file rewinds");
    file.read_to_end(&mut bytes).expect("a file is read");
    bytes
}

/// Whether this run must not skip anything.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Says, past the capture of the test harness, that a test proved nothing here and why.
pub fn say_skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "skipped {name}: {why}").expect("stderr is open");
}

/// Where programs are looked for. The system's own come first: a wrapper script in front of one
/// would be what is tested instead.
pub fn search_path() -> String {
    let outer = std::env::var("PATH").unwrap_or_default();
    format!("/usr/bin:/bin:{outer}")
}

/// The file that `program` names on [`search_path`].
pub fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether all `programs` are installed. Where one is not, the test is to be skipped.
///
/// # Panics
/// In CI when one is not: there a skipped test would look like a passed one.
pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| find(program).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(!in_ci(), "not installed: {missing:?}");
    say_skipped(&format!("not installed: {missing:?}"));
    false
}

/// Whether a process may trace its child, as debuggers do; some containers forbid it.
pub fn may_trace() -> bool {
    let mut command = Command::new("true");
    // SAFETY: only a call that is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let Ok(mut stopped) = command.spawn() else {
        say_skipped("no process may be traced here");
        return false;
    };
    let ended = stopped.kill().and_then(|()| stopped.wait());
    ended.is_ok()
}

/// A command whose environment says only what makes programs repeat themselves, and, with
/// `options`, to run under testudo. Signals do what they do by default.
pub fn command(program: &Path, home: &Path, options: Option<&str>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .stdin(Stdio::null())
        .current_dir(home)
        .env("PATH", search_path())
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC");
    // Where a library that counts what is executed (tests/coverage) writes to.
    if let Some(file) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", file);
    }
    if let Some(options) = options {
        command.env("LD_PRELOAD", support::libtestudo()).env("TESTUDO_OPTIONS", options);
    }
    // SAFETY: only calls that are allowed between fork and exec.
    unsafe { command.pre_exec(reset_signals) };
    command
}

/// Under `nohup`, and in the background of a script, this process was started with signals ignored, and what it starts would
/// inherit that: a shell could not even set a trap for them.
fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: touches no memory. SIGKILL, SIGSTOP and what the C library keeps for itself are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

/// Compiles a C or C++ program (or with `-shared` a library) of `tests/` to `folder/name`.
///
/// # Panics
/// When the compiler complains: the sources are free of warnings, but for what `flags` switches off.
pub fn compile(source: &str, folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let compiler = if source.ends_with(".c") { "gcc" } else { "g++" };
    let product = folder.join(name);
    // Without -fno-builtin the compiler removes a malloc whose memory it sees nobody use.
    let ended = to_the_end(
        Command::new(compiler)
            .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror"])
            .args(["-fno-builtin", "-pthread"])
            .arg(support::root().join("tests").join(source))
            .arg("-o")
            .arg(&product)
            .args(flags),
    );
    assert!(ended.status.success(), "{source}: {ended:?}");
    product
}

/// Copies a file that is going to be executed.
///
/// By a process of its own: what this one has open for writing, a child that another test forks in this moment has open too until it
/// executes its program, and the kernel executes no file that somebody may write to ("Text file busy").
///
/// # Panics
/// When it cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    let ended = to_the_end(Command::new("cp").arg("--preserve=mode").args([from, to]));
    assert!(ended.status.success(), "{ended:?}");
}

/// A fresh folder that any user may enter.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("testudo-").tempdir().expect("a temporary folder")
}

/// Runs `program` with `args` under `options`, `prepare`d; it must find the limit kept.
pub fn keeps_the_limit(
    source: &str,
    args: &[String],
    options: &str,
    prepare: impl FnOnce(&mut Command) -> &mut Command,
) {
    let folder = folder();
    let program = compile(source, folder.path(), "program", &[]);
    let mut command = command(&program, folder.path(), Some(options));
    let ended = to_the_end(prepare(command.args(args)));
    assert_eq!(ended.out(), "the limit is kept\n", "{args:?}, {options}: {ended:?}");
    assert_eq!(ended.err(), "", "{args:?}, {options}");
    assert!(ended.status.success(), "{args:?}, {options}: {ended:?}");
}
