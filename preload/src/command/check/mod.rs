//! `testudo check`: commits every bug of the guarantee table, and shows what was caught here and now.

mod attacks;
mod calls;
mod judge;
mod table;
mod trial;

use crate::arguments::Check;
use crate::{Refusal, library, version};
use attacks::{ALL, Attack};
use hardened_heap::Profile;
use judge::{Judge, Outcome};
use serde::Serialize;
use std::process::ExitCode;
pub use trial::Side;
use trial::Trial;

/// How one attack ended in one profile, over all repetitions.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub group: &'static str,
    pub name: &'static str,
    pub title: &'static str,
    pub profile: &'static str,
    /// Whether the profile promises to stop it.
    pub promised: bool,
    /// Whether it was stopped, or what is claimed held, each time.
    pub good: bool,
    /// The first outcome that was not good, else the first.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the correct twin suffered, if anything.
    pub twin_stopped: Option<String>,
}

impl Finding {
    fn broken(&self) -> bool {
        self.promised && !self.good || self.twin_stopped.is_some()
    }
}

/// All that was found, as JSON has it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: &'a version::Version,
    repeated: u32,
    findings: &'a [Finding],
    promises: usize,
    broken: usize,
}

/// Commits all attacks and shows how each ended.
///
/// # Errors
/// When the library is not found, an attack cannot be tried, or standard output cannot be written to.
pub fn check(what: &Check) -> Result<ExitCode, Refusal> {
    let version = version::Version::here()?;
    let library = library::find()?;
    let wanted = |name: &str| what.profile.is_empty() || what.profile.iter().any(|given| given == name);
    let profiles: Vec<&str> = Profile::ALL.iter().map(|(name, _)| *name).filter(|name| wanted(name)).collect();
    let mut table = (!what.json).then(|| table::Table::new(&profiles));
    if let Some(table) = &mut table {
        table.head(&version)?;
    }
    let mut findings: Vec<Finding> = Vec::new();
    for group in ALL {
        if let Some(table) = &mut table {
            table.group(group.title)?;
        }
        for attack in group.attacks {
            let start = findings.len();
            for (name, profile) in Profile::ALL.iter().filter(|(name, _)| wanted(name)) {
                let judge = Judge { library: &library, profile: name, attack };
                let promised = (attack.promised)(&profile.options());
                findings.push(judged(&judge, group.title, name, promised, what.repeat)?);
            }
            if let Some(table) = &mut table {
                table.row(attack, &findings[start..])?;
            }
        }
    }
    let promises = findings.iter().filter(|finding| finding.promised).count();
    let broken = findings.iter().filter(|finding| finding.broken()).count();
    match &mut table {
        Some(table) => table.foot(&findings, what.repeat)?,
        None => {
            let report = Report { version: &version, repeated: what.repeat, findings: &findings, promises, broken };
            crate::options::print_json(&report)?;
        }
    }
    Ok(ExitCode::from(u8::from(broken > 0)))
}

fn judged(
    judge: &Judge,
    group: &'static str,
    profile: &'static str,
    promised: bool,
    repeat: u32,
) -> Result<Finding, String> {
    let Attack { name, title, must, .. } = *judge.attack;
    let mut outcome = None;
    let mut twin_stopped = None;
    for repetition in 0..repeat {
        let now = judge.bug(repetition)?;
        let good = now.is_good(must);
        if outcome.is_none() || !good {
            outcome = Some(now);
        }
        twin_stopped = twin_stopped.or(judge.twin(repetition)?);
        if !good {
            break;
        }
    }
    let outcome = outcome.ok_or_else(|| format!("{name}: not tried"))?;
    Ok(Finding { group, name, title, profile, promised, good: outcome.is_good(must), outcome, twin_stopped })
}

/// Commits one attack, in this very process.
///
/// # Errors
/// When there is none of that name.
pub fn commit(name: &str, side: Side, number: u32) -> Result<ExitCode, Refusal> {
    let attack = attacks::named(name).ok_or_else(|| format!("{name}: no such attack"))?;
    (attack.run)(Trial { side, number });
    Ok(ExitCode::SUCCESS)
}
