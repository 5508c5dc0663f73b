//! Runs the named checks of a conformance program.

use std::process::Command;

use super::{Profile, compile, preloaded};

/// Claims that the check called `name` of a program in `tests/c` finds nothing wrong, whatever the
/// profile: what the C standard asks for does not depend on it.
///
/// # Panics
/// With all that it did find.
pub fn conforms(source: &str, name: &str) {
    let program = compile::program(&[source]);
    let one = |name_of_run: &str, mut command: Command| {
        let output = command.arg(name).output().expect("the program runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{name} of {source} in {name_of_run} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };
    for profile in [Profile::Default, Profile::Strict, Profile::Fast] {
        one(profile.name(), preloaded(&program, profile));
    }
    // Statistics of size classes count no guarded chunks.
    if source.starts_with("conformance") {
        let mut sampled = preloaded(&program, Profile::Default);
        sampled.env("TESTUDO_OPTIONS", "sample_rate=1");
        one("default, every chunk guarded", sampled);
    }
}

/// Declares one test for each named check of one conformance program.
macro_rules! checks {
    (of $source:literal; $($name:ident)+) => {
        $(#[test]
        fn $name() {
            $crate::support::check::conforms($source, stringify!($name));
        })+
    };
}
pub(crate) use checks;
