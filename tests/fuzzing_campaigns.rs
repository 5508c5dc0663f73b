//! Campaigns with libFuzzer and AFL++ on targets with planted bugs, without a sanitizer: every bug becomes a crash, and each
//! crash happens again from its file.
//!
//! How long a fuzzer takes to come upon a bug is chance, so a campaign goes on until it has all of them; the deadline
//! is there for the case that it never will.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Every byte of slack would hide an overflow by one from the hardware.
const OPTIONS: &str = "profile=fuzz:guarded_align=1";

/// The letters by which inputs choose bugs, and the beginning of the report where it is not a fault that ends the program.
const C_BUGS: [(u8, Option<&str>); 13] = [
    (b'a', None),
    (b'b', None),
    (b'c', None),
    (b'd', None),
    (b'e', Some("testudo: double free")),
    (b'f', Some("testudo: invalid free")),
    (b'g', None),
    (b'h', None),
    (b'i', None),
    (b'j', None),
    (b'k', Some("testudo: mismatched deallocation")),
    (b'l', Some("testudo: invalid free")),
    (b'm', None),
];

const RUST_BUGS: [(u8, Option<&str>); 12] = [
    (b'a', None),
    (b'b', None),
    (b'c', None),
    (b'd', None),
    (b'e', Some("testudo: double free")),
    (b'f', Some("testudo: invalid free")),
    (b'g', None),
    (b'h', None),
    (b'i', None),
    (b'k', Some("testudo: wrong size")),
    (b'l', Some("testudo: wrong alignment")),
    (b'm', None),
];

/// A folder with what fuzzers start from: a correct input for each bug.
fn seeds(home: &Path, bugs: &[(u8, Option<&str>)]) -> PathBuf {
    let seeds = home.join("seeds");
    std::fs::create_dir(&seeds).expect("a folder");
    for &(letter, _) in bugs {
        std::fs::write(seeds.join(char::from(letter).to_string()), [letter, b'.']).expect("a seed");
    }
    std::fs::write(home.join("words"), "bug=\"!\"\n").expect("a dictionary");
    seeds
}

/// Crash files by the letter that they begin with.
fn crashes(folder: &Path) -> BTreeMap<u8, Vec<PathBuf>> {
    let mut found = BTreeMap::<u8, Vec<PathBuf>>::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Some(&letter) = std::fs::read(entry.path()).unwrap_or_default().first()
            && (name.starts_with("crash-") || name.starts_with("id:"))
        {
            found.entry(letter).or_default().push(entry.path());
        }
    }
    found
}

/// Lets a fuzzer run until its folder has a crash of every kind.
fn campaign(mut fuzzer: Command, folder: &Path, bugs: &[(u8, Option<&str>)]) -> BTreeMap<u8, Vec<PathBuf>> {
    let started = Instant::now();
    let mut log = tempfile::tempfile().expect("a log");
    let duplicate = || log.try_clone().expect("a duplicate");
    fuzzer.stdout(duplicate()).stderr(duplicate());
    let mut child = real::start(&mut fuzzer);
    let found = loop {
        let found = crashes(folder);
        if bugs.iter().all(|(letter, _)| found.contains_key(letter)) || started.elapsed() > real::DEADLINE {
            break found;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let group = i32::try_from(child.id()).expect("a process id");
    // SAFETY: `kill` touches no memory; the group is the child's own, and it has not been waited for.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    child.wait().expect("the fuzzer ends");
    let missing: Vec<_> = bugs.iter().filter(|(letter, _)| !found.contains_key(letter)).collect();
    if !missing.is_empty() {
        let mut said = String::new();
        log.rewind().and_then(|()| log.read_to_string(&mut said)).expect("a log is read");
        let last: Vec<&str> = said.lines().rev().take(30).collect();
        panic!("never found: {missing:?}; what the fuzzer said, last line first:\n{}", last.join("\n"));
    }
    found
}

/// The first line of the report without the address, which differs from run to run; how the process ended where there
/// is none.
fn key(ended: &real::Ended) -> Option<String> {
    let report = ended.err().lines().find(|line| line.starts_with("testudo: ")).map(|line| {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.starts_with("0x")).collect();
        words.join(" ")
    });
    let failed = !ended.status.success();
    report.or_else(|| failed.then(|| format!("signal {:?}", ended.status.signal())))
}

/// Claims that every crash file ends the program again, and that the reports of one bug have one first line.
fn reproduce(found: &BTreeMap<u8, Vec<PathBuf>>, bugs: &[(u8, Option<&str>)], run: impl Fn(&Path) -> Command) {
    for (letter, report) in bugs {
        let mut lines = BTreeSet::new();
        for file in found.get(letter).into_iter().flatten() {
            // A chunk lies against its guard on one side or the other by chance, so an overflow by one may need a few runs.
            let line = (0..40).find_map(|_| key(&real::to_the_end(&mut run(file))));
            lines.insert(line.unwrap_or_else(|| panic!("{} does not crash again", file.display())));
        }
        if let Some(report) = report {
            let all: Vec<_> = lines.iter().collect();
            assert!(all.len() == 1 && all[0].starts_with(report), "{}: {all:?}", char::from(*letter));
        }
    }
}

/// Compiles the C target.
fn compile(compiler: &str, home: &Path, flags: &[&str]) -> PathBuf {
    let program = home.join("target");
    let ended = real::to_the_end(
        Command::new(compiler)
            .args(["-O1", "-g", "-fno-builtin", "-w"])
            .args(flags)
            .arg(support::root().join("examples/fuzzing/target.c"))
            .arg("-o")
            .arg(&program)
            .arg("-lstdc++")
            .env("AFL_QUIET", "1"),
    );
    assert!(ended.status.success(), "{ended:?}");
    program
}

fn libfuzzer(program: &Path, home: &Path, seeds: &Path, preload: Option<&Path>) -> (Command, PathBuf) {
    let artifacts = home.join("artifacts");
    std::fs::create_dir(&artifacts).expect("a folder");
    let mut fuzzer = Command::new(program);
    fuzzer
        .arg(seeds)
        .args(["-fork=1", "-ignore_crashes=1", "-max_len=2"])
        .arg(format!("-dict={}", home.join("words").display()))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .current_dir(home)
        .env("TESTUDO_OPTIONS", OPTIONS);
    if let Some(library) = preload {
        fuzzer.env("LD_PRELOAD", library);
    }
    (fuzzer, artifacts)
}

#[test]
fn libfuzzer_finds_every_bug_of_the_c_target() {
    if !real::installed(&["clang"]) {
        return;
    }
    let folder = real::folder();
    let program = compile("clang", folder.path(), &["-fsanitize=fuzzer"]);
    let seeds = seeds(folder.path(), &C_BUGS);
    let library = support::libtestudo();
    let (fuzzer, artifacts) = libfuzzer(&program, folder.path(), &seeds, Some(library));
    let found = campaign(fuzzer, &artifacts, &C_BUGS);
    reproduce(&found, &C_BUGS, |file| {
        let mut again = Command::new(&program);
        again.arg(file).env("LD_PRELOAD", library).env("TESTUDO_OPTIONS", OPTIONS);
        again
    });
}

#[test]
fn libfuzzer_finds_every_bug_of_the_rust_target() {
    let folder = real::folder();
    let program = rust_target();
    let seeds = seeds(folder.path(), &RUST_BUGS);
    let (fuzzer, artifacts) = libfuzzer(&program, folder.path(), &seeds, None);
    let found = campaign(fuzzer, &artifacts, &RUST_BUGS);
    reproduce(&found, &RUST_BUGS, |file| {
        let mut again = Command::new(&program);
        again.arg(file).env("TESTUDO_OPTIONS", OPTIONS);
        again
    });
}

/// Builds the Rust target with cargo-fuzz's flags, but for the sanitizer's, which need a nightly compiler.
fn rust_target() -> PathBuf {
    const HOST: &str = "x86_64-unknown-linux-gnu";
    const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| support::root().join("target"), PathBuf::from);
    let target = target.join("fuzz");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--target", HOST])
        .current_dir(support::root().join("examples/fuzzing/rust"))
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", FLAGS)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the Rust target does not build");
    target.join(HOST).join("release/target")
}

/// AFL++ on the C target, with its fork server or in persistent mode.
fn afl(flags: &[&str]) {
    if !real::installed(&["afl-fuzz", "afl-clang-fast"]) {
        return;
    }
    let folder = real::folder();
    let program = compile("afl-clang-fast", folder.path(), flags);
    let seeds = seeds(folder.path(), &C_BUGS);
    let out = folder.path().join("out");
    let mut fuzzer = Command::new("afl-fuzz");
    fuzzer
        .args(["-D", "-m", "none", "-t", "5000"])
        .arg("-i")
        .arg(&seeds)
        .arg("-x")
        .arg(folder.path().join("words"))
        .arg("-o")
        .arg(&out)
        .arg(&program)
        .env("AFL_PRELOAD", support::libtestudo())
        .env("TESTUDO_OPTIONS", OPTIONS)
        // Nothing of the machine is to be changed for a test, and no terminal is there.
        .envs(
            ["AFL_SKIP_CPUFREQ", "AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES", "AFL_NO_AFFINITY", "AFL_NO_UI"]
                .map(|name| (name, "1")),
        );
    let found = campaign(fuzzer, &out.join("default/crashes"), &C_BUGS);
    reproduce(&found, &C_BUGS, |file| {
        let mut again = Command::new(&program);
        again
            .stdin(std::fs::File::open(file).expect("a crash file"))
            .env("LD_PRELOAD", support::libtestudo())
            .env("TESTUDO_OPTIONS", OPTIONS);
        again
    });
}

#[test]
fn afl_finds_every_bug_in_persistent_mode() {
    afl(&["-DPERSISTENT"]);
}

#[test]
fn afl_finds_every_bug_with_its_fork_server() {
    afl(&[]);
}
