//! The allocators that are compared, each as something to preload.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arguments::Arguments;
use crate::peer_builds;
use crate::places::{Places, run_tool};

/// An allocator under comparison.
#[derive(Clone, Debug)]
pub struct Allocator {
    pub name: String,
    /// The library to preload; glibc needs none.
    pub library: Option<PathBuf>,
    /// The environment variable that configures it, and its value.
    pub variable: Option<(&'static str, String)>,
}

impl Allocator {
    /// The C library's own, with which all others are compared.
    pub fn glibc() -> Self {
        Self { name: "glibc".into(), library: None, variable: None }
    }

    /// A library of testudo's with these options.
    pub fn testudo(name: impl Into<String>, library: &Path, options: impl Into<String>) -> Self {
        Self { name: name.into(), library: Some(library.into()), variable: Some((OPTIONS, options.into())) }
    }
}

/// Where testudo finds its options.
const OPTIONS: &str = "TESTUDO_OPTIONS";

const LIBRARY_DIRECTORIES: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// Finds or builds every allocator that the command line asks for, and says which could not be had.
pub fn find(places: &Places, arguments: &Arguments) -> Result<Vec<Allocator>, String> {
    let mut found = vec![Allocator::glibc()];
    let mut take = |name: &str, get: &dyn Fn() -> Result<PathBuf, String>| {
        if !arguments.wants_allocator(name) {
            return;
        }
        match get().and_then(|library| works(&library).map(|()| library)) {
            Ok(library) => {
                eprintln!("{name}: {}", library.display());
                found.push(Allocator { name: name.into(), library: Some(library), variable: None });
            }
            Err(reason) => eprintln!("{name}: not found, left out ({})", reason.trim_end()),
        }
    };
    take("scudo", &scudo);
    take("jemalloc", &|| system("libjemalloc.so.2", "libjemalloc2"));
    take("tcmalloc", &|| system("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"));
    take("mimalloc", &|| {
        system("libmimalloc.so.2", "libmimalloc2.0").or_else(|_| peer_builds::mimalloc(places, false))
    });
    take("mimalloc-secure", &|| peer_builds::mimalloc(places, true));
    take("snmalloc-checks", &|| peer_builds::snmalloc(places));
    take("hm", &|| peer_builds::hardened_malloc(places, "default"));
    take("hm-light", &|| peer_builds::hardened_malloc(places, "light"));

    let profiles = [("testudo", "default"), ("testudo-strict", "strict"), ("testudo-fast", "fast")];
    let wanted = profiles.iter().filter(|(name, _)| arguments.wants_allocator(name));
    let mut own: Vec<Allocator> = wanted
        .map(|(name, profile)| Allocator {
            name: (*name).into(),
            library: None,
            variable: Some((OPTIONS, format!("profile={profile}"))),
        })
        .collect();
    let mut others = Vec::new();
    for added in &arguments.added {
        let variable = added.options.clone().map(|options| (OPTIONS, options));
        let allocator = Allocator { name: added.name.clone(), library: added.library.clone(), variable };
        if added.library.is_none() { own.push(allocator) } else { others.push(allocator) }
    }
    if !own.is_empty() {
        match testudo(places, arguments).and_then(|library| works(&library).map(|()| library)) {
            Ok(library) => {
                eprintln!("testudo: {}", library.display());
                for mut allocator in own {
                    allocator.library = Some(library.clone());
                    found.push(allocator);
                }
            }
            Err(reason) => eprintln!("testudo: not built, left out ({})", reason.trim_end()),
        }
    }
    for mut allocator in others {
        let given = allocator.library.unwrap_or_default();
        let library =
            given.canonicalize().map_err(|error| format!("{}: {}: {error}", allocator.name, given.display()))?;
        works(&library)?;
        allocator.library = Some(library);
        found.push(allocator);
    }
    Ok(found)
}

/// A library that the loader refuses is ignored with a warning and the program runs under glibc:
/// measured unawares, that would be a very flattering number.
pub fn works(library: &Path) -> Result<(), String> {
    let output = Command::new("cat")
        .arg("/proc/self/maps")
        .env("LD_PRELOAD", library)
        .output()
        .map_err(|error| error.to_string())?;
    let maps = String::from_utf8_lossy(&output.stdout);
    let real = library.canonicalize().map_err(|error| format!("{}: {error}", library.display()))?;
    if output.status.success() && maps.contains(&*real.to_string_lossy()) {
        return Ok(());
    }
    Err(format!("{} cannot be preloaded: {}", library.display(), String::from_utf8_lossy(&output.stderr)))
}

fn system(file: &str, package: &str) -> Result<PathBuf, String> {
    LIBRARY_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(file))
        .find(|path| path.exists())
        .ok_or(format!("no {file}: Debian's package {package}"))
}

/// The newest Scudo that an installed LLVM brings.
fn scudo() -> Result<PathBuf, String> {
    for version in (14..=30).rev() {
        let base = format!("/usr/lib/llvm-{version}/lib/clang");
        for inner in [format!("{version}"), format!("{version}.0.0"), format!("{version}.0.6")] {
            let library = Path::new(&base).join(inner).join("lib/linux/libclang_rt.scudo_standalone-x86_64.so");
            if library.exists() {
                return Ok(library);
            }
        }
    }
    Err("no libclang_rt.scudo_standalone-x86_64.so: Debian's package libclang-rt-19-dev".into())
}

/// testudo's own library, built now so that it is what the sources say.
pub fn testudo(places: &Places, arguments: &Arguments) -> Result<PathBuf, String> {
    if let Some(library) = &arguments.testudo {
        return library.canonicalize().map_err(|error| format!("{}: {error}", library.display()));
    }
    eprintln!("building testudo …");
    build_preload(Command::new("cargo").current_dir(places.root()))
}

/// Builds the library to preload with this cargo, in its directory; returns where it is.
pub fn build_preload(cargo: &mut Command) -> Result<PathBuf, String> {
    let messages =
        run_tool(cargo.args(["build", "--release", "--package", "testudo-preload", "--message-format", "json"]))?;
    library_among(&messages, "libtestudo.so")
}

/// The library of this name among what cargo says that it has built.
pub fn library_among(messages: &str, name: &str) -> Result<PathBuf, String> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("filenames")?.as_array().cloned())
        .flatten()
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.file_name().is_some_and(|file| file == name))
        .ok_or(format!("cargo built no {name}"))
}
