//! Programs that know nothing of testudo print and return the same with it as without it.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

#[path = "real/redis.rs"]
mod redis;

/// One run of a scenario: a fresh folder, an environment, and what was seen so far.
struct Stage {
    folder: TempDir,
    options: Option<&'static str>,
    seen: Vec<(String, String)>,
}

impl Stage {
    fn new(options: Option<&'static str>) -> Self {
        Self { folder: real::folder(), options, seen: Vec::new() }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command that runs `program` in this stage's folder, the same in every run.
    fn command(&self, program: &str) -> Command {
        let file = if program.starts_with("./") {
            self.folder().join(program)
        } else {
            real::find(program).expect("programs are looked for first")
        };
        let mut command = real::command(&file, self.folder(), self.options);
        command
            .env("PYTHONHASHSEED", "0")
            .env("PYTHONMALLOC", "malloc")
            .env("PERL_HASH_SEED", "0")
            .env("PERL_PERTURB_KEYS", "0")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "Somebody")
                .env(format!("GIT_{role}_EMAIL"), "somebody@example.org")
                .env(format!("GIT_{role}_DATE"), "2024-02-29T12:00:00+00:00");
        }
        command
    }

    /// Runs a program, which must succeed, and notes what it printed.
    fn run(&mut self, program: &str, args: &[&str]) -> real::Ended {
        let mut command = self.command(program);
        let ended = real::to_the_end(command.args(args));
        assert!(ended.status.success(), "{program} {args:?}: {ended:?}");
        let what = format!("{program} {args:?}");
        self.note(&format!("{what}: stdout"), ended.out());
        self.note(&format!("{what}: stderr"), ended.err());
        ended
    }

    /// Runs a script of `tests/real`, which prints `result`; that it does is checked, so that a
    /// script which fails alike in both runs does not pass.
    fn run_script(&mut self, program: &str, script: &str, result: &str) {
        fs::copy(input(script), self.folder().join(script)).expect("a script is copied");
        let ended = self.run(program, &[script]);
        assert!(ended.out().contains(result), "{program}: {ended:?}");
    }

    fn note(&mut self, what: &str, seen: String) {
        self.seen.push((what.to_owned(), seen));
    }
}

fn input(name: &str) -> std::path::PathBuf {
    support::root().join("tests/real").join(name)
}

/// Plays `scenario` without testudo and under `profile`, and compares all that was seen.
fn same_with_and_without(programs: &[&str], scenario: fn(&mut Stage), profile: &'static str) {
    if !real::installed(programs) {
        return;
    }
    for program in programs {
        assert_loaded_into(program);
    }
    let mut without = Stage::new(None);
    scenario(&mut without);
    let mut with = Stage::new(Some(profile));
    scenario(&mut with);
    assert!(!without.seen.is_empty(), "the scenario shows nothing");
    assert_eq!(without.seen.len(), with.seen.len());
    for ((what, expected), (_, found)) in without.seen.iter().zip(&with.seen) {
        let line = expected.lines().zip(found.lines()).find(|(left, right)| left != right);
        assert!(
            expected == found,
            "{what} differs under {profile}: {} bytes, {} without testudo, first here: {line:?}",
            found.len(),
            expected.len(),
        );
    }
}

/// A statically linked program, or a wrapper that drops `LD_PRELOAD`, would pass every comparison.
fn assert_loaded_into(program: &str) {
    let stage = Stage::new(Some("no_such_option=1"));
    let ended = real::to_the_end(stage.command(program).arg("--version"));
    assert!(
        !ended.status.success() && ended.err().starts_with("testudo: "),
        "{program} does not load libtestudo.so: {ended:?}"
    );
}

/// For each program four tests, which differ in the profile only.
macro_rules! same_with_and_without {
    ($($name:ident needs $programs:expr;)*) => {$(
        mod $name {
            #[test]
            fn is_the_same_under_default() {
                super::same_with_and_without(&$programs, super::scenarios::$name, "profile=default");
            }

            #[test]
            fn is_the_same_under_strict() {
                super::same_with_and_without(&$programs, super::scenarios::$name, "profile=strict");
            }

            #[test]
            fn is_the_same_under_fuzz() {
                super::same_with_and_without(&$programs, super::scenarios::$name, "profile=fuzz");
            }

            #[test]
            fn is_the_same_under_default_that_samples_one_in_ten() {
                super::same_with_and_without(&$programs, super::scenarios::$name, "profile=default:sample_rate=10");
            }
        }
    )*};
}

same_with_and_without! {
    python needs ["python3"];
    perl needs ["perl"];
    git needs ["git", "bash"];
    gcc needs ["gcc"];
    gxx needs ["g++"];
    sqlite needs ["sqlite3"];
    redis_server needs ["redis-server", "redis-cli", "redis-benchmark"];
    jq needs ["jq"];
    lua needs ["lua5.4"];
    z3 needs ["z3"];
    node needs ["node"];
    bash needs ["bash", "awk", "sort", "sed"];
}

mod scenarios {
    use super::{Stage, Write, fs, input, real};

    pub use super::redis::redis_server;

    pub fn python(stage: &mut Stage) {
        stage.run_script("python3", "python.py", "forks True");
    }

    pub fn perl(stage: &mut Stage) {
        stage.run_script("perl", "perl.pl", "38 39 40");
    }

    pub fn git(stage: &mut Stage) {
        stage.run_script("bash", "git.sh", "commit 40 of file5");
    }

    /// The compiler's own work on a file of many functions: the object must be the same.
    pub fn gcc(stage: &mut Stage) {
        let mut source = String::from("#include <stdio.h>\n#include <string.h>\n");
        for number in 0..400 {
            writeln!(
                source,
                "int work{number}(int *data, int count) {{
                    int sum = {number};
                    for (int i = 0; i < count; i++) {{
                        switch ((data[i] + {number}) % 5) {{
                        case 0: sum += data[i] * {number}; break;
                        case 1: sum ^= data[i] >> {shift}; break;
                        case 2: data[i] = sum; break;
                        default: sum -= data[(i * {number}) % count];
                        }}
                    }}
                    return sum;
                }}",
                shift = number % 13,
            )
            .expect("a string grows");
        }
        source.push_str("int main(void) {\n    int data[100], sum = 0;\n");
        source.push_str("    memset(data, 5, sizeof data);\n");
        for number in 0..400 {
            writeln!(source, "    sum += work{number}(data, 100);").expect("a string grows");
        }
        source.push_str("    printf(\"%d\\n\", sum);\n    return 0;\n}\n");
        fs::write(stage.folder().join("generated.c"), source).expect("a source is written");

        stage.run("gcc", &["-O2", "-S", "generated.c", "-o", "generated.s"]);
        let assembly = fs::read_to_string(stage.folder().join("generated.s")).expect("assembly");
        assert!(assembly.len() > 100_000, "gcc wrote too little");
        stage.note("the assembly", assembly);
        stage.run("gcc", &["generated.s", "-o", "generated"]);
        let ended = stage.run("./generated", &[]);
        assert!(ended.stdout.len() > 1, "{ended:?}");
    }

    pub fn gxx(stage: &mut Stage) {
        let name = "exceptions_and_threads.cpp";
        fs::copy(input(name), stage.folder().join(name)).expect("a source is copied");
        stage.run("g++", &["-O1", "-pthread", name, "-o", "program"]);
        let ended = stage.run("./program", &[]);
        assert!(ended.out().ends_with("bad_alloc\n"), "{ended:?}");
    }

    pub fn sqlite(stage: &mut Stage) {
        let script = input("sqlite.sql").display().to_string();
        let read = format!(".read '{script}'");
        for database in [":memory:", "file.db"] {
            let mut command = stage.command("sqlite3");
            let ended = real::to_the_end(command.args(["-batch", "-bail", database, &read]));
            assert!(ended.status.success(), "{ended:?}");
            assert!(ended.out().contains("\nok\n200117\n"), "{ended:?}");
            stage.note(&format!("stdout of {database}"), ended.out());
            stage.note(&format!("stderr of {database}"), ended.err());
        }
    }

    pub fn jq(stage: &mut Stage) {
        let mut records = String::from("[");
        let mut state = 1_u32;
        for id in 0..12_000 {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let separator = if id == 0 { "" } else { "," };
            write!(
                records,
                "{separator}\n{{\"id\": {id}, \"place\": {}, \"name\": \"N{state:x}\", \
                 \"tags\": [\"t{}\", \"u{}\"], \"text\": \"{:x}é{:x}\"}}",
                state % 211,
                state % 7,
                state % 5,
                state >> 3,
                u64::from(state) * 99_991,
            )
            .expect("a string grows");
        }
        records.push_str("\n]\n");
        fs::write(stage.folder().join("records.json"), records).expect("the input is written");
        let filter = input("summary.jq").display().to_string();
        let ended = stage.run("jq", &["-f", &filter, "records.json"]);
        assert!(ended.out().contains("\"heaviest\""), "{ended:?}");
        stage.run("jq", &["-S", "--stream", "-c", "select(length == 2)", "records.json"]);
    }

    pub fn lua(stage: &mut Stage) {
        stage.run_script("lua5.4", "lua.lua", "closures\t10000100000");
    }

    pub fn z3(stage: &mut Stage) {
        stage.run_script("z3", "problem.smt2", "#b0000000000000000000111111111101101");
    }

    pub fn node(stage: &mut Stage) {
        stage.run_script("node", "node.js", "child 42");
    }

    pub fn bash(stage: &mut Stage) {
        stage.run_script("bash", "pipelines.sh", "one+two+3");
    }
}
