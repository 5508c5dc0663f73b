//! What the project set out to reach, line by line: the target, what was measured, whether it holds. Some lines are read
//! from the last `run`, the others are measured here.

use std::fmt::Write as _;

use crate::arguments::Arguments;
use crate::instructions;
use crate::measure::{self, Usage};
use crate::peers::Allocator;
use crate::places::Places;
use crate::publish::publish;
use crate::results::{Report, geometric_mean, median};
use crate::workloads::Group;

/// Heavy programs may take so many seconds.
const PATIENCE: u32 = 900;

/// The default of `vm.max_map_count`.
const MAPPINGS: f64 = 65_530.0;

/// glibc's peak, in KiB, from which on memory says more about the heap than about the program.
const LARGE_KIB: f64 = 10.0 * 1024.0;

/// A line of the table.
struct Line {
    target: String,
    measured: String,
    /// `None` where it could not be measured.
    holds: Option<bool>,
}

fn line(target: impl Into<String>, measured: impl Into<String>, holds: bool) -> Line {
    Line { target: target.into(), measured: measured.into(), holds: Some(holds) }
}

/// What the measurements share.
struct Bench<'a> {
    places: &'a Places,
    arguments: &'a Arguments,
    allocators: &'a [Allocator],
}

/// Measures something and judges it.
type Measure = fn(&Bench<'_>) -> Result<Vec<Line>, String>;

/// Measures everything and prints the table.
pub fn run(places: &Places, arguments: &Arguments, allocators: &[Allocator]) -> Result<(), String> {
    let bench = Bench { places, arguments, allocators };
    let mut lines = Vec::new();
    match Report::load(&places.results("results")) {
        Ok(report) => lines.extend(of_the_last_run(&report)),
        Err(reason) => eprintln!("the lines about workloads are left out: {reason}; `run` first"),
    }
    let measured: [(&str, Measure); 8] = [
        ("instructions", instructions_of_a_pair),
        ("growth", growth),
        ("system calls", system_calls),
        ("threads", threads),
        ("handoff", handoff),
        ("spike", spike),
        ("live chunks", live_chunks),
        ("mappings", mappings),
    ];
    for (name, measure) in measured {
        if !arguments.wants_workload(name) {
            continue;
        }
        eprintln!("measuring: {name} …");
        match measure(&bench) {
            Ok(more) => lines.extend(more),
            Err(reason) => lines.push(Line { target: name.into(), measured: reason, holds: None }),
        }
    }
    let mut text = String::from("| target | measured | holds |\n|---|---|---|\n");
    for line in &lines {
        let holds = match line.holds {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let _ = writeln!(text, "| {} | {} | {holds} |", line.target, line.measured);
    }
    publish(places, arguments, "targets", &text)
}

impl Bench<'_> {
    fn allocator(&self, name: &str) -> Result<&Allocator, String> {
        self.allocators.iter().find(|allocator| allocator.name == name).ok_or(format!("without {name}"))
    }

    fn program(&self, allocator: &str, program: &str, arguments: &[u64]) -> Result<Usage, String> {
        let mut words = vec![self.places.program(program).display().to_string()];
        words.extend(arguments.iter().map(u64::to_string));
        self.words(allocator, &words)
    }

    fn words(&self, allocator: &str, words: &[String]) -> Result<Usage, String> {
        measure::start(self.places, self.allocator(allocator)?, words, &[], PATIENCE)?.finish()
    }

    fn by(&self, full: u64, quick: u64) -> u64 {
        if self.arguments.quick { quick } else { full }
    }
}

fn number(usage: &Usage, name: &str) -> Result<f64, String> {
    usage.printed.get(name).copied().ok_or(format!("{name} was not printed"))
}

/// The lines that the table of workloads answers.
fn of_the_last_run(report: &Report) -> Vec<Line> {
    let time = |usage: &Usage| usage.user + usage.system;
    let peak = |usage: &Usage| usage.peak_kib as f64;
    let has = |name: &str| report.allocators.iter().any(|allocator| allocator == name);
    let timed = || report.workloads.iter().filter(|workload| workload.timed);
    let ratio = |workload: &str, allocator: &str, base: &str, quantity: &dyn Fn(&Usage) -> f64| {
        Some(report.ratio(workload, allocator, base, quantity)?.median)
    };
    let mean = |allocator: &str, base: &str| {
        geometric_mean(timed().filter_map(|workload| ratio(&workload.name, allocator, base, &time)))
    };
    let mut lines = Vec::new();
    let mut mean_at_most = |target: &str, allocator: &str, base: &str, limit: f64| {
        if let (true, true, Some((mean, count))) = (has(allocator), has(base), mean(allocator, base)) {
            lines.push(line(target, format!("{mean:.3} over {count} workloads"), mean <= limit));
        }
    };
    mean_at_most("`default`: geometric mean of processor time at most 1.05 × glibc", "testudo", "glibc", 1.05);
    mean_at_most(
        "`strict` faster than hardened_malloc light: geometric mean below 1",
        "testudo-strict",
        "hm-light",
        1.0,
    );
    mean_at_most("`fast` level with snmalloc's checked build: at most 1.02 ×", "testudo-fast", "snmalloc-checks", 1.02);
    // Workloads on which a ratio is above a limit, with the ratio.
    let above = |base: &str, limit: f64, quantity: &dyn Fn(&Usage) -> f64, wanted: &dyn Fn(&str, Group) -> bool| {
        let rows = report.workloads.iter().filter(|workload| wanted(&workload.name, workload.group));
        let over: Vec<String> = rows
            .filter_map(|workload| Some((&workload.name, ratio(&workload.name, "testudo", base, quantity)?)))
            .filter(|(_, ratio)| *ratio > limit)
            .map(|(name, ratio)| format!("{name} {ratio:.2}"))
            .collect();
        (over.is_empty(), if over.is_empty() { "all".to_string() } else { format!("all but {}", over.join(", ")) })
    };
    let is_timed = |name: &str| timed().any(|workload| workload.name == name);
    if has("testudo") && has("scudo") {
        let (holds, said) = above("scudo", 1.0, &time, &|name, _| is_timed(name));
        lines.push(line("`default` faster than Scudo on every workload", said, holds));
        let (holds, said) =
            above("scudo", 1.0 / 1.5, &time, &|name, group| is_timed(name) && group == Group::Allocating);
        lines.push(line("… by at least half on the allocation-bound ones (time at most 0.67 ×)", said, holds));
    }
    if has("testudo") {
        for (workload, limit) in [("buffers-64K", 1.0), ("buffers-256K", 1.2), ("buffers-5M", 1.0)] {
            if let Some(ratio) = ratio(workload, "testudo", "glibc", &time) {
                lines.push(line(format!("{workload} at most {limit} × glibc"), format!("{ratio:.2}"), ratio <= limit));
            }
        }
        let large = |name: &str| {
            let mut peaks: Vec<f64> =
                (0..report.rounds()).filter_map(|round| report.usage(name, "glibc", round).map(peak)).collect();
            median(&mut peaks).is_some_and(|peak| peak >= LARGE_KIB)
        };
        let rows = report.workloads.iter().filter(|workload| large(&workload.name));
        let ratios = rows.filter_map(|workload| ratio(&workload.name, "testudo", "glibc", &peak));
        if let Some((mean, count)) = geometric_mean(ratios) {
            let target = "resident memory: geometric mean at most 1.10 × glibc where that needs 10 MiB or more";
            lines.push(line(target, format!("{mean:.3} over {count} workloads"), mean <= 1.10));
        }
        for base in ["hm", "hm-light"].into_iter().filter(|name| has(name)) {
            let (holds, said) = above(base, 1.0, &peak, &|_, _| true);
            lines.push(line(
                format!("resident memory below hardened_malloc's ({base}) on every workload"),
                said,
                holds,
            ));
        }
        let tiny = |allocator: &str| report.usage("tiny", allocator, 0).map(peak);
        if let (Some(own), Some(base)) = (tiny("testudo"), tiny("glibc")) {
            let measured = format!("{:+.0} KiB", own - base);
            lines.push(line("a tiny process: at most 2 MiB more than under glibc", measured, own - base <= 2048.0));
        }
    }
    lines
}

fn instructions_of_a_pair(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    let count = |name: &str| instructions::per_pair(bench.places, bench.allocator(name)?, 64);
    let (own, scudo) = (count("testudo")?, count("scudo")?);
    let share = own.count / scudo.count;
    let measured = format!("{own} of {scudo}: {:.0} %", share * 100.0);
    Ok(vec![line("malloc+free of 64 bytes in at most 40 % of Scudo's instructions", measured, share <= 0.4)])
}

/// Faults of the growth of one block, and what was copied on the way.
fn growth(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    const STEP: u64 = 4;
    let last = bench.by(1024, 256);
    let mut lines = Vec::new();
    for name in ["testudo", "testudo-strict"] {
        let grown = bench.program(name, "growth", &[last, STEP, 1])?;
        let pages = last * 256;
        let faults = number(&grown, "faults")?;
        let target = format!(
            "`{name}`: growth by realloc to {last} MiB takes page faults of the final size once ({pages} pages, fewer where they are huge)"
        );
        lines.push(line(target, format!("{faults:.0} faults"), faults <= pages as f64 * 1.05));
        let copied = number(&grown, "copied_mib")?;
        let target = format!("`{name}`: … and copies nothing");
        lines.push(if copied < 0.0 {
            Line { target, measured: "only root may see page frames".into(), holds: None }
        } else {
            // The first step may cross from one kind of mapping to another.
            line(target, format!("{copied:.0} MiB in {:.0} steps", number(&grown, "steps")?), copied <= STEP as f64)
        });
    }
    Ok(lines)
}

/// The calls of a long run less those of a short one: what is done once cancels out.
fn system_calls(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    let (short, long) = (bench.by(20_000, 20_000), bench.by(420_000, 120_000));
    let calls = |name: &str, operations: u64| {
        let mut words = vec![bench.places.program("calls").display().to_string()];
        words.push(bench.places.program("buffers").display().to_string());
        words.extend([operations, 64 << 10, 128 << 10, 20].map(|number| number.to_string()));
        number(&bench.words(name, &words)?, "system_calls")
    };
    let per_thousand = |name: &str| -> Result<f64, String> {
        Ok((calls(name, long)? - calls(name, short)?) * 1000.0 / (long - short) as f64)
    };
    let (own, glibc) = (per_thousand("testudo")?, per_thousand("glibc")?);
    let target = "no system call in the steady state of a loop over 64 to 128 KiB buffers (fewer than 1 in 1,000 operations: memory goes back by the clock)";
    Ok(vec![line(target, format!("{own:.2} in 1,000 (glibc {glibc:.2})"), own < 1.0)])
}

/// Operations a second with 64 threads and with 2, interleaved.
fn threads(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    let operations = bench.by(60_000_000, 12_000_000);
    let of = |name: &str| -> Result<f64, String> {
        let mut ratios = Vec::new();
        for _ in 0..bench.arguments.rounds {
            let rate = |threads: u64, slots: u64| -> Result<f64, String> {
                number(
                    &bench.program(name, "server", &[operations, threads, slots, 8, 1000, 20])?,
                    "operations_per_second",
                )
            };
            let few = rate(2, 16_000)?;
            ratios.push(rate(64, 500)? / few);
        }
        median(&mut ratios).ok_or("no rounds".into())
    };
    let (own, glibc) = (of("testudo")?, of("glibc")?);
    let target = "64 threads: throughput at least 85 % of that of 2 threads";
    Ok(vec![line(target, format!("{:.0} % (glibc {:.0} %)", own * 100.0, glibc * 100.0), own >= 0.85)])
}

fn handoff(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    let chunks = bench.by(100_000_000, 10_000_000);
    let usage = bench.program("testudo", "handoff", &[chunks, 16, 112])?;
    let (half, end) = (number(&usage, "rss_half_kib")?, number(&usage, "rss_end_kib")?);
    let target = format!(
        "a producer/consumer pair stays flat over {chunks} chunks (at most 10 % and 1 MiB more at the end than half way)"
    );
    let measured = format!("{:.1} MiB, then {:.1} MiB", half / 1024.0, end / 1024.0);
    Ok(vec![line(target, measured, end <= half * 1.1 + 1024.0)])
}

fn spike(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    let mebibytes = bench.by(2048, 512);
    let usage = bench.program("testudo", "spike", &[mebibytes, 10])?;
    let live = number(&usage, "live_kib")?;
    let over = |name: &str| number(&usage, name).map(|resident| resident / live);
    let (quiet, trimmed) = (over("rss_quiet_kib")?, over("rss_trimmed_kib")?);
    let start = format!("after a spike of {mebibytes} MiB: ");
    Ok(vec![
        line(format!("{start}10 s later at most 1.3 × of what is live"), format!("{quiet:.2} ×"), quiet <= 1.3),
        line(format!("{start}after malloc_trim the same"), format!("{trimmed:.2} ×"), trimmed <= 1.3),
    ])
}

/// Processor time of one chunk's life, at three sizes of the heap, each ten times the one before.
fn live_chunks(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    let most = bench.by(100_000_000, 10_000_000);
    let of = |name: &str| -> Result<[f64; 3], String> {
        let mut nanoseconds = [0.0; 3];
        for (place, live) in nanoseconds.iter_mut().zip([most / 100, most / 10, most]) {
            let usage = bench.program(name, "many", &[live, 24])?;
            *place = (usage.user + usage.system) * 1e9 / live as f64;
        }
        Ok(nanoseconds)
    };
    let (own, glibc) = (of("testudo")?, of("glibc")?);
    let said = |times: &[f64; 3]| times.map(|time| format!("{time:.0}")).join(", ");
    let target = format!(
        "cost grows linearly to {most} live chunks (a chunk takes at most 1.5 × the time that it takes among a tenth as many)"
    );
    let measured = format!("{} ns a chunk at each tenfold (glibc {})", said(&own), said(&glibc));
    Ok(vec![line(target, measured, own[2] <= own[1] * 1.5)])
}

/// 64-byte chunks until 16 GiB or most of the machine's memory are full.
fn mappings(bench: &Bench<'_>) -> Result<Vec<Line>, String> {
    const GOAL: u64 = 16 << 30;
    /// Bytes of memory that a chunk of 64 bytes takes, at most.
    const FOOTPRINT: u64 = 90;
    let free = available_bytes()? / 10 * 7;
    let count = bench.by(GOAL / 64, 8_000_000).min(free / FOOTPRINT);
    let usage = bench.program("testudo", "many", &[count, 64])?;
    let mappings = number(&usage, "mappings")?;
    let share = (count * 64) as f64 / GOAL as f64;
    let target = "16 GiB of 64-byte chunks within the default `vm.max_map_count` (65,530)";
    let measured = format!(
        "{mappings:.0} mappings with {:.1} GiB of chunks ({:.1} GiB resident)",
        (count * 64) as f64 / f64::from(1 << 30),
        number(&usage, "rss_kib")? / f64::from(1 << 20)
    );
    // Where memory does not suffice, as if mappings grew in step with it: they grow more slowly.
    Ok(vec![line(target, measured, mappings / share < MAPPINGS)])
}

fn available_bytes() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).ok_or("no MemAvailable")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().map_err(|_| format!("MemAvailable: {line}"))?;
    Ok(kib << 10)
}
