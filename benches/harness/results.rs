//! The raw results, as they are kept on disk.

use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::measure::Usage;
use crate::places::Places;
use crate::workloads::Group;

/// One run of one workload under one allocator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub workload: String,
    pub allocator: String,
    pub round: usize,
    /// What it used, or how it failed.
    pub outcome: Result<Usage, String>,
}

/// A workload as the report names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Described {
    pub name: String,
    pub about: String,
    pub group: Group,
    /// Whether its time says something.
    pub timed: bool,
}

/// Everything that was measured, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub machine: String,
    pub quick: bool,
    /// In the order of the table's rows.
    pub workloads: Vec<Described>,
    /// In the order of the table's columns.
    pub allocators: Vec<String>,
    pub runs: Vec<Run>,
}

impl Report {
    /// Reads the last run's results.
    pub fn load(places: &Places) -> Result<Self, String> {
        let file = file(places);
        let text =
            std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}; `run` writes it", file.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Writes the results.
    pub fn save(&self, places: &Places) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(file(places), text).map_err(|error| error.to_string())
    }

    /// The successful run of that name, allocator and round.
    pub fn usage(&self, workload: &str, allocator: &str, round: usize) -> Option<&Usage> {
        self.runs
            .iter()
            .find(|run| run.workload == workload && run.allocator == allocator && run.round == round)
            .and_then(|run| run.outcome.as_ref().ok())
    }

    /// The number of rounds that were begun.
    pub fn rounds(&self) -> usize {
        self.runs.iter().map(|run| run.round + 1).max().unwrap_or(0)
    }
}

fn file(places: &Places) -> PathBuf {
    places.out.join("results.json")
}

/// The processor, its number, the kernel and the C library in one line.
pub fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let c_library = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let c_library = c_library.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    format!(
        "{model}, {cores} cores, Linux {}, {}",
        kernel.trim(),
        c_library.unwrap_or_else(|_| "unknown C library".into())
    )
}
