//! System calls that a sandbox forbids.

use crate::{real, support};

const PROFILES: [&str; 3] = ["profile=default", "profile=strict", "profile=fast"];

/// Runs a workload where `call` fails with `error`.
fn without(call: &str, error: &str, profile: &str) -> real::Ended {
    let folder = real::folder();
    let sandbox = real::compile("c/sandbox.c", folder.path(), "sandbox", &[]);
    let workload = real::compile("c/sandbox_workload.c", folder.path(), "workload", &[]);
    let mut command = real::command(&sandbox, folder.path(), None);
    command.env("TESTUDO_OPTIONS", profile).args([call, error]).arg(support::libtestudo()).arg(workload);
    real::to_the_end(&mut command)
}

fn works_without(call: &str) {
    for error in ["ENOSYS", "EPERM"] {
        for profile in PROFILES {
            let ended = without(call, error, profile);
            assert!(ended.status.success(), "{error}, {profile}: {ended:?}");
            assert!(ended.out().ends_with("all work done\n"), "{ended:?}");
            assert_eq!(ended.err(), "", "{error}, {profile}");
        }
    }
}

/// Another source of entropy, or an end with one line; but never the same layout twice.
#[test]
fn without_getrandom_addresses_stay_random_or_the_program_ends_with_one_line() {
    for error in ["ENOSYS", "EPERM"] {
        for profile in PROFILES {
            let runs: Vec<_> = (0..3).map(|_| without("getrandom", error, profile)).collect();
            for ended in &runs {
                if ended.status.success() {
                    assert!(ended.out().ends_with("all work done\n"), "{ended:?}");
                    assert_eq!(ended.err(), "", "{error}, {profile}");
                } else {
                    assert_eq!(ended.out(), "", "{error}, {profile}");
                    assert!(ended.err().starts_with("testudo: "), "{ended:?}");
                    assert_eq!(ended.err().lines().count(), 1, "{ended:?}");
                }
            }
            assert!(
                !runs[0].status.success() || (runs[0] != runs[1] && runs[1] != runs[2] && runs[0] != runs[2]),
                "{error}, {profile}: the same addresses in two runs: {runs:?}"
            );
        }
    }
}

#[test]
fn without_madvise_everything_works() {
    works_without("madvise");
}

#[test]
fn without_mremap_everything_works() {
    works_without("mremap");
}

#[test]
fn without_rseq_everything_works() {
    works_without("rseq");
}

/// Memory was given back with calls that are forbidden now.
#[test]
fn memory_given_back_before_the_sandbox_was_entered_can_be_had_again() {
    let folder = real::folder();
    let program = real::compile("c/sandbox_entered_later.c", folder.path(), "program", &[]);
    for profile in PROFILES {
        let ended = real::to_the_end(&mut real::command(&program, folder.path(), Some(profile)));
        assert_eq!(ended.out(), "all work done\n", "{profile}: {ended:?}");
        assert!(ended.status.success() && ended.err().is_empty(), "{profile}: {ended:?}");
    }
}
