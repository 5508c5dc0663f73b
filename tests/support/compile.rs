//! Compiles the C and C++ programs in `tests/c`.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::root;

/// `-fno-builtin` and the silence: the compiler would remove, warn of, or reason from the very bugs
/// that the programs are made of.
const FLAGS: [&str; 6] = ["-O1", "-g", "-fno-builtin", "-w", "-pthread", "-fno-omit-frame-pointer"];

/// Compiles `sources` of `tests/c` into one program, C++ if one of them ends in `.cpp`, and returns
/// its path. A program whose sources did not change since is not compiled again, be it by another
/// test binary or an earlier run.
///
/// # Panics
/// When it does not compile.
pub fn program(sources: &[&str]) -> PathBuf {
    built(sources, &[], "")
}

/// The same for a shared library.
///
/// # Panics
/// When it does not compile.
pub fn shared_library(sources: &[&str]) -> PathBuf {
    built(sources, &["-shared", "-fPIC"], ".so")
}

fn built(sources: &[&str], more_flags: &[&str], suffix: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
    fs::create_dir_all(&folder).expect("a folder for compiled programs");
    let stem = sources[0].split('.').next().unwrap_or(sources[0]);
    let built = folder.join(format!("{stem}-{:016x}{suffix}", fingerprint(sources, more_flags)));
    if !built.exists() {
        // Under a name of its own first: other tests may compile the same program now.
        let fresh = tempfile::Builder::new().prefix(stem).tempdir_in(&folder).expect("a temporary folder");
        let fresh_program = fresh.path().join("program");
        compile(sources, more_flags, &fresh_program);
        fs::rename(&fresh_program, &built).expect("the compiled program moves to its place");
    }
    built
}

fn compile(sources: &[&str], more_flags: &[&str], output: &Path) {
    let cxx = sources.iter().any(|source| source.ends_with(".cpp"));
    let (variable, fallback) = if cxx { ("CXX", "c++") } else { ("CC", "cc") };
    let compiler = std::env::var(variable).unwrap_or_else(|_| fallback.to_owned());
    let mut command = Command::new(&compiler);
    command.args(FLAGS).args(more_flags).arg("-o").arg(output);
    for source in sources {
        let language = if source.ends_with(".cpp") { "c++" } else { "c" };
        command.args(["-x", language]).arg(root().join("tests/c").join(source));
    }
    let output = command
        .args(["-x", "none", "-ldl"])
        .output()
        .unwrap_or_else(|error| panic!("{compiler} does not run: {error}"));
    assert!(output.status.success(), "{sources:?} do not compile:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Of all that goes into a program: sources, the headers beside them, flags.
fn fingerprint(sources: &[&str], more_flags: &[&str]) -> u64 {
    let folder = root().join("tests/c");
    let mut hasher = DefaultHasher::new();
    (FLAGS, more_flags, sources).hash(&mut hasher);
    let mut headers: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("tests/c is there")
        .map(|entry| entry.expect("tests/c can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    headers.sort();
    for path in sources.iter().map(|source| folder.join(source)).chain(headers) {
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).hash(&mut hasher);
    }
    hasher.finish()
}
