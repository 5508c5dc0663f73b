//! `testudo heap-profile`: turns what the library writes into what people and other tools read.
//!
//! * [`read`]: the library's file, and what its samples stand for.
//! * [`symbols`]: names of the functions that addresses lie in.
//! * [`pprof`] and [`folded`]: the formats of others; [`table`]: for people.

mod folded;
mod pprof;
mod read;
mod symbols;
mod table;

use crate::arguments::HeapProfile;
use crate::options::{print, print_bytes};
use crate::{Refusal, WRONG_OPTION};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// What a profile counts, in the order of its values.
pub const VALUES: [(&str, &str); 4] =
    [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")];

/// Turns a profile into what was asked for; without that, prints the functions that hold most.
///
/// # Errors
/// When a file cannot be read or written, or is no heap profile, or when both formats are to go to one place.
pub fn convert(what: &HeapProfile) -> Result<ExitCode, Refusal> {
    if let Some(place) = what.pprof.as_ref().filter(|_| what.pprof == what.folded) {
        let place = if place == Path::new("-") { "standard output".into() } else { place.display().to_string() };
        return Err(Refusal::new(WRONG_OPTION, format!("--pprof and --folded cannot both go to {place}")));
    }
    let file = what.profile.display();
    let profile = read::file(&what.profile).map_err(|error| format!("{file}: {error}"))?;
    if profile.dropped > 0 {
        eprintln!(
            "testudo: {} samples found no room in the process's table; take a larger heap_profile_kb",
            profile.dropped
        );
    }
    let symbols = symbols::Symbols::of(&profile);
    let value = VALUES.iter().position(|(name, _)| *name == what.value).unwrap_or(VALUES.len() - 1);
    if let Some(path) = &what.pprof {
        put(path, &pprof::encode(&profile, &symbols))?;
    }
    if let Some(path) = &what.folded {
        put(path, folded::text(&profile, &symbols, value).as_bytes())?;
    }
    if what.pprof.is_none() && what.folded.is_none() {
        print(&table::text(&profile, &symbols, value, what.top))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file; `-` is standard output.
fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if path == Path::new("-") {
        return print_bytes(bytes);
    }
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}
