//! Memory back to the system: a spike of 2 GiB is freed, the program idles for 10 seconds, then
//! calls malloc_trim.

use crate::arguments::Arguments;
use crate::measure;
use crate::peers::Allocator;
use crate::places::Places;

/// Prints resident memory at each step, in MiB.
pub fn run(places: &Places, arguments: &Arguments, allocators: &[Allocator]) -> Result<(), String> {
    const STEPS: [&str; 5] = ["rss_spike_kib", "rss_freed_kib", "rss_quiet_kib", "rss_trimmed_kib", "live_kib"];
    let mebibytes = if arguments.quick { "512" } else { "2048" };
    let words = [places.program("spike").display().to_string(), mebibytes.into(), "10".into()];
    println!("\nMiB resident around a spike of {mebibytes} MiB\n");
    println!("| allocator | at the spike | freed | after 10 s | after malloc_trim | live bytes |");
    println!("|---|---:|---:|---:|---:|---:|");
    for allocator in allocators {
        match measure::start(places, allocator, &words, &[], arguments.timeout)?.finish() {
            Ok(usage) => {
                let cells = STEPS
                    .map(|step| usage.printed.get(step).map_or("–".into(), |kib| format!("{:.0}", kib / 1024.0)));
                println!("| {} | {} |", allocator.name, cells.join(" | "));
            }
            Err(reason) => println!("| {} | failed: {reason} |", allocator.name),
        }
    }
    Ok(())
}
