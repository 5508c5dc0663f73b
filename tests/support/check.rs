//! Runs the named checks of a conformance program.

use super::{Profile, compile, preloaded};

/// Claims that the check called `name` of a program in `tests/c` finds nothing wrong, whatever the
/// profile: what the C standard asks for does not depend on it.
///
/// # Panics
/// With all that it did find.
pub fn conforms(source: &str, name: &str) {
    let program = compile::program(&[source]);
    for profile in [Profile::Default, Profile::Strict, Profile::Fast] {
        let output = preloaded(&program, profile).arg(name).output().expect("the program runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{name} of {source} in {profile:?} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
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
