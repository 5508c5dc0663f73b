//! Running one program under one allocator and reading what it used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::peers::Allocator;
use crate::places::Places;

/// What one run used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    pub wall: f64,
    pub user: f64,
    pub system: f64,
    /// The largest resident memory of the program or of any program it started.
    pub peak_kib: u64,
    pub minor_faults: u64,
    /// The `name=value` lines that the program printed.
    pub printed: BTreeMap<String, f64>,
}

/// A program that has been started by the launcher.
pub struct Started {
    launcher: Child,
    result: PathBuf,
    output: PathBuf,
    errors: PathBuf,
}

/// Starts a program under an allocator. The environment is the same for every user and machine.
pub fn start(
    places: &Places,
    allocator: &Allocator,
    words: &[String],
    environment: &[(String, String)],
    timeout: u32,
) -> Result<Started, String> {
    let file = |name: &str| places.out.join("runs").join(name);
    let (result, output, errors) = (file("result"), file("output"), file("errors"));
    // A launcher that was killed writes nothing: an older result must not be taken for its own.
    let _ = std::fs::remove_file(&result);
    let error_file = std::fs::File::create(&errors).map_err(|error| error.to_string())?;
    let mut command = Command::new(places.program("launch"));
    command
        .args([&result, &output])
        .arg(timeout.to_string())
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(file(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(error_file);
    if let Some(library) = &allocator.library {
        command.env("LD_PRELOAD", library);
    }
    if let Some((name, value)) = &allocator.variable {
        command.env(name, value);
    }
    let launcher = command.spawn().map_err(|error| format!("cannot start the launcher: {error}"))?;
    Ok(Started { launcher, result, output, errors })
}

impl Started {
    /// Waits until the program has ended. An error says how it failed.
    pub fn finish(mut self) -> Result<Usage, String> {
        self.launcher.wait().map_err(|error| error.to_string())?;
        let text = std::fs::read_to_string(&self.result).map_err(|_| "was not measured".to_string())?;
        let fields: Vec<f64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let [wall, user, system, peak, minor, _major, _yields, _preemptions, status, late] = fields[..] else {
            return Err(format!("the launcher wrote {text:?}"));
        };
        if late != 0.0 {
            return Err(format!("took more than {wall:.0} s"));
        }
        if status != 0.0 {
            return Err(format!("{}{}", describe(status as i32), self.last_words()));
        }
        let output = std::fs::read(&self.output).unwrap_or_default();
        Ok(Usage {
            wall,
            user,
            system,
            peak_kib: peak as u64,
            minor_faults: minor as u64,
            printed: printed_numbers(&String::from_utf8_lossy(&output)),
        })
    }

    /// Whether the program is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.launcher.try_wait(), Ok(None))
    }

    fn last_words(&self) -> String {
        let errors = std::fs::read(&self.errors).unwrap_or_default();
        let errors = String::from_utf8_lossy(&errors);
        errors.lines().next().map(|line| format!(": {line}")).unwrap_or_default()
    }
}

fn printed_numbers(output: &str) -> BTreeMap<String, f64> {
    output
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter_map(|(name, value)| Some((name.to_string(), value.parse().ok()?)))
        .collect()
}

/// A wait status in words: the signal in its low seven bits, else the exit status above.
fn describe(status: i32) -> String {
    match status & 0x7f {
        0 => format!("exit status {}", status >> 8),
        signal => format!("signal {signal}"),
    }
}
