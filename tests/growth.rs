//! What holds while one large chunk grows by `realloc`, step by step.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

fn grows(what: &str, expected: &str) {
    let folder = real::folder();
    let program = real::compile("c/growth.c", folder.path(), "program", &[]);
    for profile in ["profile=default", "profile=strict", "profile=fast"] {
        let ended = real::to_the_end(real::command(&program, folder.path(), Some(profile)).arg(what));
        assert_eq!(ended.out(), format!("{expected}\n"), "{profile}: {ended:?}");
        assert!(ended.status.success() && ended.err().is_empty(), "{profile}: {ended:?}");
    }
}

#[test]
fn addresses_freed_before_stay_in_quarantine() {
    grows("quarantined", "the addresses are taken");
}

#[test]
fn pages_are_moved_and_never_copied() {
    grows("moved", "every page was faulted in once");
}
