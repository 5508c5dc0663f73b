//! The `testudo` command: runs programs under the hardened heap.

use clap::{Parser, Subcommand, ValueEnum};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Runs programs under testudo, a hardened memory allocator.
#[derive(Debug, Parser)]
#[command(name = "testudo", version, about, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a program under the hardened heap; its exit status and signals are its own
    Run {
        /// Set of protections
        #[arg(long, value_enum)]
        profile: Option<Profile>,
        /// An option as in TESTUDO_OPTIONS; may be given more than once
        #[arg(short = 'o', value_name = "KEY=VALUE")]
        option: Vec<OsString>,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
        program: Vec<OsString>,
    },
    /// List all options with their defaults
    Options,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Profile {
    /// Everything that costs little
    Default,
    /// Everything
    Strict,
    /// Header, geometry, guard pages and randomisation only
    Fast,
}

/// The program could not be started at all: the shells' convention.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    match Arguments::parse().action {
        Action::Run { profile, option, program } => run(profile, &option, &program),
        Action::Options => {
            let defaults = hardened_heap::Options::DEFAULT;
            // A closed pipe is the reader's wish.
            let _ = write!(std::io::stdout(), "{}", hardened_heap::options::Help(&defaults));
            ExitCode::SUCCESS
        }
    }
}

fn fail(status: u8, message: &str) -> ExitCode {
    eprintln!("testudo: {message}");
    ExitCode::from(status)
}

/// Where `libtestudo.so` is: beside this command, or in the `lib` beside its folder.
fn library() -> Option<PathBuf> {
    let command = std::env::current_exe().ok()?;
    let folder = command.parent()?;
    let places = [folder.join("libtestudo.so"), folder.join("../lib/libtestudo.so")];
    places.into_iter().find_map(|place| place.canonicalize().ok())
}

/// Whether the loader will take the library. It only warns about a preloaded library that it can't use, and would run
/// the program unprotected.
fn probe(library: &Path) -> Result<(), String> {
    let name = CString::new(library.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a terminated path. The library has no constructors; its symbols stay local to the handle.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: dlerror gives a terminated string, or null when there was no error.
        let reason = unsafe { libc::dlerror() };
        if reason.is_null() {
            return Err("no reason given".to_owned());
        }
        // SAFETY: as above; copied at once.
        return Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned());
    }
    // SAFETY: a valid handle and a terminated name.
    let known = unsafe { !libc::dlsym(handle, c"testudo_check_heap".as_ptr()).is_null() };
    if known { Ok(()) } else { Err("it is not testudo's library".to_owned()) }
}

fn run(profile: Option<Profile>, given: &[OsString], program: &[OsString]) -> ExitCode {
    let Some((name, arguments)) = program.split_first() else {
        return fail(2, "no program was named");
    };
    let Some(library) = library() else {
        return fail(CANNOT_RUN, "libtestudo.so is neither beside this command nor in ../lib");
    };
    if library.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        return fail(CANNOT_RUN, "the loader cannot preload a library whose path has a space or a colon");
    }
    if let Err(reason) = probe(&library) {
        return fail(CANNOT_RUN, &format!("{} cannot be loaded: {reason}", library.display()));
    }
    let mut options: Vec<&OsStr> = Vec::new();
    let profile = profile.map(|profile| match profile {
        Profile::Default => "profile=default",
        Profile::Strict => "profile=strict",
        Profile::Fast => "profile=fast",
    });
    let inherited = std::env::var_os("TESTUDO_OPTIONS").unwrap_or_default();
    match profile {
        // A profile sets every option, so what was in the environment is replaced.
        Some(profile) => options.push(OsStr::new(profile)),
        None if !inherited.is_empty() => options.push(&inherited),
        None => {}
    }
    options.extend(given.iter().map(OsString::as_os_str));
    let text = options.join(OsStr::new(":"));
    if let Err(error) = hardened_heap::options::parse(hardened_heap::Options::DEFAULT, text.as_bytes()) {
        return fail(2, &error.to_string());
    }
    let mut preload = library.into_os_string();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mut command = Command::new(name);
    command.args(arguments).env("LD_PRELOAD", preload);
    if !text.is_empty() {
        command.env("TESTUDO_OPTIONS", text);
    }
    // Takes this process's place, so that exit status and signals are the program's own.
    let error = command.exec();
    let name = name.to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => fail(NOT_FOUND, &format!("{name}: no such program")),
        ErrorKind::PermissionDenied => fail(CANNOT_RUN, &format!("{name}: not executable")),
        _ => fail(CANNOT_RUN, &format!("{name}: {error}")),
    }
}
