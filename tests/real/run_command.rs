//! `testudo run`: what it passes through, and what it says when it cannot run a program protected.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::{real, support};

fn testudo_at(command: &Path, args: &[&str]) -> real::Ended {
    let folder = real::folder();
    real::to_the_end(real::command(command, folder.path(), None).args(args))
}

fn testudo(args: &[&str]) -> real::Ended {
    testudo_at(&support::libtestudo().with_file_name("testudo"), args)
}

/// The one line on stderr of a command that printed nothing else.
fn only_line(ended: &real::Ended) -> String {
    assert_eq!(ended.out(), "", "{ended:?}");
    let line = ended.err();
    assert!(line.starts_with("testudo: "), "{ended:?}");
    assert_eq!(line.lines().count(), 1, "{ended:?}");
    line
}

#[test]
fn a_program_runs_with_the_library_in_it() {
    let ended = testudo(&["run", "--", "cat", "/proc/self/maps"]);
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.out().contains("libtestudo.so"), "{ended:?}");
    assert_eq!(ended.err(), "");
}

#[test]
fn a_program_that_does_not_exist_is_status_127_and_one_line() {
    for program in ["/no/such/program", "no-such-program-anywhere"] {
        let ended = testudo(&["run", "--", program]);
        assert_eq!(ended.status.code(), Some(127), "{ended:?}");
        assert!(only_line(&ended).contains(program), "{ended:?}");
    }
}

#[test]
fn a_file_that_cannot_be_executed_is_status_126_and_one_line() {
    let ended = testudo(&["run", "--", "/etc/passwd"]);
    assert_eq!(ended.status.code(), Some(126), "{ended:?}");
    assert!(only_line(&ended).contains("/etc/passwd"), "{ended:?}");
}

#[test]
fn the_exit_status_is_the_programs() {
    for status in [0, 1, 37, 255] {
        let ended = testudo(&["run", "--", "bash", "-c", &format!("exit {status}")]);
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        assert_eq!(ended.err(), "");
    }
}

#[test]
fn the_signal_that_ends_a_program_is_passed_through() {
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT] {
        let ended = testudo(&["run", "--", "bash", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(ended.status.signal(), Some(signal), "{ended:?}");
    }
}

#[test]
fn arguments_arrive_as_they_were_given() {
    let ended = testudo(&["run", "--", "printf", "[%s]", "--profile", "a b", "", "-o", "x\ny", "--"]);
    assert_eq!(ended.out(), "[--profile][a b][][-o][x\ny][--]");
}

#[test]
fn standard_input_is_the_programs() {
    let folder = real::folder();
    let file = folder.path().join("input");
    fs::write(&file, "some text\n").expect("a file is written");
    let command = support::libtestudo().with_file_name("testudo");
    let ended = real::to_the_end(
        real::command(&command, folder.path(), None)
            .args(["run", "--", "cat"])
            .stdin(fs::File::open(&file).expect("the file just written")),
    );
    assert_eq!(ended.out(), "some text\n", "{ended:?}");
}

#[test]
fn profile_and_options_reach_the_library() {
    let ended =
        testudo(&["run", "--profile", "strict", "-o", "quarantine_kb=512", "--", "printenv", "TESTUDO_OPTIONS"]);
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.out().contains("profile=strict"), "{ended:?}");
    assert!(ended.out().contains("quarantine_kb=512"), "{ended:?}");
}

#[test]
fn a_wrong_option_is_refused_and_the_program_not_run() {
    for (args, wrong) in [
        (["run", "-o", "quarantin_kb=7"], "quarantin_kb"),
        (["run", "-o", "quarantine_kb=lots"], "lots"),
        (["run", "-o", "report_path=/tmp/a:b"], "No file name has a colon"),
        (["run", "--profile", "paranoid"], "paranoid"),
    ] {
        let ended = testudo(&[&args[..], &["--", "echo", "main ran"]].concat());
        assert!(!ended.status.success(), "{args:?}: {ended:?}");
        assert_eq!(ended.out(), "", "{args:?}");
        assert!(ended.err().contains(wrong), "{args:?}: {ended:?}");
    }
}

#[test]
fn a_program_is_not_run_without_the_library() {
    let folder = real::folder();
    let command = folder.path().join("testudo");
    real::copy(&support::libtestudo().with_file_name("testudo"), &command);
    let ended = testudo_at(&command, &["run", "--", "echo", "main ran"]);
    assert!(!ended.status.success(), "{ended:?}");
    assert!(only_line(&ended).contains("libtestudo.so"), "{ended:?}");
}

/// The dynamic loader only warns of a library that it cannot preload, and runs the program all the
/// same, unprotected.
#[test]
fn a_program_is_not_run_with_a_library_that_is_none() {
    let folder = real::folder();
    let command = folder.path().join("testudo");
    real::copy(&support::libtestudo().with_file_name("testudo"), &command);
    fs::write(folder.path().join("libtestudo.so"), "no library\n").expect("a file");
    let ended = testudo_at(&command, &["run", "--", "echo", "main ran"]);
    assert!(!ended.status.success(), "{ended:?}");
    assert!(only_line(&ended).contains("libtestudo.so"), "{ended:?}");
}
