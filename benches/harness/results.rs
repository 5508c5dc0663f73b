//! The raw results, as they are kept on disk.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::measure::Usage;
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

/// Median, smallest and largest ratio over the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    pub median: f64,
    pub least: f64,
    pub most: f64,
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
    /// Reads what [`Self::save`] wrote.
    pub fn load(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Writes the results.
    pub fn save(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// The successful run of that name, allocator and round.
    pub fn usage(&self, workload: &str, allocator: &str, round: usize) -> Option<&Usage> {
        self.runs
            .iter()
            .find(|run| run.workload == workload && run.allocator == allocator && run.round == round)
            .and_then(|run| run.outcome.as_ref().ok())
    }

    /// How much more of something an allocator used than another one, each round's ratio taken within that round.
    pub fn ratio(
        &self,
        workload: &str,
        allocator: &str,
        base: &str,
        quantity: &dyn Fn(&Usage) -> f64,
    ) -> Option<Ratio> {
        let of = |name: &str, round| self.usage(workload, name, round).map(quantity);
        let mut ratios: Vec<f64> =
            (0..self.rounds()).filter_map(|round| Some(of(allocator, round)? / of(base, round)?.max(1e-9))).collect();
        let median = median(&mut ratios)?;
        Some(Ratio { median, least: *ratios.first()?, most: *ratios.last()? })
    }

    /// The number of rounds that were begun.
    pub fn rounds(&self) -> usize {
        self.runs.iter().map(|run| run.round + 1).max().unwrap_or(0)
    }
}

/// Sorts, and takes the middle one; of an even number the mean of the two in the middle, for the
/// lower alone would flatter and the upper alone slander.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

/// The geometric mean, and of how many; nothing of none.
pub fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<(f64, usize)> {
    let logarithms: Vec<f64> = ratios.map(f64::ln).collect();
    let count = logarithms.len();
    (count > 0).then(|| ((logarithms.iter().sum::<f64>() / count as f64).exp(), count))
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
    // What follows the number names somebody's build.
    let kernel = kernel.split(|letter: char| letter != '.' && !letter.is_ascii_digit()).next().unwrap_or_default();
    let c_library = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let c_library = c_library.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    format!(
        "{model}, {cores} cores, Linux {}, {}",
        kernel,
        c_library.unwrap_or_else(|_| "unknown C library".into())
    )
}
