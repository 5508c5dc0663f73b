//! A program without shared libraries: what `LD_PRELOAD` cannot reach, linking `libtestudo.a` can.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

/// The library as an archive. In a target folder of its own: the shared one is in use by other tests.
fn archive() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
    let status = Command::new(env!("CARGO"))
        .args(["rustc", "--release", "--quiet", "-p", "testudo-preload", "--lib", "--no-default-features"])
        .args(["--crate-type", "staticlib"])
        .current_dir(support::root())
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "libtestudo.a does not build");
    target.join("release/libtestudo.a")
}

#[test]
fn a_statically_linked_program_is_served_and_protected() {
    let archive = archive();
    let folder = real::folder();
    let archive = archive.to_str().expect("a path in UTF-8");
    let flags = ["-static", "-pthread", "-fno-builtin", archive];
    let program = real::compile("c/static_program.c", folder.path(), "program", &flags);
    for profile in ["default", "strict", "fast"] {
        let command = || {
            let mut command = Command::new(&program);
            command.env("TESTUDO_OPTIONS", format!("profile={profile}"));
            command
        };
        let ended = real::to_the_end(&mut command());
        assert!(ended.status.success() && ended.err().is_empty(), "{profile}: {ended:?}");
        assert_eq!(ended.out(), "every thread and child ended well\n", "{profile}");
        let ended = real::to_the_end(command().arg("twice"));
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{profile}: {ended:?}");
        assert!(ended.err().starts_with("testudo: double free at 0x"), "{profile}: {ended:?}");
    }
}
