//! The workloads: programs that people run, and programs of our own that do little but allocate.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::inputs;
use crate::places::Places;

/// How a workload is run.
#[derive(Clone, Debug)]
pub enum Kind {
    /// One program from start to end.
    Program { words: Vec<String>, environment: Vec<(String, String)> },
    /// redis-server under redis-benchmark: so many requests of each kind.
    Redis { requests: u64 },
}

/// What a workload has in common with others: each group has a mean of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// A program that people run.
    Program,
    /// A program of our own that does little but allocate.
    Allocating,
    /// A walk over nodes, which shows how well their placement suits the processor.
    Walk,
}

impl Group {
    /// In the order in which the means are printed.
    pub const ALL: [Self; 3] = [Self::Program, Self::Allocating, Self::Walk];

    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "programs",
            Self::Allocating => "allocation-bound",
            Self::Walk => "walks",
        }
    }
}

/// One workload.
#[derive(Clone, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub kind: Kind,
    pub group: Group,
    /// Whether its time says something; of a tiny process only the memory does.
    pub timed: bool,
}

/// The workloads that the command line asks for and that this machine can run.
pub fn chosen(places: &Places, arguments: &Arguments) -> Result<Vec<Workload>, String> {
    inputs::make(places, arguments.quick)?;
    let mut workloads = all(places, arguments.quick, arguments.live);
    workloads.retain(|workload| arguments.wants_workload(workload.name));
    workloads.retain(|workload| {
        let missing = match &workload.kind {
            Kind::Program { words, .. } => missing_program(&words[0]),
            Kind::Redis { .. } => {
                ["redis-server", "redis-benchmark", "redis-cli"].into_iter().find_map(missing_program)
            }
        };
        if let Some(program) = &missing {
            eprintln!("{}: left out, there is no {program}", workload.name);
        }
        missing.is_none()
    });
    Ok(workloads)
}

fn missing_program(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    (!found).then(|| program.to_string())
}

/// Every workload, sized to take one to three seconds under glibc, or about a fifth of that.
pub fn all(places: &Places, quick: bool, live: Option<u64>) -> Vec<Workload> {
    let by = |full: u64, short: u64| (if quick { short } else { full }).to_string();
    let own = |name: &'static str, about: &'static str, program: &str, words: Vec<String>| Workload {
        name,
        about,
        kind: Kind::Program { words: own_words(places, program, words), environment: Vec::new() },
        group: if program == "walk" { Group::Walk } else { Group::Allocating },
        timed: true,
    };
    let system = |name: &'static str, about: &'static str, words: Vec<String>| Workload {
        name,
        about,
        kind: Kind::Program { words, environment: Vec::new() },
        group: Group::Program,
        timed: true,
    };
    let input = |name: &str| places.input(name).display().to_string();
    let null = || "/dev/null".to_string();
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();

    let mut list = vec![
        own("factor-1", "tiny objects that die young, 1 thread", "factor", vec![by(8_000_000, 1_600_000), "1".into()]),
        own("factor-4", "the same in 4 threads", "factor", vec![by(4_000_000, 800_000), "4".into()]),
        own(
            "server-2",
            "server simulation, frees across threads, 2 threads",
            "server",
            [vec![by(60_000_000, 12_000_000)], words(&["2", "16000", "8", "1000", "20"])].concat(),
        ),
        own(
            "server-64",
            "the same work and live data in 64 threads",
            "server",
            [vec![by(60_000_000, 12_000_000)], words(&["64", "500", "8", "1000", "20"])].concat(),
        ),
        own(
            "handoff",
            "producer and consumer: every free in the other thread",
            "handoff",
            [vec![by(16_000_000, 3_200_000)], words(&["16", "112"])].concat(),
        ),
        own(
            "pairs",
            "malloc+free of mixed sizes among long-lived survivors, 1 thread",
            "pairs",
            [vec![by(40_000_000, 8_000_000)], words(&["20000", "8192"])].concat(),
        ),
        own(
            "buffers-64K",
            "20 live buffers of 64–128 KiB replaced at random",
            "buffers",
            [vec![by(800_000, 160_000)], words(&["65536", "131072", "20"])].concat(),
        ),
        own(
            "buffers-256K",
            "20 live buffers of 256 KiB–1 MiB replaced at random",
            "buffers",
            [vec![by(80_000, 16_000)], words(&["262144", "1048576", "20"])].concat(),
        ),
        own(
            "buffers-5M",
            "20 live buffers of 5–15 MB replaced at random",
            "buffers",
            [vec![by(3_000, 800)], words(&["5000000", "15000000", "20"])].concat(),
        ),
        own(
            "grow",
            "vectors grown by realloc to 1 GiB (quick: 256 MiB)",
            "grow",
            vec![by(1024, 256), "20".into(), by(2, 1)],
        ),
        own(
            "spike",
            "2 GiB (quick: 512 MiB) of small chunks allocated and freed",
            "spike",
            vec![by(2048, 512), "0".into()],
        ),
        own(
            "threads",
            "short-lived threads, 8 at a time",
            "threads",
            vec![by(30_000, 6_000), "8".into(), "500".into()],
        ),
        own(
            "walk-list",
            "a list built once in a fresh heap, walked again and again",
            "walk",
            vec!["list".into(), by(2_000_000, 1_000_000), by(100, 40), "0".into()],
        ),
        own(
            "walk-tree",
            "the same with a binary tree",
            "walk",
            vec!["tree".into(), by(2_000_000, 1_000_000), by(100, 40), "0".into()],
        ),
        own(
            "walk-aged",
            "a list whose nodes share the heap with freed chunks",
            "walk",
            vec!["list".into(), by(2_000_000, 1_000_000), by(40, 15), "1".into()],
        ),
        own(
            "many",
            "20 million (quick: 4 million) live chunks of 48 bytes",
            "many",
            vec![live.map_or_else(|| by(20_000_000, 4_000_000), |live| live.to_string()), "48".into()],
        ),
        own(
            "start",
            "a tiny program started again and again",
            "spawn",
            vec![by(2_000, 400), places.program("tiny").display().to_string()],
        ),
        Workload { timed: false, ..own("tiny", "a tiny process: resident memory", "tiny", Vec::new()) },
        Workload {
            name: "python-json",
            about: "CPython builds and parses JSON, every object through malloc",
            kind: Kind::Program {
                words: vec![python(), input("documents.py"), by(25_000, 10_000), by(2, 1)],
                environment: vec![
                    ("PYTHONMALLOC".into(), "malloc".into()),
                    // Else the order of sets and dicts, and so the work, differs from run to run.
                    ("PYTHONHASHSEED".into(), "0".into()),
                ],
            },
            group: Group::Program,
            timed: true,
        },
        system("lua", "Lua tables and strings", vec![lua(), input("tables.lua"), by(60, 12)]),
        system(
            "sqlite",
            "sqlite: 300,000 rows in memory (quick: 80,000)",
            vec!["sqlite3".into(), ":memory:".into(), format!(".read {}", input("rows.sql"))],
        ),
        system(
            "gcc",
            "g++ -O2 compiles templates",
            vec!["g++".into(), "-O2".into(), "-c".into(), input("templates.cpp"), "-o".into(), null()],
        ),
        system("z3", "z3 solves arithmetic and bit vectors", vec!["z3".into(), input("puzzle.smt2")]),
        system(
            "ghostscript",
            "ghostscript turns PostScript into PDF",
            [
                words(&["gs", "-q", "-dNOPAUSE", "-dBATCH", "-dSAFER", "-sDEVICE=pdfwrite", "-o", "/dev/null"]),
                vec![input("pages.ps")],
            ]
            .concat(),
        ),
        system(
            "pdftoppm",
            "poppler renders a PDF",
            [words(&["pdftoppm", "-r", "50", "-l"]), vec![by(2, 1), input("pages.pdf"), null()]].concat(),
        ),
    ];
    list.push(Workload {
        name: "redis",
        about: "redis-server under redis-benchmark",
        kind: Kind::Redis { requests: if quick { 30_000 } else { 100_000 } },
        group: Group::Program,
        timed: true,
    });
    list
}

fn own_words(places: &Places, program: &str, words: Vec<String>) -> Vec<String> {
    let mut all = vec![places.program(program).display().to_string()];
    all.extend(words);
    all
}

/// The distribution's interpreter rather than a shim or a virtual environment of the user's.
fn python() -> String {
    first_of(&["/usr/bin/python3", "python3"])
}

fn lua() -> String {
    first_of(&["/usr/bin/lua5.4", "/usr/bin/lua5.3", "lua"])
}

fn first_of(candidates: &[&str]) -> String {
    let last = candidates.last().copied().unwrap_or_default();
    candidates.iter().copied().find(|path| PathBuf::from(path).exists()).unwrap_or(last).to_string()
}
