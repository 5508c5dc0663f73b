//! What the integration tests share: the built library, compiled C programs, and how a child ended.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses its part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub mod attack;
pub mod check;
pub mod compile;

/// The workspace's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether this run may take hours: `TESTUDO_TEST_LENGTH=nightly`.
pub fn nightly() -> bool {
    std::env::var_os("TESTUDO_TEST_LENGTH").is_some_and(|length| length == "nightly")
}

/// Whether this run asks what is reached and not how reliably: `TESTUDO_TEST_LENGTH=brief`, as `tests/coverage` sets it.
pub fn brief() -> bool {
    std::env::var_os("TESTUDO_TEST_LENGTH").is_some_and(|length| length == "brief")
}

/// Builds `libtestudo.so` (release, as it is shipped) once per test process and returns its path.
/// `TESTUDO_TEST_LIBRARY` names another build to test in its place.
///
/// # Panics
/// When cargo cannot build it: no test that needs it could say anything.
pub fn libtestudo() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(other) = std::env::var_os("TESTUDO_TEST_LIBRARY") {
            return PathBuf::from(other);
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "-p", "testudo-preload"])
            .current_dir(root())
            .env("CARGO_TARGET_DIR", &target)
            .status()
            .expect("cargo runs");
        assert!(status.success(), "libtestudo.so does not build");
        target.join("release/libtestudo.so")
    })
}

/// The profiles that a program can be run under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Default,
    Strict,
    Fast,
    Fuzz,
}

impl Profile {
    /// Its name in `TESTUDO_OPTIONS`.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Strict => "strict",
            Profile::Fast => "fast",
            Profile::Fuzz => "fuzz",
        }
    }
}

/// `program`, to be run under the library with this profile. Nothing is sampled, but in `fuzz`: guarded chunks keep other
/// promises than small ones, and would let one run in thousands end in another way.
pub fn preloaded(program: &Path, profile: Profile) -> Command {
    let mut command = Command::new(program);
    let sampling = if profile == Profile::Fuzz { "" } else { ":sample_rate=0" };
    command.env("LD_PRELOAD", libtestudo()).env("TESTUDO_OPTIONS", format!("profile={}{sampling}", profile.name()));
    command
}
