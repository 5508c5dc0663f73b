//! Options that are wrong, and options in a place where they must not be believed.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use testudo::options::TABLE;

use crate::{real, support};

/// Runs `echo` under testudo with these options; it prints one line when it gets as far as main.
fn echo_with(options: impl AsRef<OsStr>) -> real::Ended {
    let folder = real::folder();
    let echo = real::find("echo").expect("every system has echo");
    let mut command = real::command(&echo, folder.path(), Some(""));
    real::to_the_end(command.env("TESTUDO_OPTIONS", options).arg("main ran"))
}

/// Checks that the program ended before main with status 1 and one line on stderr; returns that.
fn refusal(options: impl AsRef<OsStr>) -> String {
    let options = options.as_ref();
    let ended = echo_with(options);
    let shown = String::from_utf8_lossy(options.as_bytes());
    let shown: String = shown.chars().take(100).collect();
    assert_eq!(ended.status.code(), Some(1), "{shown}: {ended:?}");
    assert!(ended.stdout.is_empty(), "main ran with {shown}: {ended:?}");
    let line = ended.err();
    assert!(line.starts_with("testudo: "), "{shown}: {line}");
    assert!(line.ends_with('\n'), "{shown}: {line}");
    assert!(
        !line.trim_end_matches('\n').contains(char::is_control) && line.lines().count() == 1,
        "not one line for {shown}: {line:?}"
    );
    line
}

#[test]
fn right_options_let_main_run() {
    for options in ["", "profile=strict", "profile=fast:quarantine_kb=512"] {
        let ended = echo_with(options);
        assert!(ended.status.success(), "{options}: {ended:?}");
        assert_eq!(ended.out(), "main ran\n");
        assert_eq!(ended.err(), "", "{options}");
    }
}

#[test]
fn a_wrong_option_ends_a_program_before_main_that_allocates_late_or_never() {
    let folder = real::folder();
    let program = real::compile("c/allocates_late.c", folder.path(), "program", &[]);
    for arguments in [&[][..], &["late"]] {
        let run = |options| real::to_the_end(real::command(&program, folder.path(), Some(options)).args(arguments));
        let ended = run("canery=1");
        assert_eq!((ended.status.code(), ended.out().as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.err().starts_with("testudo: option \"canery=1\": no such option"), "{ended:?}");
        let ended = run("canary=1");
        assert_eq!((ended.status.code(), ended.out().as_str()), (Some(0), "main ran\n"), "{ended:?}");
    }
}

#[test]
fn an_unknown_option_is_named_with_what_is_allowed() {
    for options in ["quarantin_kb=7", "profile=strict:quarantin_kb=7", "quarantin_kb=7:help=1"] {
        let line = refusal(options);
        assert!(line.contains("quarantin_kb"), "{line}");
        assert!(line.contains("help=1") || line.contains("quarantine_kb"), "{line}");
    }
}

#[test]
fn an_option_in_capitals_is_unknown() {
    assert!(refusal("PROFILE=strict").contains("PROFILE"));
}

#[test]
fn an_unknown_profile_is_named_with_those_there_are() {
    for (options, given) in [("profile=paranoid", "paranoid"), ("profile=Strict", "Strict")] {
        let line = refusal(options);
        for part in ["profile", given, "default", "strict", "fast"] {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
    }
}

#[test]
fn a_bad_number_is_named_with_the_range_allowed() {
    for given in ["lots", "-1", "12k", "1.5", "0x10", "99999999999999999999", "4294967296000", " 1"] {
        let line = refusal(format!("quarantine_kb={given}"));
        assert!(line.contains("quarantine_kb"), "{line}");
        assert!(line.contains(given.trim()), "{line}");
        let rest = line.replace(given, "");
        let numbers = rest.split(|character: char| !character.is_ascii_digit()).filter(|run| !run.is_empty()).count();
        assert!(numbers >= 2, "no range in: {line}");
    }
}

#[test]
fn a_key_without_a_value_is_refused() {
    for options in ["quarantine_kb", "quarantine_kb=", "profile", "profile="] {
        let key = options.trim_end_matches('=');
        let line = refusal(options);
        assert!(line.contains(key), "{line}");
    }
}

#[test]
fn a_value_without_a_key_is_refused() {
    refusal("=512");
}

#[test]
fn a_value_with_control_characters_still_makes_one_line() {
    refusal("quarantine_kb=1\n2\u{1b}[2J");
    refusal("quaran\ntine_kb=1");
}

#[test]
fn a_value_that_is_not_text_is_refused() {
    refusal(OsString::from("quarantine_kb=").as_os_str());
    refusal(OsStr::from_bytes(b"quarantine_kb=\xff\xfe"));
    refusal(OsStr::from_bytes(b"\xff\xfe=1"));
}

#[test]
fn a_value_of_a_hundred_thousand_characters_is_refused_in_one_line() {
    refusal(format!("quarantine_kb={}", "9".repeat(100_000)));
    refusal("x".repeat(100_000));
}

#[test]
fn help_lists_every_option() {
    let ended = echo_with("help=1");
    let text = ended.out() + &ended.err();
    assert!(!text.contains("main ran"), "{text}");
    for row in TABLE {
        assert!(text.contains(&format!("{}=", row.name)), "{} is not in: {text}", row.name);
        assert!(text.contains(row.help), "{} is not explained in: {text}", row.name);
    }
    assert!(text.contains("help=1"), "{text}");
}

#[test]
fn help_that_cannot_be_printed_is_an_error_and_one_that_nobody_reads_is_none() {
    let folder = real::folder();
    let echo = real::find("echo").expect("every system has echo");
    let asked = |stdout: Stdio| {
        let mut command = real::command(&echo, folder.path(), Some("help=1"));
        let output = command.stdout(stdout).output().expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let line = "testudo: standard output: no space is left on the device\n";
    assert_eq!(asked(full.into()), (Some(1), line.to_owned()));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(asked(writer.into()), (Some(0), String::new()));
}

/// Whether a program in this folder can have other rights than its user: not in a container that forbids it, nor where the
/// file system is mounted so.
fn gives_rights(folder: &Path) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let name = CString::new(folder.as_os_str().as_bytes()).expect("a name");
    // SAFETY: all-zero is a valid value; a terminated name and a valid place.
    let flags = unsafe {
        let mut about: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(name.as_ptr(), &raw mut about), 0);
        about.f_flag
    };
    !status.contains("NoNewPrivs:\t1") && flags & libc::ST_NOSUID == 0
}

/// A program that runs with more rights than its user must not take its protection from the user's
/// environment. `LD_PRELOAD` does not reach such a program, so this one is linked with testudo.
fn under_other_rights(prepare: impl FnOnce(&Path)) {
    // SAFETY: `geteuid` reads a number and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        real::say_skipped("only root can make such a program");
        return;
    }
    let folder = real::folder();
    let inside = folder.path();
    if !gives_rights(inside) {
        return real::say_skipped("programs get no other rights here");
    }
    fs::set_permissions(inside, fs::Permissions::from_mode(0o755)).expect("permissions");
    fs::copy(support::libtestudo(), inside.join("libtestudo.so")).expect("the library is copied");
    let path = inside.display();
    let program = real::compile(
        "c/secure.c",
        inside,
        "secure",
        &["-Wl,--no-as-needed", &format!("-L{path}"), "-ltestudo", &format!("-Wl,-rpath,{path}")],
    );
    let run = || {
        let mut command = real::command(&program, inside, None);
        real::to_the_end(command.env("TESTUDO_OPTIONS", "no_such_option=1"))
    };
    let plain = run();
    assert_eq!(plain.status.code(), Some(1), "the option is not read at all: {plain:?}");

    prepare(&program);
    let ended = run();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.out(), "secure=1 testudo=1\n");
}

#[test]
fn options_are_ignored_in_a_set_user_id_program() {
    under_other_rights(|program| {
        chown(program, Some(65_534), None).expect("root may give files away");
        fs::set_permissions(program, fs::Permissions::from_mode(0o4755)).expect("permissions");
        assert_eq!(fs::metadata(program).expect("a file").mode() & 0o4000, 0o4000);
    });
}

#[test]
fn options_are_ignored_in_a_set_group_id_program() {
    under_other_rights(|program| {
        chown(program, None, Some(65_534)).expect("root may give files away");
        fs::set_permissions(program, fs::Permissions::from_mode(0o2755)).expect("permissions");
        assert_eq!(fs::metadata(program).expect("a file").mode() & 0o2000, 0o2000);
    });
}
