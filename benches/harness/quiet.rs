//! Memory back to the system: a spike of 2 GiB is freed, the program idles for 10 seconds, then
//! calls malloc_trim.

use std::fmt::Write as _;

use crate::arguments::Arguments;
use crate::measure;
use crate::peers::Allocator;
use crate::places::Places;
use crate::publish::publish;

/// Prints resident memory at each step, in MiB.
pub fn run(places: &Places, arguments: &Arguments, allocators: &[Allocator]) -> Result<(), String> {
    const STEPS: [&str; 5] = ["rss_spike_kib", "rss_freed_kib", "rss_quiet_kib", "rss_trimmed_kib", "live_kib"];
    let mebibytes = if arguments.quick { "512" } else { "2048" };
    let words = [places.program("spike").display().to_string(), mebibytes.into(), "10".into()];
    let mut text = format!(
        "| MiB resident around a spike of {mebibytes} MiB | at the spike | freed | after 10 s | after malloc_trim | live bytes |\n\
         |---|---:|---:|---:|---:|---:|\n"
    );
    for allocator in allocators {
        eprintln!("a spike and quiet: {}", allocator.name);
        match measure::start(places, allocator, &words, &[], arguments.timeout)?.finish() {
            Ok(usage) => {
                let cells = STEPS
                    .map(|step| usage.printed.get(step).map_or("–".into(), |kib| format!("{:.0}", kib / 1024.0)));
                let _ = writeln!(text, "| {} | {} |", allocator.name, cells.join(" | "));
            }
            Err(reason) => {
                let _ = writeln!(text, "| {} | failed: {reason} |", allocator.name);
            }
        }
    }
    publish(places, arguments, "quiet", &text)
}
