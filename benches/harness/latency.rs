//! The distribution of single malloc and free calls under a mixed workload.

use crate::arguments::Arguments;
use crate::measure;
use crate::peers::Allocator;
use crate::places::Places;

/// Prints nanoseconds at each quantile: of each number the median over the rounds.
pub fn run(places: &Places, arguments: &Arguments, allocators: &[Allocator]) -> Result<(), String> {
    const QUANTILES: [&str; 4] = ["p50", "p99", "p99.9", "max"];
    let operations = if arguments.quick { "1000000" } else { "5000000" };
    let words = [places.program("latency").display().to_string(), operations.into()];
    println!("\nnanoseconds of single calls under a mixed workload\n");
    println!(
        "| allocator | malloc p50 | p99 | p99.9 | max | free p50 | p99 | p99.9 | max |\n|---|{}",
        "---:|".repeat(8)
    );
    let mut printed = vec![Vec::new(); allocators.len()];
    for _ in 0..arguments.rounds {
        for (allocator, printed) in allocators.iter().zip(&mut printed) {
            printed.push(
                measure::start(places, allocator, &words, &[], arguments.timeout)?.finish().map(|usage| usage.printed),
            );
        }
    }
    for (allocator, printed) in allocators.iter().zip(&printed) {
        let cells: Vec<String> = ["malloc", "free"]
            .iter()
            .flat_map(|call| QUANTILES.map(|quantile| format!("{call}_{quantile}_nanoseconds")))
            .map(|name| {
                let mut seen: Vec<f64> =
                    printed.iter().flatten().filter_map(|numbers| numbers.get(&name).copied()).collect();
                seen.sort_by(f64::total_cmp);
                seen.get(seen.len() / 2).map_or("failed".into(), |median| format!("{median:.0}"))
            })
            .collect();
        println!("| {} | {} |", allocator.name, cells.join(" | "));
    }
    Ok(())
}
