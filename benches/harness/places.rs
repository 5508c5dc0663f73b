//! Where things are, and the building of the benchmark's own C programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The directories of a run.
pub struct Places {
    /// The package: programs, inputs and the peers' manifest are in it.
    pub package: PathBuf,
    /// Everything that is made.
    pub out: PathBuf,
}

impl Places {
    /// Finds the package and makes the directories for what will be made.
    pub fn new(out: Option<&Path>) -> Result<Self, String> {
        let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let out = out.map_or_else(|| package.join("out"), Path::to_path_buf);
        for directory in ["bin", "peers", "inputs", "runs"] {
            let directory = out.join(directory);
            std::fs::create_dir_all(&directory)
                .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        }
        let out = out.canonicalize().map_err(|error| error.to_string())?;
        Ok(Self { package, out })
    }

    /// The repository's root.
    pub fn root(&self) -> &Path {
        self.package.parent().unwrap_or(&self.package)
    }

    /// Where the raw results of a command are kept.
    pub fn results(&self, name: &str) -> PathBuf {
        self.out.join(name).with_extension("json")
    }

    /// A program of programs/, as built.
    pub fn program(&self, name: &str) -> PathBuf {
        self.out.join("bin").join(name)
    }

    /// A file that comes with the benchmark or was made by [`crate::inputs`].
    pub fn input(&self, name: &str) -> PathBuf {
        let made = self.out.join("inputs").join(name);
        if made.exists() { made } else { self.package.join("inputs").join(name) }
    }

    /// Compiles what is missing or older than its source.
    pub fn build_programs(&self) -> Result<(), String> {
        let sources = self.package.join("programs");
        let common = sources.join("common.h");
        let entries = std::fs::read_dir(&sources).map_err(|error| error.to_string())?;
        for source in entries.flatten().map(|entry| entry.path()) {
            if source.extension() != Some(OsStr::new("c")) {
                continue;
            }
            let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let program = self.program(&name);
            if is_newer(&program, &source) && is_newer(&program, &common) {
                continue;
            }
            let mut compiler = Command::new("cc");
            compiler.args(["-O2", "-std=gnu17", "-Wall", "-Wextra", "-pthread"]);
            if name == "launch" {
                compiler.arg("-static");
            }
            run_tool(compiler.arg(&source).arg("-o").arg(&program))?;
        }
        Ok(())
    }
}

/// Whether `made` exists and was made after `source` changed.
pub fn is_newer(made: &Path, source: &Path) -> bool {
    let changed = |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
    matches!((changed(made), changed(source)), (Some(made), Some(source)) if made >= source)
}

/// Runs a compiler or the like; its words are shown only if it fails.
pub fn run_tool(command: &mut Command) -> Result<String, String> {
    let output =
        command.output().map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{} failed:\n{}", command.get_program().display(), String::from_utf8_lossy(&output.stderr)))
}
