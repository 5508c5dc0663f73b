//! What a malloc+free pair costs, in instructions: the regression test of the fast path.
//!
//! A check that stops being inlined, or a chunk that leaves the fast path for the slow one, breaks no promise and so no
//! other test, but every program pays for it. Time is no measure for a test: it changes with the machine and with what
//! else runs. Instructions, counted by callgrind, repeat exactly for the same library as long as its random choices
//! do, so a ceiling little above what was counted stands firm. Two runs of different length cancel start-up out.
//!
//! A ceiling may be raised where a protection is worth it; lower it when the path gets shorter.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Command;

use support::Profile;

/// Pairs of the short and the long run.
const PAIRS: [u64; 2] = [20_000, 120_000];

/// Bytes of each chunk.
const SIZE: &str = "64";

/// Claims that a pair takes no more than `ceiling` instructions.
fn a_pair_takes_at_most(ceiling: f64, profile: Profile) {
    if !real::installed(&["valgrind", "gcc"]) {
        return;
    }
    let folder = real::folder();
    let program = real::compile("../benches/programs/pair.c", folder.path(), "pair", &["-O2"]);
    let [short, long] = PAIRS.map(|pairs| instructions(&program, folder.path(), profile, pairs));
    let per_pair = (long - short) as f64 / (PAIRS[1] - PAIRS[0]) as f64;
    println!("{per_pair:.1} instructions per pair in {profile:?}");
    assert!(per_pair <= ceiling, "{per_pair:.1} instructions per pair in {profile:?}, at most {ceiling} are allowed");
}

fn instructions(program: &Path, home: &Path, profile: Profile, pairs: u64) -> u64 {
    let valgrind = real::find("valgrind").expect("valgrind is installed");
    // Placement is random, and how often the slow path runs depends on it: hence the seed.
    let options = format!("profile={}:seed=1", profile.name());
    let mut command: Command = real::command(&valgrind, home, Some(&options));
    let profile_file = home.join("callgrind.out");
    let mut out_file = OsString::from("--callgrind-out-file=");
    out_file.push(&profile_file);
    command.arg("--tool=callgrind").arg(out_file).arg(program).args([&pairs.to_string(), SIZE]);
    let ended = real::to_the_end(&mut command);
    assert!(ended.status.success(), "{ended:?}");
    // The C library's own pairs are cheaper: without this, a library that is not loaded would pass.
    let library = support::libtestudo().file_name().and_then(OsStr::to_str).expect("a library");
    let profiled = fs::read_to_string(&profile_file).expect("a profile");
    assert!(profiled.contains(library), "{library} was not in the process");
    let errors = ended.err();
    errors
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("no count in {ended:?}"))
}

#[test]
fn a_pair_in_default_stays_on_the_fast_path() {
    a_pair_takes_at_most(220.0, Profile::Default);
}

#[test]
fn a_pair_in_strict_stays_on_the_fast_path() {
    a_pair_takes_at_most(415.0, Profile::Strict);
}

#[test]
fn a_pair_in_fast_stays_on_the_fast_path() {
    a_pair_takes_at_most(256.0, Profile::Fast);
}
