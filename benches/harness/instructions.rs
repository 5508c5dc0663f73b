//! Instructions per malloc+free pair, counted by callgrind, which leaves malloc alone. Two runs of
//! different length are subtracted, so that the start of the process cancels out. An allocator that
//! does not run under valgrind is stepped through one instruction at a time instead: a few thousand
//! pairs at most, for each step is a signal.

use std::fmt::Write as _;
use std::process::Command;

use crate::arguments::Arguments;
use crate::measure;
use crate::peers::Allocator;
use crate::places::Places;
use crate::publish::publish;

const SHORT: u64 = 20_000;
const LONG: u64 = 120_000;
const STEPPED: u64 = 1_000;

/// Prints the counts, for a common small size and two others.
pub fn run(places: &Places, arguments: &Arguments, allocators: &[Allocator]) -> Result<(), String> {
    const SIZES: [u64; 3] = [16, 64, 1024];
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Err("there is no valgrind".into());
    }
    let mut text = String::from(
        "| instructions per malloc+free pair (* by stepping) | 16 bytes | 64 bytes | 1024 bytes |\n|---|---:|---:|---:|\n",
    );
    for allocator in allocators {
        let cells = SIZES.map(|size| match per_pair(places, allocator, size) {
            Ok(count) => count.to_string(),
            Err(reason) => format!("failed: {reason}"),
        });
        let _ = writeln!(text, "| {} | {} |", allocator.name, cells.join(" | "));
    }
    publish(places, arguments, "instructions", &text)
}

/// Instructions of one pair.
#[derive(Clone, Copy, Debug)]
pub struct PerPair {
    pub count: f64,
    /// Whether the processor was stepped; else callgrind counted.
    pub stepped: bool,
}

impl std::fmt::Display for PerPair {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.1}{}", self.count, if self.stepped { "*" } else { "" })
    }
}

/// What one malloc and free of so many bytes take.
pub fn per_pair(places: &Places, allocator: &Allocator, size: u64) -> Result<PerPair, String> {
    let counted = |pairs| count(places, allocator, pairs, size);
    let by_callgrind = counted(SHORT).and_then(|short| Ok((short, counted(LONG)?)));
    match by_callgrind {
        Ok((short, long)) if long > short => {
            Ok(PerPair { count: (long - short) as f64 / (LONG - SHORT) as f64, stepped: false })
        }
        _ => {
            let program = places.program("step").display().to_string();
            let words = [program, STEPPED.to_string(), size.to_string()];
            let usage = measure::start(places, allocator, &words, &[], 600)?.finish()?;
            let count = *usage.printed.get("instructions_per_pair").ok_or("nothing printed")?;
            Ok(PerPair { count, stepped: true })
        }
    }
}

fn count(places: &Places, allocator: &Allocator, pairs: u64, size: u64) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(places.program("pair"))
        .args([pairs.to_string(), size.to_string()]);
    // valgrind puts its own preload in front of this one and passes both on to the program.
    if let Some(library) = &allocator.library {
        command.env("LD_PRELOAD", library);
    }
    if let Some((name, value)) = &allocator.variable {
        command.env(name, value);
    }
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    match collected {
        Some((_, count)) if output.status.success() => {
            count.trim().parse().map_err(|_| format!("callgrind said {count:?}"))
        }
        _ => Err("does not run under valgrind".into()),
    }
}
