//! Commits one attack in a process of its own, and says how that ended.

use super::attacks::{Attack, Must};
use super::trial::{AT_THE_BUG, GAVE_UP, MISSED, MOOT, PAST_THE_BUG, Side};
use crate::library::Library;
use serde::Serialize;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};

/// After so many seconds an attack counts as hung. Generous: with much other work on the machine, what takes a millisecond has taken
/// half a minute.
const HANGS_AFTER_SECONDS: u32 = 600;
/// An attack that could have no effect is tried again so often.
const TRIES: u32 = 20;

/// How an attack ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// testudo ended the process; its report began with these words.
    Abort { report: String },
    /// The instruction that did the wrong faulted.
    Fault,
    /// What was claimed, held.
    Holds,
    /// Nothing stopped the bug, or the claim did not hold.
    Missed { how: String },
}

impl Outcome {
    /// Whether an attack that had to end as `must` did.
    pub fn is_good(&self, must: Must) -> bool {
        match (self, must) {
            (Self::Abort { .. } | Self::Fault, Must::Stop) | (Self::Fault, Must::Fault) => true,
            // To be ended at the access is never worse than to see nothing.
            (Self::Holds | Self::Fault, Must::Hold) | (Self::Holds, Must::Differ) => true,
            _ => false,
        }
    }
}

/// One attack, to be tried under one library with one set of options.
#[derive(Debug)]
pub struct Judge<'a> {
    pub library: &'a Library,
    pub profile: &'a str,
    pub attack: &'a Attack,
}

impl Judge<'_> {
    /// Commits the bug.
    pub fn bug(&self, repetition: u32) -> Result<Outcome, String> {
        let mut first = None;
        for attempt in 0..TRIES {
            let number = repetition * TRIES + attempt;
            let output = self.run(Side::Bug, number)?;
            if output.status.code() == Some(MOOT) {
                continue;
            }
            let outcome = self.outcome(&output)?;
            if self.attack.must != Must::Differ || outcome != Outcome::Holds {
                return Ok(outcome);
            }
            match &first {
                None => first = Some(output.stdout),
                Some(other) if *other == output.stdout => {
                    return Ok(Outcome::Missed { how: "the same in two runs".to_owned() });
                }
                Some(_) => return Ok(outcome),
            }
        }
        // What could not be tried is not known to be stopped.
        Ok(Outcome::Missed { how: format!("had no effect in {TRIES} tries") })
    }

    /// Runs the correct twin; what went wrong, if anything did.
    pub fn twin(&self, repetition: u32) -> Result<Option<String>, String> {
        let output = self.run(Side::Twin, repetition)?;
        let unharmed = output.stderr.is_empty() && matches!(output.status.code(), Some(0 | MOOT));
        Ok((!unharmed).then(|| format!("{}, {}", output.status, first_line(&output.stderr))))
    }

    fn run(&self, side: Side, number: u32) -> Result<Output, String> {
        let side = match side {
            Side::Bug => "bug",
            Side::Twin => "twin",
        };
        let options = ["profile=", self.profile, ":", self.attack.options].concat();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("testudo")
            .args(["attack", self.attack.name, side, &number.to_string()])
            .env("LD_PRELOAD", &self.library.path)
            .env("TESTUDO_OPTIONS", options)
            .env_remove("TESTUDO_REPORT_COPY")
            .stdin(Stdio::null());
        let prepare = || {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: a valid structure; both calls are allowed between fork and exec.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                libc::alarm(HANGS_AFTER_SECONDS);
            }
            Ok(())
        };
        // SAFETY: as said in `prepare`.
        unsafe { command.pre_exec(prepare) };
        command.output().map_err(|error| format!("an attack cannot be started: {error}"))
    }

    fn outcome(&self, output: &Output) -> Result<Outcome, String> {
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        let report = first_line(&output.stderr);
        let missed = |how: &str| Outcome::Missed { how: how.to_owned() };
        Ok(match (output.status.code(), output.status.signal()) {
            (Some(0), _) if matches!(self.attack.must, Must::Hold | Must::Differ) => Outcome::Holds,
            (Some(0 | MISSED), _) => missed("ran on"),
            (Some(GAVE_UP), _) => return Err(format!("{}: {last}", self.attack.name)),
            (_, Some(libc::SIGABRT)) => match report.strip_prefix("testudo: ") {
                Some(text) => Outcome::Abort { report: text.split(" at 0x").next().unwrap_or(text).to_owned() },
                None => missed("ended without a report"),
            },
            (_, Some(libc::SIGSEGV | libc::SIGBUS)) if last == AT_THE_BUG => Outcome::Fault,
            (_, Some(libc::SIGSEGV | libc::SIGBUS)) if last == PAST_THE_BUG => missed("crashed later"),
            (_, Some(libc::SIGALRM)) => missed("hung"),
            _ => return Err(format!("{}: {}, {report}", self.attack.name, output.status)),
        })
    }
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::Outcome;
    use crate::check::attacks::Must;

    #[test]
    fn nothing_but_what_must_be_is_good() {
        let abort = Outcome::Abort { report: "double free".to_owned() };
        let missed = Outcome::Missed { how: "ran on".to_owned() };
        for must in [Must::Stop, Must::Fault, Must::Hold, Must::Differ] {
            assert!(!missed.is_good(must), "{must:?}");
            assert_eq!(abort.is_good(must), must == Must::Stop, "{must:?}");
            assert_eq!(Outcome::Holds.is_good(must), matches!(must, Must::Hold | Must::Differ), "{must:?}");
            assert_eq!(Outcome::Fault.is_good(must), must != Must::Differ, "{must:?}");
        }
    }
}
