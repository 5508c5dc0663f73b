//! The `testudo` command: runs programs under the hardened heap, and shows what it catches.
//!
//! ```text
//!  arguments     what can be said on the command line (clap)
//!  run           program: will the loader take the library?  supervise: signals and status  explain: plain words
//!  check         attacks: every bug of the guarantee table   judge: how a child ended       table, json
//!  heap-profile  read: the library's file   symbols   pprof, folded, table
//!  options · version · install · generate (man pages, completions)
//!  library       where libtestudo.so is
//! ```

#[path = "command/arguments.rs"]
mod arguments;
#[path = "command/check/mod.rs"]
mod check;
#[path = "command/generate.rs"]
mod generate;
#[path = "command/heap_profile/mod.rs"]
mod heap_profile;
#[path = "command/install.rs"]
mod install;
#[path = "command/library.rs"]
mod library;
#[path = "command/options.rs"]
mod options;
#[path = "command/run/mod.rs"]
mod run;
#[path = "command/version.rs"]
mod version;

use arguments::{Action, Arguments};
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// The exit status when the command line says what cannot be done, as clap has it.
pub(crate) const WRONG_OPTION: u8 = 2;

/// Why the command did not do what it was asked to: its exit status, and one line for standard error.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: u8,
    message: String,
}

impl Refusal {
    fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// For what fails in a way that has no status of its own.
impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::new(1, message)
    }
}

/// What is printed in place of an action: help and version, and what is wrong with the command line.
fn say_instead(message: &clap::Error) -> Result<ExitCode, Refusal> {
    if message.use_stderr() {
        message.exit();
    }
    options::written(message.print().and_then(|()| std::io::stdout().flush()))?;
    Ok(ExitCode::SUCCESS)
}

fn perform(action: Action) -> Result<ExitCode, Refusal> {
    match action {
        Action::Run(what) => run::run(&what),
        Action::Check(what) => check::check(&what),
        Action::HeapProfile(what) => heap_profile::convert(&what),
        Action::Options(what) => options::list(&what),
        Action::Version { json } => version::show(json),
        Action::Completions { shell } => generate::completions(shell),
        Action::Install { prefix } => install::install(&prefix),
        Action::Generate { folder } => generate::all(&folder),
        Action::Attack { name, side, tries } => check::commit(&name, side, tries),
    }
}

fn main() -> ExitCode {
    let done = match Arguments::try_parse() {
        Ok(arguments) => perform(arguments.action),
        Err(message) => say_instead(&message),
    };
    done.unwrap_or_else(|refusal| {
        eprintln!("testudo: {}", refusal.message);
        ExitCode::from(refusal.status)
    })
}
