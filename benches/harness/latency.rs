//! The distribution of single malloc and free calls under a mixed workload.

use std::fmt::Write as _;

use crate::arguments::Arguments;
use crate::measure;
use crate::peers::Allocator;
use crate::places::Places;
use crate::publish::publish;
use crate::results::{machine, median};

/// Prints nanoseconds at each quantile: of each number the median over the rounds.
pub fn run(places: &Places, arguments: &Arguments, allocators: &[Allocator]) -> Result<(), String> {
    const QUANTILES: [&str; 4] = ["p50", "p99", "p99.9", "max"];
    let operations = if arguments.quick { "1000000" } else { "5000000" };
    let words = [places.program("latency").display().to_string(), operations.into()];
    let mut printed = vec![Vec::new(); allocators.len()];
    for round in 0..arguments.rounds {
        for (allocator, printed) in allocators.iter().zip(&mut printed) {
            eprintln!("single calls, round {} of {}: {}", round + 1, arguments.rounds, allocator.name);
            printed.push(
                measure::start(places, allocator, &words, &[], arguments.timeout)?.finish().map(|usage| usage.printed),
            );
        }
    }
    let mut text = format!(
        "{}; nanoseconds of single calls, {} of each in a mixed workload: medians over {} rounds\n\n\
         | allocator | malloc p50 | p99 | p99.9 | max | free p50 | p99 | p99.9 | max |\n|---|{}\n",
        machine(),
        operations,
        arguments.rounds,
        "---:|".repeat(8)
    );
    for (allocator, printed) in allocators.iter().zip(&printed) {
        let cells: Vec<String> = ["malloc", "free"]
            .iter()
            .flat_map(|call| QUANTILES.map(|quantile| format!("{call}_{quantile}_nanoseconds")))
            .map(|name| {
                let mut seen: Vec<f64> =
                    printed.iter().flatten().filter_map(|numbers| numbers.get(&name).copied()).collect();
                median(&mut seen).map_or("failed".into(), |median| format!("{median:.0}"))
            })
            .collect();
        let _ = writeln!(text, "| {} | {} |", allocator.name, cells.join(" | "));
    }
    publish(places, arguments, "latency", &text)
}
