//! The price list: what each protection costs, by comparing testudo with and without it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arguments::Arguments;
use crate::instructions;
use crate::peers::{self, Allocator};
use crate::places::Places;
use crate::publish::publish;
use crate::results::{Report, geometric_mean};
use crate::rounds;
use crate::variants::{self, Edit};
use crate::workloads::{self, Group};

/// Unless the command line names others: some of each kind, on which allocators differ.
const WORKLOADS: [&str; 14] = [
    "factor-1",
    "server-2",
    "handoff",
    "pairs",
    "buffers-64K",
    "threads",
    "many",
    "walk-list",
    "walk-tree",
    "python-json",
    "lua",
    "sqlite",
    "gcc",
    "redis",
];

/// Sizes whose malloc+free pairs are counted.
const SIZES: [u64; 2] = [64, 1024];

/// A library of its own: one edit of profile `default` and, where the two do not meet, one of `fast`.
struct Build {
    name: &'static str,
    edits: &'static [Edit],
}

const fn off(option: &'static str) -> Edit {
    Edit::Switch { profile: "DEFAULT", option, on: false }
}

const fn on(profile: &'static str, option: &'static str) -> Edit {
    Edit::Switch { profile, option, on: true }
}

/// `fast` inherits from `default` what it does not name, so the latter's switches are set in both where they must differ.
const BUILDS: [Build; 8] = [
    Build { name: "no-checksum", edits: &[Edit::NoChecksum] },
    Build { name: "canary", edits: &[off("canary"), on("FAST", "canary")] },
    Build { name: "write-after-free", edits: &[off("write_after_free"), on("FAST", "zero_on_free")] },
    Build {
        name: "zeroing",
        edits: &[
            off("write_after_free"),
            off("zero_on_free"),
            on("FAST", "zero_on_free"),
            on("FAST", "write_after_free"),
        ],
    },
    Build { name: "neighbours", edits: &[on("DEFAULT", "neighbours"), on("FAST", "neighbours")] },
    Build { name: "atomic-free", edits: &[on("DEFAULT", "atomic_free"), on("FAST", "atomic_free")] },
    Build { name: "nothing", edits: &[Edit::NoChecksum, off("canary"), off("write_after_free"), off("zero_on_free")] },
    Build { name: "uncompiled", edits: &[Edit::Uncompiled] },
];

/// One side of a comparison: a library (the real one, or one of [`BUILDS`]) with options.
struct Side {
    name: &'static str,
    build: Option<&'static str>,
    options: &'static str,
}

const fn side(name: &'static str, build: Option<&'static str>, options: &'static str) -> Side {
    Side { name, build, options }
}

const SIDES: [Side; 22] = [
    side("default", None, "profile=default"),
    side("no checksum", Some("no-checksum"), "profile=default"),
    side("no canary", Some("canary"), "profile=default"),
    side("no check", Some("write-after-free"), "profile=default"),
    side("no zeroing", Some("zeroing"), "profile=default"),
    side("no random choice", None, "profile=default:randomize=0"),
    side("no quarantine", None, "profile=default:quarantine_kb=0"),
    side("no guard pages", None, "profile=default:guard_pages=0"),
    side("no sampling", None, "profile=default:SAMPLING=0"),
    side("neighbours", Some("neighbours"), "profile=default"),
    side("atomic", Some("atomic-free"), "profile=default"),
    side("short runs", None, "profile=default:run_slots=8"),
    side("nothing", Some("nothing"), "profile=default:randomize=0:guard_pages=0"),
    side("uncompiled", Some("uncompiled"), "profile=default"),
    side("fast", None, "profile=fast"),
    side("fast, no checksum", Some("no-checksum"), "profile=fast"),
    side("fast, canary", Some("canary"), "profile=fast"),
    side("fast, zeroing", Some("write-after-free"), "profile=fast"),
    side("fast, check", Some("zeroing"), "profile=fast"),
    side("fast, neighbours", Some("neighbours"), "profile=fast"),
    side("fast, atomic", Some("atomic-free"), "profile=fast"),
    side("fast, quarantine", None, "profile=fast:quarantine_kb=512"),
];

/// A line of the list: the protection, the side that has it and the side that lacks it.
type Line = (&'static str, &'static str, &'static str);

const DEFAULT_LINES: [Line; 13] = [
    ("checksum of the header", "default", "no checksum"),
    ("canary in the slack", "default", "no canary"),
    ("write-after-free check at reuse", "default", "no check"),
    ("zeroing on free", "no check", "no zeroing"),
    ("random choice of slots", "default", "no random choice"),
    ("quarantine of small chunks", "default", "no quarantine"),
    ("guard pages", "default", "no guard pages"),
    ("guarded sampling", "default", "no sampling"),
    ("all of these but quarantine and sampling", "default", "nothing"),
    ("*not in `default`:* check of both neighbours", "neighbours", "default"),
    ("*not in `default`:* atomic free", "atomic", "default"),
    ("*not in `default`:* runs of at most 8 slots", "short runs", "default"),
    ("*no protection:* switches read at run time", "uncompiled", "default"),
];

const FAST_LINES: [Line; 7] = [
    ("checksum of the header (in `fast`)", "fast", "fast, no checksum"),
    ("canary in the slack", "fast, canary", "fast"),
    ("zeroing on free", "fast, zeroing", "fast"),
    ("write-after-free check at reuse", "fast, check", "fast, zeroing"),
    ("quarantine of 512 rather than 64 KiB", "fast, quarantine", "fast"),
    ("check of both neighbours", "fast, neighbours", "fast"),
    ("atomic free", "fast, atomic", "fast"),
];

/// Builds the variants, measures them beside each other, and prints the list.
pub fn run(places: &Places, arguments: &Arguments) -> Result<(), String> {
    if arguments.testudo.is_some() {
        return Err("prices builds every library from the sources: --testudo does not go with it".into());
    }
    let library = peers::testudo(places, arguments)?;
    let sampling = sampling_option(places, &library)?;
    if sampling.is_none() {
        eprintln!("this library has no option for sampling: no price for it");
    }
    let mut allocators = Vec::new();
    for side in &SIDES {
        let options = match &sampling {
            Some(option) => side.options.replace("SAMPLING", option),
            None if side.options.contains("SAMPLING") => continue,
            None => side.options.to_string(),
        };
        let library = side.build.map_or_else(|| Ok(library.clone()), |build| self::library(places, build))?;
        allocators.push(Allocator::testudo(side.name, &library, options));
    }
    let mut workloads = workloads::chosen(places, arguments)?;
    if arguments.workloads.is_empty() {
        workloads.retain(|workload| WORKLOADS.contains(&workload.name));
    }
    let report = rounds::measure_all(places, arguments, &workloads, &allocators, "prices")?;
    let counts: Vec<Counts> = allocators.iter().map(|allocator| count(places, allocator)).collect();
    let mut text = format!(
        "{}; {} rounds{}, interleaved. Each line compares two builds that differ in that protection alone: how much\n\
         processor time it adds to programs, to allocation-bound loops and to walks over fresh lists and trees (geometric\n\
         means), to the workload that it slows most, and how many instructions to a malloc+free pair. Without a quarantine every\n\
         free takes the slow path, so that line can be negative.\n",
        report.machine,
        report.rounds(),
        if report.quick { ", quick" } else { "" }
    );
    text += &table(&report, &counts, "In `default`", &DEFAULT_LINES);
    text += &table(&report, &counts, "One at a time on top of `fast`", &FAST_LINES);
    publish(places, arguments, "prices", &text)
}

/// The library of this name among [`BUILDS`].
pub fn library(places: &Places, name: &str) -> Result<PathBuf, String> {
    let build = BUILDS.iter().find(|build| build.name == name).ok_or(format!("there is no build {name}"))?;
    variants::build(places, build.name, build.edits)
}

/// Whether there is a build of this name.
#[cfg(test)]
pub fn is_build(name: &str) -> bool {
    BUILDS.iter().any(|build| build.name == name)
}

/// The name of the option that says how often a chunk is sampled, if the library has one.
fn sampling_option(places: &Places, library: &Path) -> Result<Option<String>, String> {
    // A program that allocates: only then does the library read its options.
    let output = Command::new(places.program("tiny"))
        .env("LD_PRELOAD", library)
        .env("TESTUDO_OPTIONS", "help=1")
        .output()
        .map_err(|error| error.to_string())?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(said
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, _)| key)
        .find(|key| key.starts_with("sample"))
        .map(String::from))
}

/// An allocator's instructions per pair, for each of [`SIZES`].
struct Counts {
    allocator: String,
    per_pair: [Option<f64>; SIZES.len()],
}

/// With a seed, because how often the slow path runs depends on the random choices.
fn count(places: &Places, allocator: &Allocator) -> Counts {
    let mut seeded = allocator.clone();
    if let Some((_, options)) = &mut seeded.variable {
        options.push_str(":seed=1");
    }
    let per_pair = SIZES.map(|size| match instructions::per_pair(places, &seeded, size) {
        Ok(counted) => Some(counted.count),
        Err(reason) => {
            eprintln!("{}: {reason}", allocator.name);
            None
        }
    });
    Counts { allocator: allocator.name.clone(), per_pair }
}

fn table(report: &Report, counts: &[Counts], title: &str, lines: &[Line]) -> String {
    let mut text = format!("\n| {title} | programs | allocation-bound | walks | slowed most |");
    for size in SIZES {
        let _ = write!(text, " instructions, {size} bytes |");
    }
    text += "\n|---|---:|---:|---:|---:|---:|---:|\n";
    for (protection, with, without) in lines.iter().filter(|(_, with, without)| {
        [with, without].iter().all(|name| report.allocators.iter().any(|allocator| allocator == **name))
    }) {
        let _ = write!(text, "| {protection} |");
        for group in [Group::Program, Group::Allocating, Group::Walk] {
            let ratios = ratios(report, with, without).filter(|(_, its, _)| *its == group);
            let mean = geometric_mean(ratios.map(|(_, _, ratio)| ratio));
            let _ = write!(text, " {} |", mean.map_or("–".into(), |(mean, _)| percent(mean)));
        }
        let most = ratios(report, with, without).max_by(|(_, _, one), (_, _, other)| one.total_cmp(other));
        let _ = write!(text, " {} |", most.map_or("–".into(), |(name, _, ratio)| format!("{name} {}", percent(ratio))));
        let of = |name: &str| counts.iter().find(|counts| counts.allocator == name).map(|counts| counts.per_pair);
        for size in 0..SIZES.len() {
            let pair = of(with).and_then(|with| with[size]).zip(of(without).and_then(|without| without[size]));
            let _ = write!(text, " {} |", pair.map_or("–".into(), |(with, without)| format!("{:+.0}", with - without)));
        }
        text.push('\n');
    }
    text
}

/// Name, group and ratio of each workload that both sides finished.
fn ratios<'a>(report: &'a Report, with: &'a str, without: &'a str) -> impl Iterator<Item = (&'a str, Group, f64)> {
    report.workloads.iter().filter(|workload| workload.timed).filter_map(move |workload| {
        let ratio = report.ratio(&workload.name, with, without, &|usage| usage.user + usage.system)?;
        Some((workload.name.as_str(), workload.group, ratio.median))
    })
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::{BUILDS, DEFAULT_LINES, FAST_LINES, SIDES, is_build};
    use crate::variants::{copy_sources, edit_all};
    use std::path::Path;

    #[test]
    fn every_edit_finds_its_place_in_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for build in &BUILDS {
            let copy = std::env::temp_dir().join(format!("testudo-edits-{}-{}", std::process::id(), build.name));
            let edited = copy_sources(&root, &copy).and_then(|()| edit_all(&copy, build.name, build.edits));
            std::fs::remove_dir_all(&copy).expect("a copy");
            assert_eq!(edited, Ok(()));
        }
    }

    #[test]
    fn every_line_compares_sides_that_there_are() {
        for (_, with, without) in DEFAULT_LINES.iter().chain(&FAST_LINES) {
            assert!([with, without].iter().all(|name| SIDES.iter().any(|side| side.name == **name)));
        }
        for side in &SIDES {
            assert!(side.build.is_none_or(is_build), "{}", side.name);
        }
    }
}
