//! The rounds: in each, every workload runs once under every allocator, one straight after the
//! other, so that what disturbs the machine for a while disturbs all of them.

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
            for turn in 0..allocators.len() {
                // Each round begins with another allocator: none always follows the same neighbour.
                let which = (turn + round * 5) % allocators.len();
                let (Some(allocator), Some(spent)) = (allocators.get(which), spent.get_mut(which)) else { continue };
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
