//! Where `libtestudo.so` is, and whether the loader will take it.

use crate::Refusal;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The name by which the loader and the linker know it.
pub const NAME: &str = "libtestudo.so";
/// This command's version; the library's must be the same.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A library that can be preloaded.
#[derive(Debug)]
pub struct Library {
    /// Absolute, without a space or colon.
    pub path: PathBuf,
}

/// Exit status where a program cannot be run: the shells' convention.
const CANNOT_RUN: u8 = 126;

/// Finds the library and tries it.
///
/// # Errors
/// When there is none, or it cannot be loaded. The loader would only warn of that, and run the program unprotected.
pub fn find() -> Result<Library, Refusal> {
    let path = locate()?;
    if path.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        return Err(Refusal::new(
            CANNOT_RUN,
            format!("the loader cannot preload {}: the path has a space or a colon", path.display()),
        ));
    }
    let refuse = |reason| Refusal::new(CANNOT_RUN, format!("{} cannot be loaded: {reason}", path.display()));
    let handle = open(&path).map_err(refuse)?;
    let version = version_of(handle).map_err(refuse)?;
    if version != VERSION {
        return Err(refuse(format!("it is version {version}, this command is {VERSION}")));
    }
    Ok(Library { path })
}

#[cfg(embedded_library)]
fn locate() -> Result<PathBuf, Refusal> {
    // The one inside is of this very build.
    unpack(include_bytes!(concat!(env!("OUT_DIR"), "/libtestudo.so")))
}

#[cfg(not(embedded_library))]
fn locate() -> Result<PathBuf, Refusal> {
    near(&command_folder()).or_else(by_name).ok_or_else(|| {
        Refusal::new(
            CANNOT_RUN,
            format!(
                "{NAME} is neither beside this command, nor in ../lib, nor where the loader looks; \
                 it comes with the package, and is built by `cargo build --release` beside the command"
            ),
        )
    })
}

#[cfg(not(embedded_library))]
fn command_folder() -> PathBuf {
    let command = std::env::current_exe().unwrap_or_default();
    command.parent().map(Path::to_owned).unwrap_or_default()
}

/// Beside the command, in the `lib` beside its folder, or in Debian's folder for this machine below that.
#[cfg(not(embedded_library))]
fn near(folder: &Path) -> Option<PathBuf> {
    let triplet = format!("../lib/{}-linux-gnu", std::env::consts::ARCH);
    [".", "../lib", &triplet].iter().find_map(|place| folder.join(place).join(NAME).canonicalize().ok())
}

/// Where the loader finds it by name alone.
#[cfg(not(embedded_library))]
fn by_name() -> Option<PathBuf> {
    let handle = open(Path::new(NAME)).ok()?;
    // SAFETY: a valid handle and a terminated name.
    let symbol = unsafe { libc::dlsym(handle, c"testudo_version".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid place; any address may be asked for.
    let found = unsafe { libc::dladdr(symbol, &raw mut info) } != 0 && !info.dli_fname.is_null();
    // SAFETY: dladdr gave a terminated string that lives as long as the library is loaded.
    found
        .then(|| unsafe { CStr::from_ptr(info.dli_fname) })
        .and_then(|name| Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).canonicalize().ok())
}

fn open(path: &Path) -> Result<*mut libc::c_void, String> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a terminated path. The library has no constructors; its symbols stay local to the handle.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: dlerror gives a terminated string, or null when there was no error.
    let reason = unsafe { libc::dlerror() };
    if reason.is_null() {
        return Err("no reason given".to_owned());
    }
    // SAFETY: as above; copied at once.
    Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned())
}

fn version_of(handle: *mut libc::c_void) -> Result<String, String> {
    // SAFETY: a valid handle and a terminated name.
    let symbol = unsafe { libc::dlsym(handle, c"testudo_version".as_ptr()) };
    if symbol.is_null() {
        return Err("it is not testudo's library".to_owned());
    }
    // SAFETY: the function of this name in testudo's library has this type.
    let version: extern "C" fn() -> *const libc::c_char = unsafe { std::mem::transmute(symbol) };
    // SAFETY: it returns a terminated string that never changes.
    Ok(unsafe { CStr::from_ptr(version()) }.to_string_lossy().into_owned())
}

/// Writes the library that this command carries to the user's data folder, unless it is there already, and returns its
/// path. Not to a temporary folder: programs that run long start others, which load it again.
#[cfg(embedded_library)]
fn unpack(bytes: &[u8]) -> Result<PathBuf, Refusal> {
    use std::fs;
    use std::io::Write;
    let home =
        std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".local/share"));
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or(home);
    let data = data.ok_or_else(|| Refusal::new(CANNOT_RUN, format!("no place for {NAME}: HOME is not set")))?;
    let folder = data.join(format!("testudo/{VERSION}-{:08x}", crc32fast::hash(bytes)));
    let path = folder.join(NAME);
    if fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(path);
    }
    let write = || {
        fs::create_dir_all(&folder)?;
        // Under a name of its own first: another process may load the library in this moment.
        let fresh = folder.join(format!(".{NAME}.{}", std::process::id()));
        let mut file = fs::File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    };
    write().map_err(|error| Refusal::new(CANNOT_RUN, format!("{}: {error}", path.display())))?;
    Ok(path)
}
