//! Every system call that the allocator makes for memory is refused in turn, once, a few times and for good, while a
//! program with a model of its memory runs: `malloc` returns NULL and sets `ENOMEM`, nothing allocated before is lost or
//! changed, nothing hangs, and once the system relents everything works again.
//!
//! `TESTUDO_TEST_LENGTH=nightly` refuses every call; otherwise it is some, spread over the whole run.

use std::path::Path;

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

/// For how many calls a fault lasts; zero is for good.
const LENGTHS: [u64; 4] = [1, 3, 40, 0];

/// Faults of one kind, profile and length in a short run.
const SOME: u64 = 3;

fn run(program: &Path, folder: &Path, profile: &str, kinds: &str, first: u64, length: u64) -> real::Ended {
    let mut command = real::command(program, folder, Some(profile));
    // The program's own functions take the place of libc's only where it is looked up first, as programs are.
    real::to_the_end(command.env("FAULTS", format!("{kinds}:{first}:{length}")))
}

/// How many calls of these kinds there were, from what the program printed.
fn calls(ended: &real::Ended) -> Option<u64> {
    let out = ended.out();
    let rest = out.strip_prefix("the contract held in ")?;
    let (count, rest) = rest.split_once(' ')?;
    (rest == "calls\n" && ended.status.success() && ended.err().is_empty()).then(|| count.parse().ok())?
}

/// Where no heap can be made, one line says so, and the program does not begin.
fn refused_to_start(ended: &real::Ended) -> bool {
    let line = ended.err();
    ended.status.code() == Some(1)
        && ended.out().is_empty()
        && line.starts_with("testudo: cannot start: ")
        && line.lines().count() == 1
}

fn the_contract_holds_without(kinds: &str) {
    the_contract_holds_in(&["profile=default", "profile=strict", "profile=fast"], kinds);
}

fn the_contract_holds_in(profiles: &[&str], kinds: &str) {
    let folder = real::folder();
    let program = real::compile("c/faults.c", folder.path(), "program", &["-rdynamic"]);
    for profile in profiles {
        let sound = run(&program, folder.path(), profile, kinds, 0, 0);
        let total = calls(&sound).unwrap_or_else(|| panic!("{profile}: without faults: {sound:?}"));
        assert!(total >= 8, "{profile}: the program makes {total} calls only");
        for (number, length) in LENGTHS.into_iter().enumerate() {
            let step = if support::nightly() { 1 } else { (total / SOME).max(1) };
            // Another start for each length, so that other calls are hit.
            let start = 1 + number as u64 * step / LENGTHS.len() as u64;
            for first in (start..=total).step_by(step as usize) {
                let ended = run(&program, folder.path(), profile, kinds, first, length);
                // What comes before the first 64 calls may be the making of the heap.
                let held = calls(&ended).is_some() || first < 64 && refused_to_start(&ended);
                assert!(held, "{profile}, FAULTS={kinds}:{first}:{length}: {ended:?}");
            }
        }
    }
}

#[test]
fn the_contract_holds_when_mmap_is_refused() {
    the_contract_holds_without("m");
}

#[test]
fn the_contract_holds_when_mprotect_is_refused() {
    the_contract_holds_without("p");
}

#[test]
fn the_contract_holds_when_madvise_is_refused() {
    the_contract_holds_without("a");
}

#[test]
fn the_contract_holds_when_mremap_is_refused() {
    the_contract_holds_without("r");
}

#[test]
fn the_contract_holds_when_munmap_is_refused() {
    the_contract_holds_without("u");
}

/// Guarded slots are opened and closed by system calls of their own.
#[test]
fn the_contract_holds_where_many_chunks_are_guarded_when_everything_is_refused() {
    the_contract_holds_in(&["profile=default:sample_rate=3"], "mparu");
}

#[test]
fn the_contract_holds_when_everything_is_refused() {
    the_contract_holds_without("mparu");
}
