//! `testudo run` is the program, as far as signals and job control can tell.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use tempfile::TempDir;

fn command() -> PathBuf {
    support::libtestudo().with_file_name("testudo")
}

/// A command that runs a program, which has said that it is ready. Both are ended when they take too long, so
/// that no test waits for them in vain.
struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
    _folder: TempDir,
    _until_dropped: Sender<()>,
}

impl Running {
    fn start(folder: TempDir, command: &mut Command) -> Self {
        let mut child = real::start(command.stdout(Stdio::piped()));
        let (until_dropped, dropped) = mpsc::channel();
        let group = i32::try_from(child.id()).expect("a process number");
        thread::spawn(move || {
            if dropped.recv_timeout(real::DEADLINE) == Err(RecvTimeoutError::Timeout) {
                // SAFETY: touches no memory; a test that has seen the group's end has dropped the other side.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
        });
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut running = Self { child, said, _folder: folder, _until_dropped: until_dropped };
        assert_eq!(running.line(), "ready");
        running
    }

    /// A script for bash that goes on until a signal ends it.
    fn script(body: &str) -> Self {
        let folder = real::folder();
        let script = format!("{body}\necho ready\nwhile :; do sleep 0.05; done");
        let mut command = real::command(&command(), folder.path(), None);
        command.args(["run", "--", "bash", "-c", &script]);
        Self::start(folder, &mut command)
    }

    /// The same for perl, with `signal` ignored from the start, as `nohup` does it. Perl, for a shell never hears of
    /// such a signal again.
    fn ignoring(signal: &str, body: &str) -> Self {
        let folder = real::folder();
        let program = format!("$| = 1; {body}; print \"ready\\n\"; sleep 1 while 1");
        let script = format!("trap '' {signal}; exec \"$0\" run -- perl -e \"$1\"");
        let mut shell = real::command(Path::new("/bin/bash"), folder.path(), None);
        shell.arg("-c").arg(script).arg(command()).arg(program);
        Self::start(folder, &mut shell)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    fn number(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process number")
    }

    fn send(&self, signal: i32) {
        // SAFETY: touches no memory; the child has not been waited for.
        assert_eq!(unsafe { libc::kill(self.number(), signal) }, 0);
    }

    /// Waits until the command is stopped.
    fn is_stopped(&self) {
        let mut status = 0;
        // SAFETY: a valid place; the child is this process's own.
        assert_eq!(unsafe { libc::waitpid(self.number(), &raw mut status, libc::WUNTRACED) }, self.number());
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().expect("an end")
    }
}

#[test]
fn with_exec_the_program_has_the_commands_number() {
    let folder = real::folder();
    let mut command = real::command(&command(), folder.path(), None);
    let mut child = command
        .args(["run", "--exec", "--", "bash", "-c", "echo $$"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
    let status = child.wait().expect("an end");
    assert!(status.success(), "{status}");
    assert_eq!(said.trim(), child.id().to_string());
}

#[test]
fn a_signal_sent_to_the_command_reaches_the_program() {
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGINT, "INT"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGUSR2, "USR2"),
        (libc::SIGRTMIN() + 3, "RTMIN+3"),
    ] {
        let mut running = Running::script(&format!("trap 'echo got it; exit 7' {name}"));
        running.send(signal);
        assert_eq!(running.line(), "got it", "{name}");
        assert_eq!(running.end().code(), Some(7), "{name}");
    }
}

#[test]
fn a_signal_that_the_program_does_not_handle_ends_both() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
        // Not bash: it goes on after a SIGINT that comes while it waits for a child.
        let mut running = Running::script("echo ready; exec sleep 1000");
        running.send(signal);
        assert_eq!(running.end().signal(), Some(signal));
        assert_eq!(running.line(), "", "the program lives on");
    }
}

#[test]
fn a_program_whose_command_is_killed_ends_too() {
    let mut running = Running::script(":");
    running.send(libc::SIGKILL);
    assert_eq!(running.end().signal(), Some(libc::SIGKILL));
    assert_eq!(running.line(), "", "the program lives on");
}

#[test]
fn a_program_that_stops_is_stopped_and_continued_with_the_command() {
    let mut running = Running::script("trap 'echo got it; exit 7' TERM");
    running.send(libc::SIGTSTP);
    running.is_stopped();
    running.send(libc::SIGCONT);
    running.send(libc::SIGTERM);
    assert_eq!(running.line(), "got it");
    assert_eq!(running.end().code(), Some(7));
}

#[test]
fn a_signal_that_is_ignored_from_the_start_is_ignored_by_both() {
    if !real::installed(&["perl"]) {
        return;
    }
    let mut running = Running::ignoring("HUP", "");
    running.send(libc::SIGHUP);
    // Its number is greater: both take it after the other one.
    running.send(libc::SIGTERM);
    assert_eq!(running.end().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_signal_that_is_ignored_from_the_start_reaches_a_program_that_handles_it() {
    if !real::installed(&["perl"]) {
        return;
    }
    let mut running = Running::ignoring("HUP", r#"$SIG{HUP} = sub { print "got it\n"; exit 7 }"#);
    running.send(libc::SIGHUP);
    assert_eq!(running.line(), "got it");
    assert_eq!(running.end().code(), Some(7));
}

#[test]
fn a_program_that_stops_by_what_was_ignored_from_the_start_is_stopped_with_the_command() {
    if !real::installed(&["perl"]) {
        return;
    }
    let mut running = Running::ignoring("TSTP", r#"$SIG{TSTP} = "DEFAULT""#);
    running.send(libc::SIGTSTP);
    running.is_stopped();
    running.send(libc::SIGCONT);
    running.send(libc::SIGTERM);
    assert_eq!(running.end().signal(), Some(libc::SIGTERM));
}

#[test]
fn ignored_and_blocked_signals_are_as_without_the_command() {
    let state = |prefix: &[&str]| {
        let command = command().display().to_string();
        let words: Vec<&str> = prefix.iter().map(|&word| if word == "testudo" { &command } else { word }).collect();
        let script =
            format!("trap '' PIPE HUP CHLD; exec {} grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status", words.join(" "));
        let folder = real::folder();
        let ended = real::to_the_end(real::command(Path::new("/bin/bash"), folder.path(), None).args(["-c", &script]));
        assert!(ended.status.success(), "{ended:?}");
        ended.out()
    };
    assert_eq!(state(&[]), state(&["testudo", "run", "--"]));
    assert_eq!(state(&[]), state(&["testudo", "run", "--exec", "--"]));
}
