//! Other projects' programs, servers and test suites give the same results under testudo as without it, in `default` and
//! in `strict`. What they did in long runs, and what was found wrong with them, is in `docs/tested-programs.md`.
//!
//! Each is a script of `tests/other_programs`; all traffic is on the loopback interface. `TESTUDO_TEST_LENGTH=nightly` makes
//! the scripts do much more, and adds those that take long or need large packages.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

/// Runs a script in a folder of its own, with testudo or without, and returns what it printed.
fn run(script: &str, profile: Option<&str>) -> String {
    let folder = real::folder();
    let home = folder.path();
    for file in fs::read_dir(support::root().join("tests/other_programs")).expect("the scripts") {
        let file = file.expect("a script");
        fs::copy(file.path(), home.join(file.file_name())).expect("a script is copied");
    }
    let mut command = real::command(&real::find("bash").expect("bash"), home, None);
    if let Some(profile) = profile {
        command.env("LIBRARY", support::libtestudo()).env("OPTIONS", format!("profile={profile}"));
    }
    // Where this toolchain's own programs are, for the script that needs them.
    let tools = Path::new(env!("CARGO")).parent().expect("cargo is in a folder");
    command
        .env("PATH", format!("{}:{}", tools.display(), real::search_path()))
        .env("PERL_TESTS", support::root().join("target/tools/perl-5.36.0"))
        .env("LENGTH", if support::nightly() { "nightly" } else { "ci" })
        .arg(script);
    let deadline = if support::nightly() { Duration::from_secs(3 * 3600) } else { real::DEADLINE };
    let ended = real::to_the_end_within(&mut command, deadline);
    let reports = reports_in(home);
    assert!(reports.is_empty(), "{script} under {profile:?}: {reports:?}");
    assert!(ended.status.success(), "{script} under {profile:?}: {ended:?}");
    assert!(!ended.err().contains("testudo: "), "{script} under {profile:?}: {ended:?}");
    ended.out()
}

/// The lines that the library wrote into the programs' logs.
fn reports_in(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if path.is_dir() {
            lines.append(&mut reports_in(&path));
        } else if is_log || path.file_name().is_some_and(|name| name == "log") {
            let text = fs::read(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(Vec::new()),
                _ => Err(error),
            });
            let text = String::from_utf8_lossy(&text.expect("a log")).into_owned();
            lines.extend(text.lines().filter(|line| line.starts_with("testudo: ")).map(str::to_owned));
        }
    }
    lines
}

fn same_with_and_without(script: &str, programs: &[&str]) {
    if !real::installed(programs) {
        return;
    }
    let expected = run(script, None);
    assert!(!expected.is_empty(), "{script} shows nothing");
    for profile in ["default", "strict"] {
        assert_eq!(run(script, Some(profile)), expected, "{script} under {profile}");
    }
}

/// The same, in nightly runs only, where what is missing is no fault of the run.
fn same_in_nightly_runs(script: &str, files: &[&str]) {
    let missing: Vec<_> = files.iter().filter(|file| !Path::new(file).exists()).collect();
    if !support::nightly() || !missing.is_empty() {
        real::say_skipped("nightly runs only, where the program is installed");
        return;
    }
    same_with_and_without(script, &[]);
}

#[test]
fn nginx_serves_while_its_workers_are_replaced() {
    same_with_and_without("nginx.sh", &["wrk"]);
}

#[test]
fn memcached_keeps_values_of_changing_sizes() {
    same_with_and_without("memcached.sh", &["memcached", "python3"]);
}

#[test]
fn openssl_computes_and_shakes_hands() {
    same_with_and_without("openssl.sh", &["openssl"]);
}

#[test]
fn imagemagick_makes_the_same_pixels() {
    same_with_and_without("imagemagick.sh", &["convert", "identify"]);
}

#[test]
fn redis_saves_while_it_is_benchmarked() {
    same_with_and_without("redis.sh", &["redis-server", "redis-cli", "redis-benchmark"]);
}

#[test]
fn cargo_builds_a_crate() {
    same_with_and_without("cargo.sh", &["gcc"]);
}

#[test]
fn php_and_its_extensions_compute_the_same() {
    same_with_and_without("php.sh", &["php"]);
}

#[test]
fn gdb_debugs_a_program() {
    if real::may_trace() {
        same_with_and_without("gdb.sh", &["gdb", "gcc"]);
    }
}

#[test]
fn valgrind_runs_a_program() {
    same_with_and_without("valgrind.sh", &["valgrind", "gcc"]);
}

#[test]
fn python_passes_its_own_tests() {
    let tests = Path::new("/usr/lib/python3.11/test/libregrtest");
    if !tests.exists() {
        assert!(!real::in_ci(), "python's tests are not installed");
        return real::say_skipped("python's tests are not installed");
    }
    same_with_and_without("python.sh", &["python3"]);
}

/// Perl's core tests come in no package of programs: `.ci/run` fetches them, and nightly runs do.
#[test]
fn perl_passes_its_own_core_tests() {
    let tests = support::root().join("target/tools/perl-5.36.0");
    if support::nightly() && !tests.exists() {
        let script = support::root().join("tests/other_programs/perl_source.py");
        let ended = real::to_the_end(Command::new("python3").arg(script).arg(&tests));
        assert!(ended.status.success(), "{ended:?}");
    }
    if !tests.exists() || !Path::new("/usr/share/perl/5.36.0").exists() {
        return real::say_skipped("perl's tests are not here, or another perl than 5.36.0 is");
    }
    same_with_and_without("perl.sh", &["perl"]);
}

#[test]
fn ffmpeg_makes_the_same_frames() {
    same_in_nightly_runs("ffmpeg.sh", &["/usr/bin/ffmpeg"]);
}

#[test]
fn chromium_renders_the_same_page() {
    same_in_nightly_runs("chromium.sh", &["/usr/bin/chromium"]);
}

#[test]
fn postgresql_keeps_its_tables() {
    same_in_nightly_runs("postgresql.sh", &["/usr/lib/postgresql/15/bin/initdb"]);
}
