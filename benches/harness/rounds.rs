//! The rounds: in each, every workload runs once under every allocator, one straight after the
//! other, so that what disturbs the machine for a while disturbs all of them.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::measure::{self, Usage};
use crate::peers::Allocator;
use crate::places::Places;
use crate::redis;
use crate::results::{Described, Report, Run, machine};
use crate::table;
use crate::workloads::{self, Kind, Workload};

/// Runs everything, then prints the tables and draws the picture.
pub fn run(places: &Places, arguments: &Arguments, allocators: &[Allocator]) -> Result<(), String> {
    let workloads = workloads::chosen(places, arguments)?;
    measure_all(places, arguments, &workloads, allocators, "results")?;
    table::from_file(places, arguments)
}

/// Measures every workload under every allocator, shows progress, and keeps what was measured under this name.
pub fn measure_all(
    places: &Places,
    arguments: &Arguments,
    workloads: &[Workload],
    allocators: &[Allocator],
    name: &str,
) -> Result<Report, String> {
    let mut report = Report {
        machine: machine(),
        quick: arguments.quick,
        workloads: workloads
            .iter()
            .map(|workload| Described {
                name: workload.name.into(),
                about: workload.about.into(),
                group: workload.group,
                timed: workload.timed,
            })
            .collect(),
        allocators: allocators.iter().map(|allocator| allocator.name.clone()).collect(),
        runs: Vec::new(),
    };
    let total = workloads.len() * allocators.len() * arguments.rounds;
    let start = Instant::now();
    let mut spent = vec![Duration::ZERO; allocators.len()];
    for round in 0..arguments.rounds {
        for workload in workloads {
            for which in order(allocators.len(), round) {
                let (Some(allocator), Some(spent)) = (allocators.get(which), spent.get_mut(which)) else { continue };
                warm(places, &report, workload.name);
                let begun = Instant::now();
                let outcome = measure_once(places, workload, allocator, arguments.timeout);
                *spent += begun.elapsed();
                progress(report.runs.len() + 1, total, start, workload, allocator, &outcome);
                report.runs.push(Run {
                    workload: workload.name.into(),
                    allocator: allocator.name.clone(),
                    round,
                    outcome,
                });
            }
            report.save(&places.results(name))?;
        }
    }
    eprintln!("\nmeasuring took {:.0} s, of which", start.elapsed().as_secs_f64());
    for (allocator, spent) in allocators.iter().zip(&spent) {
        eprintln!("{:7.0} s under {}", spent.as_secs_f64(), allocator.name);
    }
    Ok(report)
}

/// The order of a round: the list in steps that are of another length in each round, so that none always follows the same
/// neighbour: what one leaves behind, in memory and caches, the next one finds.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    let shares_no_divisor =
        |step: &usize| (2..=*step).all(|divisor| !step.is_multiple_of(divisor) || !count.is_multiple_of(divisor));
    let steps: Vec<usize> = (1..count.max(2)).filter(shares_no_divisor).collect();
    let step = steps[round % steps.len()];
    (0..count).map(move |turn| (round * 5 + turn * step) % count)
}

/// Has memory written to that the next program will use, as much as the workload was seen to need: `programs/warm.c` says why.
fn warm(places: &Places, report: &Report, workload: &str) {
    const UNKNOWN_KIB: u64 = 256 << 10;
    const MOST_KIB: u64 = 2 << 20;
    let seen = report.runs.iter().filter(|run| run.workload == workload);
    let peak = seen.filter_map(|run| run.outcome.as_ref().ok()).map(|usage| usage.peak_kib).max();
    let kib = peak.map_or(UNKNOWN_KIB, |peak| peak + peak / 4 + (32 << 10)).min(MOST_KIB);
    // Without it the figures scatter more; nothing else is lost.
    let _ = Command::new(places.program("warm")).arg(kib.to_string()).status();
}

/// One workload under one allocator.
pub fn measure_once(
    places: &Places,
    workload: &Workload,
    allocator: &Allocator,
    timeout: u32,
) -> Result<Usage, String> {
    match &workload.kind {
        Kind::Program { words, environment } => {
            measure::start(places, allocator, words, environment, timeout)?.finish()
        }
        Kind::Redis { requests } => redis::run(places, allocator, *requests, timeout),
    }
}

fn progress(
    done: usize,
    total: usize,
    start: Instant,
    workload: &Workload,
    allocator: &Allocator,
    outcome: &Result<Usage, String>,
) {
    let left = start.elapsed().as_secs_f64() / done as f64 * (total - done) as f64 / 60.0;
    let said = match outcome {
        Ok(usage) => format!("{:8.3} s {:9} KiB", usage.wall, usage.peak_kib),
        Err(reason) => format!("FAILED: {reason}"),
    };
    eprintln!("[{done:4}/{total}, {left:3.0} min left] {:<13} {:<16} {said}", workload.name, allocator.name);
}

#[cfg(test)]
mod tests {
    use super::order;
    use std::collections::BTreeSet;

    #[test]
    fn everybody_has_a_turn_in_each_round_and_another_neighbour_in_the_next() {
        for count in 1..=16 {
            let mut before = BTreeSet::new();
            for round in 0..4 {
                let turns: Vec<usize> = order(count, round).collect();
                assert_eq!(turns.iter().collect::<BTreeSet<_>>().len(), count, "{turns:?}");
                let pairs: BTreeSet<_> = turns.windows(2).map(|pair| (pair[0], pair[1])).collect();
                // With few there are not enough orders.
                assert!(count < 7 || pairs.is_disjoint(&before), "{count} in round {round}: {turns:?}");
                before = pairs;
            }
        }
    }
}
