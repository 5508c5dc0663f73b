//! `testudo check` says what is caught here and now, and fails where a promise does not hold.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testudo::Profile;

fn command() -> PathBuf {
    support::libtestudo().with_file_name("testudo")
}

fn check(command: &Path, args: &[&str]) -> real::Ended {
    let folder = real::folder();
    real::to_the_end(real::command(command, folder.path(), None).arg("check").args(args))
}

#[test]
fn every_promise_of_every_profile_holds() {
    let ended = check(&command(), &[]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.err(), "");
    let text = ended.out();
    for (profile, _) in Profile::ALL {
        assert!(text.contains(profile), "{text}");
    }
    for row in ["double free", "use after free", "forged header", "memory bomb"] {
        assert!(text.contains(row), "{text}");
    }
    assert!(!text.contains("MISSED") && !text.contains("TWIN"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours where there is no terminal: {text:?}");
}

#[test]
fn json_holds_one_finding_for_each_attack_and_profile() {
    if !real::installed(&["jq"]) {
        return;
    }
    let ended = check(&command(), &["--json", "--profile", "strict", "--repeat", "2"]);
    assert!(ended.status.success(), "{ended:?}");
    let folder = real::folder();
    let file = folder.path().join("findings.json");
    fs::write(&file, &ended.stdout).expect("a file");
    let filter = ".broken == 0 and .repeated == 2 and .promises > 50 \
        and (.findings | length) >= .promises \
        and ([.findings[] | select(.profile != \"strict\")] | length) == 0 \
        and ([.findings[] | select(.name == \"double-free\" and .outcome == \"abort\" and .report == \"double free\")] | length) == 1 \
        and ([.findings[] | select(.outcome == \"fault\" and .name == \"overflow-large\")] | length) == 1";
    let jq = real::find("jq").expect("jq was looked for");
    let ended = real::to_the_end(Command::new(jq).args(["-e", filter]).arg(&file));
    assert!(ended.status.success(), "{ended:?}");
}

/// A library that says it is testudo, and leaves everything to glibc and libstdc++.
const UNPROTECTED: &str = "#include <stdlib.h>
const char *testudo_version(void) { return VERSION; }
void free_sized(void *chunk, size_t size) { (void)size; free(chunk); }";

#[test]
fn what_an_unprotected_heap_lets_pass_is_called_missed() {
    let folder = real::folder();
    let copy = folder.path().join("testudo");
    real::copy(&command(), &copy);
    let source = folder.path().join("unprotected.c");
    fs::write(&source, UNPROTECTED).expect("a source");
    let version = format!("-DVERSION=\"{}\"", env!("CARGO_PKG_VERSION"));
    let ended = real::to_the_end(
        Command::new("gcc")
            .args(["-shared", "-fPIC", &version])
            .arg(&source)
            .arg("-o")
            .arg(folder.path().join("libtestudo.so"))
            .args(["-Wl,--no-as-needed", "-lstdc++"]),
    );
    assert!(ended.status.success(), "{ended:?}");
    let ended = check(&copy, &["--profile", "default"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let text = ended.out();
    for missed in ["overflow of a small chunk, by one NUL", "read of a small chunk shows nothing", "malloc with delete"]
    {
        assert!(
            text.lines().any(|line| line.starts_with("missed in default") && line.contains(missed)),
            "{missed}: {text}"
        );
    }
    assert!(!text.contains("a correct program was stopped"), "{text}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let folder = real::folder();
    let on_a_terminal = |environment: &str| {
        let line = format!("{environment} {} check --profile fast", command().display());
        let script = real::find("script").expect("util-linux");
        let mut command = real::command(&script, folder.path(), None);
        let ended = real::to_the_end(command.env("TERM", "xterm").args(["-qec", &line, "/dev/null"]));
        assert!(ended.status.success(), "{ended:?}");
        ended.out()
    };
    assert!(on_a_terminal("").contains("\u{1b}[32m"));
    assert!(!on_a_terminal("NO_COLOR=1").contains("\u{1b}[32m"));
}
