//! Libraries with one protection more or fewer than the real one, compiled the same way.
//!
//! Turning an option off at run time would not do: each profile is compiled as a whole, and every other mixture of
//! options runs slower code that asks the options at each step. So the change is made in a copy of the sources, and
//! the copy is built. The checksum, which no option turns off, is taken out the same way. Nothing in the real sources
//! can be switched to any of this, by accident or otherwise.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers;
use crate::places::Places;

/// A change to a copy of the sources.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Edit {
    /// A switch of a profile, as compiled.
    Switch { profile: &'static str, option: &'static str, on: bool },
    /// Every checksum is zero: neither computed nor, as far as the compiler sees, compared.
    NoChecksum,
    /// All profiles run the code of mixtures.
    Uncompiled,
}

/// What no build of the library needs: the rest of the repository is copied.
const LEFT_OUT: [&str; 6] = [".git", "target", "benches", "tests", "fuzz", "docs"];

/// The library that these edits make, built unless it is there already for these very sources.
pub fn build(places: &Places, name: &str, edits: &[Edit]) -> Result<PathBuf, String> {
    let directory = places.out.join("variants");
    let library = directory.join(format!("{name}.so"));
    let key_file = library.with_extension("key");
    let mut key = DefaultHasher::new();
    edits.hash(&mut key);
    for part in parts(places.root())? {
        hash(&part, &mut key)?;
    }
    let key = key.finish().to_string();
    if library.exists() && std::fs::read_to_string(&key_file).is_ok_and(|kept| kept == key) {
        return Ok(library);
    }
    eprintln!("building testudo with other protections: {name} …");
    let copy = directory.join("sources");
    // There may be none yet.
    let _ = std::fs::remove_dir_all(&copy);
    copy_sources(places.root(), &copy)?;
    edit_all(&copy, name, edits)?;
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&copy).env("CARGO_TARGET_DIR", directory.join("target"));
    // The warnings that such edits bring concern nobody.
    cargo.env("RUSTFLAGS", "--cap-lints=allow");
    let built = peers::build_preload(&mut cargo)?;
    std::fs::copy(&built, &library).map_err(|error| format!("{}: {error}", library.display()))?;
    peers::works(&library)?;
    std::fs::write(&key_file, key).map_err(|error| error.to_string())?;
    Ok(library)
}

fn hash(path: &Path, into: &mut DefaultHasher) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    path.hash(into);
    if !path.is_dir() {
        std::fs::read(path).map_err(failed)?.hash(into);
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(failed)?;
    let mut inner: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    inner.sort();
    inner.iter().try_for_each(|entry| hash(entry, into))
}

fn copy_all(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", from.display());
    if !from.is_dir() {
        return std::fs::copy(from, to).map(drop).map_err(failed);
    }
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)?.flatten() {
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Makes the edits in a copy of the sources.
pub fn edit_all(copy: &Path, name: &str, edits: &[Edit]) -> Result<(), String> {
    edits.iter().try_for_each(|edit| apply(copy, *edit).map_err(|reason| format!("{name}: {reason}")))
}

/// What lies at the repository's root and is needed, in order.
fn parts(root: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut parts: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| LEFT_OUT.iter().all(|name| entry.file_name() != *name))
        .map(|entry| entry.path())
        .collect();
    parts.sort();
    Ok(parts)
}

/// Copies the parts of the repository that the library is built from.
pub fn copy_sources(root: &Path, copy: &Path) -> Result<(), String> {
    std::fs::create_dir_all(copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    parts(root)?.iter().try_for_each(|part| copy_all(part, &copy.join(part.file_name().unwrap_or_default())))
}

fn apply(copy: &Path, edit: Edit) -> Result<(), String> {
    match edit {
        Edit::Switch { profile, option, on } => {
            change(copy, "src/options/mod.rs", |text| switch(text, profile, option, on))
        }
        Edit::NoChecksum => change(copy, "src/chunk/checksum.rs", |text| {
            const NOTHING: &str = "let _ = (address, fields); return 0;";
            let text = behind(text, "fn checksum<C: Crc>(&self, address: usize, fields: u32) -> u32 {", NOTHING)?;
            // Free slots may have a checksum of another kind.
            let of_free_slots = behind(&text, "fn free_seal(&self, address: usize, fields: u32) -> u32 {", NOTHING);
            Some(of_free_slots.unwrap_or(text))
        }),
        Edit::Uncompiled => change(copy, "src/protections.rs", |text| {
            behind(
                text,
                "fn of(options: &Options, has_instruction: bool, has_vectors: bool, shared: bool) -> Self {",
                "if has_instruction { return Self::Mixed; }",
            )
        }),
    }
}

fn change(copy: &Path, file: &str, edit: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let path = copy.join(file);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
    let edited = edit(&text).ok_or(format!("{file} no longer has the line that harness/variants.rs changes"))?;
    std::fs::write(&path, edited).map_err(|error| format!("{file}: {error}"))
}

/// The text with something added behind the one place where `line` stands.
fn behind(text: &str, line: &str, added: &str) -> Option<String> {
    let (before, after) = text.split_once(line)?;
    (!after.contains(line)).then(|| format!("{before}{line}\n{added}\n{after}"))
}

/// The text with a switch set in the constant of a profile, whether that constant names the switch or inherits it.
fn switch(text: &str, profile: &str, option: &str, on: bool) -> Option<String> {
    let constant = format!("pub const {profile}: Self =");
    let (before, rest) = text.split_once(&constant)?;
    let end = rest.find("};")?;
    let (body, after) = rest.split_at(end);
    let body = match [true, false].map(|old| format!("{option}: {old}")).iter().find(|old| body.contains(*old)) {
        Some(old) => body.replacen(old, &format!("{option}: {on}"), 1),
        None if body.contains("..Self::") => body.replacen("Self {", &format!("Self {{ {option}: {on},"), 1),
        None => return None,
    };
    Some(format!("{before}{constant}{body}{after}"))
}

#[cfg(test)]
mod tests {
    use super::switch;

    #[test]
    fn a_switch_is_set_in_one_profile_only() {
        let text = "pub const A: Self = Self { x: true, y: 1 };\npub const B: Self =\n    Self { x: false, ..Self::A };\n\
                    pub const C: Self = Self { y: 2, ..Self::A };";
        assert_eq!(switch(text, "A", "x", false), Some(text.replace("{ x: true", "{ x: false")));
        assert_eq!(switch(text, "B", "x", true), Some(text.replace("x: false", "x: true")));
        assert_eq!(switch(text, "C", "x", false), Some(text.replace("{ y: 2", "{ x: false, y: 2")));
        assert_eq!(switch(text, "A", "z", false), None);
        assert_eq!(switch(text, "D", "x", false), None);
    }
}
