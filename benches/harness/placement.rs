//! The placement experiment: what each order of handing out slots, and of their return, costs a program, and how many bits
//! an attacker lacks under it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::entropy::{Bits, Question, Sample};
use crate::peers::{self, Allocator};
use crate::placement_picture;
use crate::places::{Places, run_tool};
use crate::publish::publish;
use crate::results::{Report, geometric_mean};
use crate::rounds;
use crate::workloads::{self, Group};

/// Unless the command line names others.
const WORKLOADS: [&str; 6] = ["python-json", "lua", "gcc", "walk-list", "walk-tree", "server-2"];

/// Programs and walks have a mean; the server simulation stands alone.
const SERVER: &str = "server-2";

/// Processes whose placements are looked at, half of them to learn from.
const PROCESSES: usize = 64;

/// What a point of the picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The experiment's allocator with an order of handing out, and the ring as quarantine.
    Order,
    /// The experiment's allocator with an order of return, handing out random half words.
    Return,
    /// testudo itself.
    Profile,
}

/// A candidate: name, kind, configuration, and the name of what its time is compared with.
type Candidate = (&'static str, Kind, &'static str, &'static str);

/// A profile is compared with itself without random choice, so that what else it does counts on neither side.
const CANDIDATES: [Candidate; 24] = [
    ("ascending", Kind::Order, "order=ascending", "ascending"),
    ("ascending with gaps", Kind::Order, "order=gaps", "ascending"),
    ("gaps, up or down", Kind::Order, "order=gaps-up-or-down", "ascending"),
    ("random slab, runs of 32", Kind::Order, "order=slab-32", "ascending"),
    ("random slab, runs of 8", Kind::Order, "order=slab-8", "ascending"),
    ("random half words, gaps", Kind::Order, "order=half-words", "ascending"),
    ("random word, up or down", Kind::Order, "order=up-or-down", "ascending"),
    ("random runs of 8, gaps", Kind::Order, "order=short-runs", "ascending"),
    ("shuffled groups of 8", Kind::Order, "order=groups-8", "ascending"),
    ("shuffled groups of 4", Kind::Order, "order=groups-4", "ascending"),
    ("shuffled groups of 2", Kind::Order, "order=groups-2", "ascending"),
    ("shuffled batch", Kind::Order, "order=shuffle", "ascending"),
    ("full random pick", Kind::Order, "order=random", "ascending"),
    ("no quarantine", Kind::Return, "order=half-words:quarantine=none", "random half words, gaps"),
    ("ring", Kind::Return, "order=half-words:quarantine=ring", "random half words, gaps"),
    ("ring of changing length", Kind::Return, "order=half-words:quarantine=varying", "random half words, gaps"),
    ("random replacement", Kind::Return, "order=half-words:quarantine=replacement", "random half words, gaps"),
    ("ring, then replacement", Kind::Return, "order=half-words:quarantine=both", "random half words, gaps"),
    ("testudo default", Kind::Profile, "profile=default", DEFAULT_BASE),
    ("testudo strict", Kind::Profile, "profile=strict", STRICT_BASE),
    ("testudo fast", Kind::Profile, "profile=fast", FAST_BASE),
    (DEFAULT_BASE, Kind::Profile, "profile=default:randomize=0", DEFAULT_BASE),
    (STRICT_BASE, Kind::Profile, "profile=strict:randomize=0", STRICT_BASE),
    (FAST_BASE, Kind::Profile, "profile=fast:randomize=0", FAST_BASE),
];

const DEFAULT_BASE: &str = "default, not random";
const STRICT_BASE: &str = "strict, not random";
const FAST_BASE: &str = "fast, not random";

/// A candidate as measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    pub name: String,
    pub kind: Kind,
    /// Time beside what it is compared with: programs, walks, the server simulation, all.
    pub programs: Option<f64>,
    pub walks: Option<f64>,
    pub server: Option<f64>,
    pub all: Option<f64>,
    /// In a fresh heap and in an aged one.
    pub next: [Bits; 2],
    pub after: [Bits; 2],
    pub returns: Bits,
}

impl Point {
    /// Of both heaps the one that is easier to foresee.
    pub fn least(bits: &[Bits; 2]) -> f64 {
        bits[0].guess.min(bits[1].guess).abs()
    }
}

/// Measures time and entropy, prints the table and draws the picture.
pub fn run(places: &Places, arguments: &Arguments) -> Result<(), String> {
    let experiment = build(places)?;
    let product = peers::testudo(places, arguments)?;
    let allocators: Vec<Allocator> = CANDIDATES
        .iter()
        .map(|(name, kind, configuration, _)| match kind {
            Kind::Profile => Allocator::testudo(*name, &product, *configuration),
            Kind::Order | Kind::Return => Allocator {
                name: (*name).into(),
                library: Some(experiment.clone()),
                variable: Some(("TESTUDO_PLACEMENT", (*configuration).into())),
            },
        })
        .collect();
    let mut workloads = workloads::chosen(places, arguments)?;
    if arguments.workloads.is_empty() {
        workloads.retain(|workload| WORKLOADS.contains(&workload.name));
    }
    let report = rounds::measure_all(places, arguments, &workloads, &allocators, "placement-times")?;
    let mut points = Vec::new();
    for ((name, kind, _, base), allocator) in CANDIDATES.iter().zip(&allocators) {
        if name == base && *kind == Kind::Profile {
            continue;
        }
        eprintln!("looking at where chunks lie: {name}");
        points.push(point(places, &report, allocator, *kind, base)?);
    }
    let file = places.results("placement");
    let json = serde_json::to_string_pretty(&points).map_err(|error| error.to_string())?;
    std::fs::write(&file, json).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut pictures = vec![places.out.join("placement.svg")];
    if arguments.publish {
        pictures.push(places.root().join("docs/placement.svg"));
    }
    publish(places, arguments, "placement", &text(&report, &points))?;
    for picture in pictures {
        placement_picture::draw(&picture, &points)?;
        println!("the picture: {}", picture.display());
    }
    Ok(())
}

/// The experiment's own allocator, of the package beside this one.
fn build(places: &Places) -> Result<PathBuf, String> {
    eprintln!("building the experiment's allocator …");
    let messages = run_tool(
        Command::new("cargo")
            .args(["build", "--release", "--package", "testudo-placement", "--message-format", "json"])
            .current_dir(&places.package),
    )?;
    let library = peers::library_among(&messages, "libtestudo_placement.so")?;
    peers::works(&library)?;
    Ok(library)
}

fn point(places: &Places, report: &Report, allocator: &Allocator, kind: Kind, base: &str) -> Result<Point, String> {
    let mean = |wanted: &dyn Fn(&str, Group) -> bool| {
        let ratios =
            report.workloads.iter().filter(|workload| wanted(&workload.name, workload.group)).filter_map(|workload| {
                let time = |usage: &crate::measure::Usage| usage.user + usage.system;
                Some(report.ratio(&workload.name, &allocator.name, base, &time)?.median)
            });
        geometric_mean(ratios).map(|(mean, _)| mean)
    };
    let fresh = Sample::take(places, allocator, PROCESSES, false)?;
    let aged = Sample::take(places, allocator, PROCESSES, true)?;
    let both = |question| [fresh.bits(question), aged.bits(question)];
    Ok(Point {
        name: allocator.name.clone(),
        kind,
        programs: mean(&|_, group| group == Group::Program),
        walks: mean(&|_, group| group == Group::Walk),
        server: mean(&|name, _| name == SERVER),
        all: mean(&|_, _| true),
        next: both(Question::Next),
        after: both(Question::After),
        returns: fresh.bits(Question::Return),
    })
}

fn text(report: &Report, points: &[Point]) -> String {
    let mut text = format!(
        "{}; {} rounds{}. Processor time × the same allocator handing out in ascending order with a plain ring; for the orders of\n\
         return × the plain ring; for testudo's profiles × the profile with `randomize=0`. Bits: -log2 of an attacker's share of right guesses\n\
         (in brackets the Shannon entropy), fresh heap / aged heap, chunks of 48 bytes.\n",
        report.machine,
        report.rounds(),
        if report.quick { ", quick" } else { "" }
    );
    for (kind, title) in [
        (Kind::Order, "order of handing out"),
        (Kind::Return, "order of return, handing out random half words"),
        (Kind::Profile, "testudo's profiles"),
    ] {
        let _ = write!(
            text,
            "\n| {title} | programs | walks | server | all | bits: the next address | bits: the chunk behind a given one | bits: return of a slot |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n"
        );
        for point in points.iter().filter(|point| point.kind == kind) {
            let time = |ratio: Option<f64>| ratio.map_or("–".into(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} / {} | {} / {} | {} |",
                point.name,
                time(point.programs),
                time(point.walks),
                time(point.server),
                time(point.all),
                point.next[0],
                point.next[1],
                point.after[0],
                point.after[1],
                point.returns
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::CANDIDATES;

    #[test]
    fn every_candidate_is_compared_with_one_that_there_is() {
        for (name, _, _, base) in CANDIDATES {
            assert!(CANDIDATES.iter().any(|(other, ..)| *other == base), "{name}");
        }
    }
}
