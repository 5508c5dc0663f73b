//! A report that nobody can or will read must not keep a corrupted process alive.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::real;

/// The command that runs a double free, and the folder it lives in.
fn double_free(how: &str) -> (TempDir, Command) {
    let folder = real::folder();
    let program = real::compile("c/abort_signal.c", folder.path(), "program", &[]);
    let mut command = real::command(&program, folder.path(), Some("profile=default"));
    command.arg(how);
    (folder, command)
}

fn end_with_stderr(stderr: impl Into<Stdio>) -> ExitStatus {
    let (_folder, mut command) = double_free("");
    command.stdout(Stdio::null()).stderr(stderr);
    real::end_of(real::start(&mut command), &command)
}

fn assert_aborted(status: ExitStatus) {
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
}

fn set_blocking(pipe: &PipeWriter, blocking: bool) {
    let flags = if blocking { 0 } else { libc::O_NONBLOCK };
    // SAFETY: the descriptor is open, for `pipe` lives; the call changes its flags, no memory.
    let result = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, flags) };
    assert_eq!(result, 0, "a pipe's flags can be set");
}

/// A pipe into which not one more byte goes.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    set_blocking(&writer, false);
    for length in [4096, 1] {
        loop {
            match writer.write(&vec![b'.'; length]) {
                Ok(_) => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => panic!("a pipe can be filled: {why}"),
            }
        }
    }
    (reader, writer)
}

#[test]
fn the_first_line_says_what_happened() {
    let (_folder, mut command) = double_free("");
    let ended = real::to_the_end(&mut command);
    assert_aborted(ended.status);
    assert_eq!(ended.out(), "");
    let report = ended.err();
    let first = report.lines().next().unwrap_or_default();
    let rest = first.strip_prefix("testudo: double free at 0x").unwrap_or_else(|| panic!("{report}"));
    let (address, rest) = rest.split_once(" (").unwrap_or_else(|| panic!("{report}"));
    assert!(u64::from_str_radix(address, 16).is_ok(), "{report}");
    assert!(rest.starts_with("24-byte malloc chunk"), "{report}");
}

#[test]
fn the_process_stops_when_stderr_is_closed() {
    let (_folder, inner) = double_free("");
    let mut command = Command::new("/bin/bash");
    command
        .args(["-c", "exec \"$0\" 2>&-"])
        .arg(inner.get_program())
        .envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let ended = real::to_the_end(&mut command);
    assert_aborted(ended.status);
    assert_eq!(ended.out(), "");
}

#[test]
fn the_process_stops_when_stderr_is_a_full_pipe_that_nobody_reads() {
    let (_reader, writer) = full_pipe();
    set_blocking(&writer, true);
    assert_aborted(end_with_stderr(writer));
}

#[test]
fn the_process_stops_when_stderr_is_a_full_pipe_that_does_not_block() {
    let (_reader, writer) = full_pipe();
    assert_aborted(end_with_stderr(writer));
}

#[test]
fn the_process_stops_with_sigabrt_when_the_reader_of_stderr_is_gone() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_aborted(end_with_stderr(writer));
}

#[test]
fn the_process_stops_when_stderr_is_a_full_disk() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    assert_aborted(end_with_stderr(full));
}

#[test]
fn the_process_stops_when_it_ignores_blocks_or_handles_sigabrt() {
    for how in ["ignored", "blocked", "handled"] {
        let (_folder, mut command) = double_free(how);
        let ended = real::to_the_end(&mut command);
        assert_aborted(ended.status);
        assert_eq!(ended.out(), "", "{how}");
        assert!(ended.err().starts_with("testudo: double free at 0x"), "{how}: {ended:?}");
    }
}

/// Waiting for a reader and writing are where glibc ends a thread that has been cancelled: the process would go on. So is
/// opening the file that `testudo run` asks for a copy in.
#[test]
fn the_process_stops_when_the_thread_has_been_cancelled() {
    let (_folder, mut command) = double_free("cancelled");
    let mut copy = tempfile::tempfile().expect("a file");
    let metadata = copy.metadata().expect("metadata");
    let descriptor = copy.as_raw_fd();
    let name = format!("{}:{}:/proc/{}/fd/{descriptor}", metadata.dev(), metadata.ino(), std::process::id());
    let ended = real::to_the_end(command.env("TESTUDO_REPORT_COPY", name));
    assert_aborted(ended.status);
    assert_eq!(ended.out(), "", "{ended:?}");
    let report = ended.err();
    assert!(report.starts_with("testudo: double free at 0x") && report.contains("\n  found here:\n"), "{report}");
    let mut copied = String::new();
    copy.rewind().expect("rewinds");
    copy.read_to_string(&mut copied).expect("text");
    assert_eq!(copied, report);
}

/// The same where memory is at its end and a C program asks `operator new` for some: nobody can throw there.
#[test]
fn the_process_stops_when_operator_new_fails_without_a_runtime_in_a_cancelled_thread() {
    let (_folder, mut command) = double_free("bad_alloc");
    let ended = real::to_the_end(&mut command);
    assert_aborted(ended.status);
    assert_eq!(ended.err(), "testudo: operator new failed and there is no C++ runtime to throw std::bad_alloc\n");
}

/// The first process of a container: the kernel gives it no SIGABRT that it does not handle, and glibc's abort faults instead.
#[test]
fn the_first_process_of_a_container_stops_even_if_it_handles_sigsegv() {
    let Some(unshare) = real::find("unshare") else { return real::say_skipped("there is no unshare") };
    let alone = ["--pid", "--fork"];
    if !Command::new(&unshare)
        .args(alone)
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return real::say_skipped("no container can be made");
    }
    let folder = real::folder();
    let program = real::compile("c/abort_signal.c", folder.path(), "program", &[]);
    for how in ["", "jumps"] {
        let mut command = real::command(&unshare, folder.path(), Some("profile=default"));
        let ended = real::to_the_end(command.args(alone).arg(&program).arg(how));
        assert!(ended.status.signal() == Some(libc::SIGSEGV) || ended.status.code() == Some(139), "{how}: {ended:?}");
        assert_eq!(ended.out(), "", "{how}");
        assert!(ended.err().starts_with("testudo: double free at 0x"), "{how}: {ended:?}");
    }
}
