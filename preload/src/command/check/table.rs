//! The table that `check` shows, row by row as it is found; coloured on a terminal.

use super::Finding;
use super::attacks::Attack;
use super::judge::Outcome;
use crate::options::written;
use crate::version::Version;
use anstyle::{AnsiColor, Style};
use std::io::Write;

/// Together no wider than 80 columns for the four profiles.
const TITLE: usize = 48;
const CELL: usize = 8;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Writes to standard output, without colours where that is no terminal or `NO_COLOR` is set.
#[derive(Debug)]
pub struct Table {
    profiles: Vec<String>,
}

/// Returns from the function when the line cannot be written: nobody would see the rest.
macro_rules! line {
    ($($argument:tt)*) => {
        written(writeln!(anstream::stdout(), $($argument)*))?;
    };
}

impl Table {
    pub fn new(profiles: &[&str]) -> Self {
        Self { profiles: profiles.iter().map(|&name| name.to_owned()).collect() }
    }

    pub fn head(&mut self, version: &Version) -> Result<(), String> {
        line!("testudo {}: every bug committed here, now, in a process of its own", version.command);
        line!("{DIM}{} on {}{DIM:#}\n", version.library, version.kernel);
        let names: String = self.profiles.iter().map(|name| format!("{name:<CELL$}")).collect();
        line!("{:TITLE$}{BOLD}{}{BOLD:#}", "", names.trim_end());
        Ok(())
    }

    pub fn group(&mut self, title: &str) -> Result<(), String> {
        line!("{BOLD}{title}{BOLD:#}");
        Ok(())
    }

    pub fn row(&mut self, attack: &Attack, findings: &[Finding]) -> Result<(), String> {
        let cells: String = findings.iter().map(cell).collect();
        line!("  {:<width$}{}", attack.title, cells.trim_end(), width = TITLE - 2);
        Ok(())
    }

    pub fn foot(&mut self, findings: &[Finding], repeat: u32) -> Result<(), String> {
        let promised = findings.iter().filter(|finding| finding.promised).count();
        let kept = findings.iter().filter(|finding| finding.promised && finding.good).count();
        let twins = findings.iter().filter(|finding| finding.twin_stopped.is_none()).count();
        let style = |all: bool| if all { GOOD } else { BAD };
        line!(
            "\n{DIM}abort: ended with a report              fault: ended in the wrong instruction\n\
             holds: what is claimed was seen         -: not promised (see SECURITY.md)\n\
             each was tried {repeat} ×{DIM:#}\n"
        );
        let now = style(kept == promised);
        line!("{now}{kept} of {promised} promises held{now:#}");
        let now = style(twins == findings.len());
        line!("{now}{twins} of {} correct twins ran unharmed{now:#}", findings.len());
        for finding in findings.iter().filter(|finding| finding.broken()) {
            let Finding { group, title, profile, .. } = finding;
            match (&finding.outcome, &finding.twin_stopped) {
                (_, Some(why)) => {
                    line!("{BAD}a correct program was stopped{BAD:#} in {profile}: {group}, {title}: {why}");
                }
                (outcome, None) => {
                    line!("{BAD}missed{BAD:#} in {profile}: {group}, {title}: {}", in_words(outcome));
                }
            }
        }
        Ok(())
    }
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Abort { report } => format!("ended too late, by {report}"),
        Outcome::Fault => "ended by a fault".to_owned(),
        Outcome::Holds => "ran on".to_owned(),
        Outcome::Missed { how } => how.clone(),
    }
}

/// One cell with its colour; the width is counted without it.
fn cell(finding: &Finding) -> String {
    let (text, style) = match &finding.outcome {
        _ if finding.twin_stopped.is_some() => ("TWIN", BAD),
        _ if !finding.good && finding.promised => ("MISSED", BAD),
        _ if !finding.good => ("-", DIM),
        Outcome::Abort { .. } => ("abort", GOOD),
        Outcome::Fault => ("fault", GOOD),
        Outcome::Holds | Outcome::Missed { .. } => ("holds", GOOD),
    };
    format!("{style}{text}{style:#}{:width$}", "", width = CELL - text.len())
}
