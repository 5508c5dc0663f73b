//! What can be said on the command line. Help texts, completions and man pages are made from this.

use crate::check::Side;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use hardened_heap::Profile;
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs programs under testudo, a hardened memory allocator.
///
/// The allocator is a library, libtestudo.so, that takes the place of malloc, free and C++'s new and delete. It ends a
/// program that corrupts its heap with a report that says what happened. Programs need not be rebuilt.
#[derive(Debug, Parser)]
#[command(name = "testudo", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    Run(Run),
    Check(Check),
    Options(List),
    HeapProfile(HeapProfile),
    /// Show versions, the library found, and what CPU and kernel offer
    Version {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Install command, library, header, man pages and completions under a folder
    ///
    /// Everything goes to its usual place below the prefix: bin, lib, include, lib/pkgconfig, share/man and the
    /// shells' folders for completions. Prints each file. To take it back, delete these files.
    Install {
        /// Where to install to
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
    },
    /// Write man pages and completions to a folder
    #[command(hide = true)]
    Generate {
        /// The folder; made if need be
        folder: PathBuf,
    },
    /// Commit one bug of `check`, here and now
    #[command(hide = true)]
    Attack {
        /// Its name, as in the JSON of `check`
        name: String,
        /// The bug, or the same without it
        #[arg(value_enum)]
        side: Side,
        /// What varies from try to try
        #[arg(default_value_t = 0)]
        tries: u32,
    },
}

/// Run a program under the hardened heap; its exit status and signals are its own
///
/// When testudo ends the program, what was found is explained in plain words afterwards. Signals sent to this command
/// go to the program, and it ends as the program does. Exits with 127 when there is no such program, with 126 when it
/// cannot be run protected (not executable, statically linked, set-user-id, no library), with 2 when an option is wrong.
#[derive(Debug, Args)]
#[command(override_usage = "testudo run [OPTIONS] -- PROGRAM [ARGUMENTS]...")]
pub struct Run {
    /// Set of protections
    #[arg(long, value_parser = profile_names())]
    pub profile: Option<String>,
    /// An option as in TESTUDO_OPTIONS; may be given more than once
    #[arg(short = 'o', value_name = "KEY=VALUE")]
    pub option: Vec<OsString>,
    /// Become the program instead of waiting for it: nothing is explained afterwards
    ///
    /// For debuggers and service managers, which want the program to have this process's number.
    #[arg(long)]
    pub exec: bool,
    /// Explain nothing: the report alone
    #[arg(long, short)]
    pub quiet: bool,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// Commit every bug that testudo promises to stop, and show what was caught here and now
///
/// Each bug is committed in a process of its own under libtestudo.so, and so is its correct twin, which must run
/// unharmed. Exits with 1 when something that the profile promises was missed, or a correct program was stopped.
#[derive(Debug, Args)]
pub struct Check {
    /// Only this profile; may be given more than once
    #[arg(long, value_parser = profile_names())]
    pub profile: Vec<String>,
    /// Commit each bug so many times
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// List all options with their values in each profile
#[derive(Debug, Args)]
pub struct List {
    /// Print a JSON array
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print the README's table
    #[arg(long, hide = true)]
    pub markdown: bool,
}

/// Show a heap profile, or turn it into what pprof and flame graphs read
///
/// A program under libtestudo.so writes one with the options heap_profile_kb=512, heap_profile_path=/tmp/heap-%p-%n and
/// heap_profile_at_exit=1 or heap_profile_signal=12 (SIGUSR2), or by calling testudo_heap_profile(). Without --pprof and
/// --folded, the functions that hold most are listed. Names come from the files that the program was made of.
#[derive(Debug, Args)]
pub struct HeapProfile {
    /// The file that the program wrote
    pub profile: PathBuf,
    /// Write what `pprof` and `go tool pprof` open; - is standard output
    #[arg(long, value_name = "FILE")]
    pub pprof: Option<PathBuf>,
    /// Write folded stacks for flame graphs; - is standard output
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,
    /// What the list and the folded stacks count; a file for pprof has all
    #[arg(long, default_value = "inuse_space", value_parser = PossibleValuesParser::new(crate::heap_profile::VALUES.map(|(name, _)| name)))]
    pub value: String,
    /// Length of the list
    #[arg(long, value_name = "FUNCTIONS", default_value_t = 20)]
    pub top: usize,
}

fn profile_names() -> PossibleValuesParser {
    PossibleValuesParser::new(Profile::ALL.map(|(name, _)| name))
}
