//! Where `libtestudo.so` is, and whether the loader will take it.

use crate::Refusal;
use object::elf::{FileHeader64, SHT_NOBITS};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{NativeEndian, ReadCache};
use std::ffi::{CStr, CString};
use std::fs::File;
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
    can_be_preloaded(&path)?;
    let refuse = |reason| Refusal::new(CANNOT_RUN, format!("{} cannot be loaded: {reason}", path.display()));
    is_whole(&path).map_err(refuse)?;
    let handle = open(&path).map_err(refuse)?;
    let version = version_of(handle).map_err(refuse)?;
    if version != VERSION {
        return Err(refuse(format!("it is version {version}, this command is {VERSION}")));
    }
    Ok(Library { path })
}

/// Refuses a path that the loader would take for two.
///
/// # Errors
/// When it has a space or a colon.
pub fn can_be_preloaded(path: &Path) -> Result<(), Refusal> {
    if path.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        let message = format!("the loader cannot preload {}: the path has a space or a colon", path.display());
        return Err(Refusal::new(CANNOT_RUN, message));
    }
    Ok(())
}

#[cfg(embedded_library)]
fn locate() -> Result<PathBuf, Refusal> {
    // The one inside is of this very build.
    unpack(include_bytes!(concat!(env!("OUT_DIR"), "/libtestudo.so")))
}

#[cfg(not(embedded_library))]
fn locate() -> Result<PathBuf, Refusal> {
    if let Some(path) = near(&command_folder()) {
        return Ok(path);
    }
    by_name().map_err(|reason| Refusal::new(CANNOT_RUN, reason))?.ok_or_else(|| {
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

/// Where the loader finds it by name alone. A process of its own asks: which file it is cannot be known before it is loaded, and a
/// damaged one ends whoever loads it.
#[cfg(not(embedded_library))]
fn by_name() -> Result<Option<PathBuf>, String> {
    use std::io::{Read, Write};
    let cannot = |error: std::io::Error| format!("{NAME} cannot be looked for: {error}");
    let (mut from, mut to) = std::io::pipe().map_err(cannot)?;
    // SAFETY: this process has one thread, so that all can be done in the child.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid structure; the other call touches no memory. Should it be ended, nobody needs its memory in a file.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        }
        let outcome = loaded_by_name();
        let written = to.write_all(outcome.as_ref().map_or_else(String::as_bytes, |path| path.as_os_str().as_bytes()));
        // SAFETY: does not return, and runs nothing of what the parent will run at its exit.
        unsafe { libc::_exit(i32::from(written.is_err())) };
    }
    drop(to);
    if child < 0 {
        return Err(cannot(std::io::Error::last_os_error()));
    }
    let mut outcome = Vec::new();
    let read = from.read_to_end(&mut outcome);
    let mut status = 0;
    // SAFETY: a valid place; the child is this function's own.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return Err(format!(
            "the {NAME} that the loader finds is damaged (loading it ends by signal {signal}): install it again"
        ));
    }
    read.map_err(cannot)?;
    if outcome.starts_with(b"/") {
        return Ok(Some(PathBuf::from(std::ffi::OsStr::from_bytes(&outcome))));
    }
    let reason = String::from_utf8_lossy(&outcome);
    // The loader's words, in English as long as nobody calls setlocale.
    if reason.contains("No such file") {
        return Ok(None);
    }
    Err(format!("the {NAME} that the loader finds cannot be loaded ({reason}): install it again"))
}

/// The file that the loader takes for the library's name, as an absolute path.
#[cfg(not(embedded_library))]
fn loaded_by_name() -> Result<PathBuf, String> {
    let handle = open(Path::new(NAME))?;
    // SAFETY: a valid handle and a terminated name.
    let symbol = unsafe { libc::dlsym(handle, c"testudo_version".as_ptr()) };
    if symbol.is_null() {
        return Err("it is not testudo's library".to_owned());
    }
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid place; any address may be asked for.
    if unsafe { libc::dladdr(symbol, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return Err("the loader does not say where it is".to_owned());
    }
    // SAFETY: dladdr gave a terminated string that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).canonicalize().map_err(|error| error.to_string())
}

/// Whether all of the file is there: the loader believes what its headers say, and a process that loads what was cut off (by a
/// full disk, by a copy that was interrupted) is ended by SIGBUS, this one and every program that the library is preloaded into.
fn is_whole(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let there = file.metadata().map_err(|error| error.to_string())?.len();
    let file = ReadCache::new(file);
    let no_library = |_| "it is no shared library; install it again".to_owned();
    let header = FileHeader64::<NativeEndian>::parse(&file).map_err(no_library)?;
    let endian = header.endian().map_err(no_library)?;
    let end = |start: u64, count: u16, bytes: u16| start.saturating_add(u64::from(count) * u64::from(bytes));
    let mut needed = end(header.e_phoff(endian), header.e_phnum(endian), header.e_phentsize(endian)).max(end(
        header.e_shoff(endian),
        header.e_shnum(endian),
        header.e_shentsize(endian),
    ));
    if needed <= there {
        let segments = header.program_headers(endian, &file).map_err(no_library)?;
        let sections = header.section_headers(endian, &file).map_err(no_library)?;
        let of_segments = segments.iter().map(|segment| (segment.p_offset(endian), segment.p_filesz(endian)));
        let of_sections = sections.iter().filter(|section| section.sh_type(endian) != SHT_NOBITS);
        let of_sections = of_sections.map(|section| (section.sh_offset(endian), section.sh_size(endian)));
        let ends = of_segments.chain(of_sections).map(|(start, bytes)| start.saturating_add(bytes));
        needed = ends.max().unwrap_or(0);
    }
    if needed > there {
        return Err(format!("it is cut off ({there} bytes of at least {needed} are there); install it again"));
    }
    Ok(())
}

fn open(path: &Path) -> Result<*mut libc::c_void, String> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a terminated path. The library does nothing where it is not the allocator; its symbols stay local to the handle.
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
