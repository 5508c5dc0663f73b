//! `testudo run`.

mod explain;
mod program;
mod supervise;

use crate::arguments::Run;
use crate::{Refusal, WRONG_OPTION, library};
use hardened_heap::Options;
use std::ffi::{OsStr, OsString};
use std::io::{Error, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use supervise::{Ended, ReportFile};

/// The shells' convention for a program that is there but cannot be run, and for one that is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs the program, and ends as it does.
///
/// # Errors
/// When it cannot be run with all the protection that was asked for.
pub fn run(what: &Run) -> Result<ExitCode, Refusal> {
    let Some((name, arguments)) = what.program.split_first() else {
        return Err(Refusal::new(WRONG_OPTION, "no program was named"));
    };
    let (options, parsed) = options(what.profile.as_deref(), &what.option)?;
    let library = library::find()?;
    let path = program::find(name)?;
    program::can_be_protected(&path)?;

    let mut command = Command::new(&path);
    command.arg0(name).args(arguments).env("LD_PRELOAD", preload(library.path.into_os_string()));
    if !options.is_empty() {
        command.env("TESTUDO_OPTIONS", &options);
    }
    if what.exec {
        supervise::as_it_was_started(&mut command);
        return Err(cannot_start(name, &command.exec()));
    }
    // Without a place for reports the program runs all the same; only the explanation is less precise.
    let reports = if what.quiet { None } else { ReportFile::new().ok() };
    if let Some(reports) = &reports {
        command.env(ReportFile::VARIABLE, reports.address());
    }
    let (process, ended) = supervise::run(&mut command).map_err(|error| cannot_start(name, &error))?;
    if !what.quiet {
        let reports = reports.map(|reports| reports.read()).unwrap_or_default();
        let ran = explain::Ran {
            program: &name.to_string_lossy(),
            arguments: !arguments.is_empty(),
            how: &given(what),
            all_guarded: parsed.sample_rate == 1,
            guarded_align: parsed.guarded_align,
            process,
        };
        if let Some(text) = explain::explain(ran, &reports, ended.signal()) {
            eprint!("{text}");
        }
    }
    match ended {
        Ended::Status(status) => Ok(ExitCode::from(status)),
        Ended::Signal(signal) => Ok(supervise::end_by(signal)),
    }
}

fn preload(mut library: OsString) -> OsString {
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        library.push(":");
        library.push(others);
    }
    library
}

/// The options of the command line, as they were given.
fn given(what: &Run) -> Vec<String> {
    let profile = what.profile.iter().flat_map(|name| ["--profile".to_owned(), name.clone()]);
    let options = what.option.iter().flat_map(|option| ["-o".to_owned(), option.to_string_lossy().into_owned()]);
    profile.chain(options).collect()
}

/// The value of `TESTUDO_OPTIONS`, parsed once here so that an error is this command's and not the program's; and what it
/// says.
fn options(profile: Option<&str>, given: &[OsString]) -> Result<(OsString, Options), Refusal> {
    let inherited = std::env::var_os("TESTUDO_OPTIONS").unwrap_or_default();
    let profile = profile.map(|name| OsString::from(format!("profile={name}")));
    // A profile sets every option, so what was in the environment is replaced.
    let first = profile.unwrap_or(inherited);
    let mut parts: Vec<&OsStr> = if first.is_empty() { Vec::new() } else { vec![&first] };
    parts.extend(given.iter().map(OsString::as_os_str));
    let text = parts.join(OsStr::new(":"));
    let parsed = hardened_heap::options::parse(Options::DEFAULT, text.as_encoded_bytes())
        .map_err(|error| Refusal::new(WRONG_OPTION, error.to_string()))?;
    Ok((text, parsed.options))
}

fn cannot_start(name: &OsStr, error: &Error) -> Refusal {
    let name = name.to_string_lossy();
    match error.kind() {
        // The file itself was found: what is missing is named in its first line.
        ErrorKind::NotFound => Refusal::new(CANNOT_RUN, format!("{name}: its interpreter is missing")),
        ErrorKind::PermissionDenied => Refusal::new(CANNOT_RUN, format!("{name}: not executable")),
        _ => Refusal::new(CANNOT_RUN, format!("{name}: {error}")),
    }
}
