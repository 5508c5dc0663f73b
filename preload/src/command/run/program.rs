//! Which file a program's name means, and whether the loader will put the library into it.

use super::{CANNOT_RUN, NOT_FOUND};
use crate::Refusal;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Scripts whose interpreter is a script whose interpreter …: the kernel gives up after four.
const INTERPRETERS: u32 = 4;

/// The file that `name` means, looked for as a shell does.
///
/// # Errors
/// When there is none (127), or none that may be executed (126).
pub fn find(name: &OsStr) -> Result<PathBuf, Refusal> {
    let shown = name.to_string_lossy();
    let not_executable = || Refusal::new(CANNOT_RUN, format!("{shown}: not executable"));
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match fs::metadata(&path) {
            Ok(_) if is_executable(&path) => Ok(path),
            Ok(_) => Err(not_executable()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(not_executable()),
            Err(_) => Err(Refusal::new(NOT_FOUND, format!("{shown}: no such program"))),
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut there = std::env::split_paths(&folders).map(|folder| folder.join(name)).filter(|path| path.is_file());
    let first = there.next().ok_or_else(|| Refusal::new(NOT_FOUND, format!("{shown}: no such program")))?;
    std::iter::once(first).chain(there).find(|path| is_executable(path)).ok_or_else(not_executable)
}

fn is_executable(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a terminated path.
    path.is_file() && unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::X_OK, libc::AT_EACCESS) } == 0
}

/// Refuses a program into which the loader would not put the library: it would run unprotected, without a word.
///
/// # Errors
/// With the reason.
pub fn can_be_protected(path: &Path) -> Result<(), Refusal> {
    let mut file = path.to_owned();
    for _ in 0..INTERPRETERS {
        match Format::of(&file) {
            Format::Script(interpreter) => file = interpreter,
            Format::Program(program) => {
                return match program.obstacle(&file).or_else(|| privileged(&file)) {
                    None => Ok(()),
                    Some(why) => {
                        Err(Refusal::new(CANNOT_RUN, format!("{} cannot be protected: {why}", file.display())))
                    }
                };
            }
            // A file that cannot be read, or that `execve` will judge.
            Format::Other => break,
        }
    }
    Ok(())
}

enum Format {
    Script(PathBuf),
    Program(Elf),
    Other,
}

/// What matters of an ELF file.
struct Elf {
    class: u8,
    machine: u16,
    interpreter: Option<Vec<u8>>,
}

const ELF_64_BIT: u8 = 2;
#[cfg(target_arch = "x86_64")]
const OUR_MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const OUR_MACHINE: u16 = 183;
#[cfg(target_arch = "riscv64")]
const OUR_MACHINE: u16 = 243;
#[cfg(target_arch = "powerpc64")]
const OUR_MACHINE: u16 = 21;
#[cfg(target_arch = "s390x")]
const OUR_MACHINE: u16 = 22;
#[cfg(target_arch = "loongarch64")]
const OUR_MACHINE: u16 = 258;

const PROGRAM_HEADER_INTERPRETER: u32 = 3;

impl Format {
    fn of(path: &Path) -> Self {
        let Ok(mut file) = File::open(path) else { return Self::Other };
        let mut start = Vec::new();
        if file.by_ref().take(4096).read_to_end(&mut start).is_err() {
            return Self::Other;
        }
        if let Some(line) = start.strip_prefix(b"#!") {
            let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_start();
            let name = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
            return Self::Script(PathBuf::from(OsStr::from_bytes(name)));
        }
        Elf::read(&start, &file).map_or(Self::Other, Self::Program)
    }
}

impl Elf {
    fn read(start: &[u8], file: &File) -> Option<Self> {
        let class = *start.strip_prefix(b"\x7fELF")?.first()?;
        let half = |at: usize| Some(u16::from_ne_bytes(start.get(at..at + 2)?.try_into().ok()?));
        let machine = half(18)?;
        if class != ELF_64_BIT {
            return Some(Self { class, machine, interpreter: None });
        }
        let headers = u64::from_ne_bytes(start.get(32..40)?.try_into().ok()?);
        let (length, count) = (half(54)?, half(56)?);
        let mut interpreter = None;
        for index in 0..u64::from(count) {
            let mut header = [0; 40];
            file.read_exact_at(&mut header, headers.checked_add(index * u64::from(length))?).ok()?;
            let long = |at: usize| Some(u64::from_ne_bytes(header.get(at..at + 8)?.try_into().ok()?));
            if u32::from_ne_bytes(header.get(..4)?.try_into().ok()?) == PROGRAM_HEADER_INTERPRETER {
                let mut name = vec![0; usize::try_from(long(32)?.min(4096)).ok()?];
                file.read_exact_at(&mut name, long(8)?).ok()?;
                interpreter = Some(name);
            }
        }
        Some(Self { class, machine, interpreter })
    }

    fn obstacle(&self, file: &Path) -> Option<&'static str> {
        if self.class != ELF_64_BIT {
            return Some("it is a 32-bit program, and testudo is for 64-bit ones");
        }
        if self.machine != OUR_MACHINE {
            return Some("it is for another kind of processor");
        }
        match &self.interpreter {
            // The loader, run by hand, preloads into what it is told to run.
            None if file.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ld-")) => None,
            None => Some("it is statically linked, and nothing can be preloaded into it; link it with testudo instead"),
            Some(name) if name.windows(8).any(|part| part == b"/ld-musl") => {
                Some("it is linked with musl, and libtestudo.so needs glibc")
            }
            Some(_) => None,
        }
    }
}

/// Whether the program would get more rights than its caller has. The loader then drops what it is told to preload.
fn privileged(path: &Path) -> Option<&'static str> {
    let metadata = fs::metadata(path).ok()?;
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: these two read a number and cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: no memory is touched; a failure says no.
    let never_gains = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut mount: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated path and a valid place.
    let on_nosuid = unsafe { libc::statvfs(name.as_ptr(), &raw mut mount) } == 0 && mount.f_flag & libc::ST_NOSUID != 0;
    if never_gains || on_nosuid {
        return None;
    }
    if metadata.mode() & 0o4000 != 0 && metadata.uid() != user {
        return Some("it is set-user-id, and the loader preloads nothing into such programs");
    }
    if metadata.mode() & 0o2010 == 0o2010 && metadata.gid() != group {
        return Some("it is set-group-id, and the loader preloads nothing into such programs");
    }
    // SAFETY: terminated strings; with no buffer only the length is asked for.
    let capabilities =
        unsafe { libc::getxattr(name.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    (capabilities > 0 && user != 0)
        .then_some("it has file capabilities, and the loader preloads nothing into such programs")
}
