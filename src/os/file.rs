//! Small files of the kernel, read without allocating.
//!
//! By bare system calls: glibc's wrappers are cancellation points, and a program may interpose them.

use super::process::Errno;
use core::ffi::CStr;
use core::fmt;

/// An open file; closed when dropped.
struct File(i32);

impl File {
    fn open(path: &CStr) -> Option<Self> {
        Self::open_with(path, libc::O_RDONLY | libc::O_CLOEXEC)
    }

    fn open_with(path: &CStr, flags: i32) -> Option<Self> {
        const OWNER_ONLY: i32 = 0o600;
        // SAFETY: a terminated path.
        let descriptor = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, OWNER_ONLY) };
        i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0).map(Self)
    }

    /// Reads what comes next; no bytes at the end.
    fn read(&self, out: &mut [u8]) -> Option<usize> {
        loop {
            // SAFETY: `out` is writable for its length.
            let count = unsafe { libc::syscall(libc::SYS_read, self.0, out.as_mut_ptr(), out.len()) };
            match usize::try_from(count) {
                Ok(count) => return Some(count),
                // SAFETY: errno of this thread.
                Err(_) if unsafe { *libc::__errno_location() } == libc::EINTR => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, used by nobody else.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

/// A file that is read here and there. It may be anything, and may change meanwhile: what is read is only ever data, and no
/// mapping of it can fault.
pub(crate) struct Source(File);

impl Source {
    /// Opens a file; one that nobody writes to (a FIFO) does not keep the caller waiting.
    pub(crate) fn open(path: &CStr) -> Option<Self> {
        let _errno = Errno::keep();
        File::open_with(path, libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY).map(Self)
    }

    /// Fills `out` with what stands at an offset; less at the end of the file.
    pub(crate) fn read_at<'a>(&self, offset: u64, out: &'a mut [u8]) -> Option<&'a [u8]> {
        let _errno = Errno::keep();
        let offset = i64::try_from(offset).ok()?;
        // SAFETY: `out` is writable for its length.
        let count = unsafe { libc::syscall(libc::SYS_pread64, self.0.0, out.as_mut_ptr(), out.len(), offset) };
        out.get(..usize::try_from(count).ok()?)
    }
}

/// The beginning of a file, as much as fits into `out`; `None` when it cannot be read.
pub(crate) fn read<'a>(path: &CStr, out: &'a mut [u8]) -> Option<&'a [u8]> {
    let _errno = Errno::keep();
    let file = File::open(path)?;
    let mut filled = 0;
    loop {
        let rest = out.get_mut(filled..).filter(|rest| !rest.is_empty());
        match rest.map_or(Some(0), |rest| file.read(rest))? {
            0 => return out.get(..filled),
            count => filled += count,
        }
    }
}

/// Appends bytes to a file by one `write`; makes the file, readable by its owner only, if there is none. It never waits for
/// a reader, and does not follow a symbolic link, which somebody else may have put there.
///
/// # Errors
/// The error number of the system.
pub(crate) fn append(path: &CStr, bytes: &[u8]) -> Result<(), i32> {
    let _errno = Errno::keep();
    let flags = libc::O_WRONLY
        | libc::O_APPEND
        | libc::O_CREAT
        | libc::O_CLOEXEC
        | libc::O_NOCTTY
        | libc::O_NOFOLLOW
        | libc::O_NONBLOCK;
    let file = File::open_with(path, flags).ok_or_else(Errno::get)?;
    // SAFETY: the buffer is valid for its length.
    let written = unsafe { libc::syscall(libc::SYS_write, file.0, bytes.as_ptr(), bytes.len()) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        // A disk that is full takes what it has room for.
        Ok(_) => Err(libc::ENOSPC),
        Err(_) => Err(Errno::get()),
    }
}

/// Why a file was not written: an error number of the system, in words.
pub(crate) struct Why(pub(crate) i32);

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            libc::ENOENT => out.write_str("there is no such folder"),
            libc::EACCES => out.write_str("permission denied"),
            libc::ELOOP => out.write_str("a symbolic link is there, which is not followed"),
            libc::EPERM => out.write_str("a file of another user is there"),
            libc::EMLINK => out.write_str("a file with a second name (hard link) is there"),
            libc::EISDIR => out.write_str("a folder is there"),
            libc::EINVAL | libc::ENXIO => out.write_str("what is there is no plain file"),
            libc::ENOSPC => out.write_str("no space is left on the device"),
            other => write!(out, "error {other} of the system"),
        }
    }
}

/// A file that is being written; closed when dropped.
pub(crate) struct NewFile(File);

impl NewFile {
    /// Makes a file, readable by its owner only, or empties the one that is there. Follows no symbolic link, takes no file of
    /// another user and none that has two names: somebody else may have put these there, to have something overwritten or to read what is written. Takes
    /// nothing but a plain file: writing never waits for a reader.
    ///
    /// # Errors
    /// The error number of the system.
    pub(crate) fn create(path: &CStr) -> Result<Self, i32> {
        let flags =
            libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::open_with(path, flags).ok_or_else(Errno::get)?;
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut status: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: the descriptor is open, and the place valid.
        if unsafe { libc::fstat(file.0, &raw mut status) } != 0 {
            return Err(Errno::get());
        }
        // SAFETY: no arguments, cannot fail.
        if status.st_uid != unsafe { libc::geteuid() } {
            return Err(libc::EPERM);
        }
        // A second name of a file that is the user's own and precious: some systems let others make one.
        if status.st_nlink > 1 {
            return Err(libc::EMLINK);
        }
        // Fails for everything that is not a plain file.
        // SAFETY: the descriptor is open.
        if unsafe { libc::syscall(libc::SYS_ftruncate, file.0, 0) } != 0 {
            return Err(Errno::get());
        }
        Ok(Self(file))
    }

    /// Writes all of the bytes.
    ///
    /// # Errors
    /// The error number of the system.
    pub(crate) fn write(&self, mut bytes: &[u8]) -> Result<(), i32> {
        while !bytes.is_empty() {
            // SAFETY: the buffer is valid for its length.
            let written = unsafe { libc::syscall(libc::SYS_write, self.0.0, bytes.as_ptr(), bytes.len()) };
            match usize::try_from(written) {
                Ok(0) => return Err(libc::EIO),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(_) if Errno::get() == libc::EINTR => {}
                Err(_) => return Err(Errno::get()),
            }
        }
        Ok(())
    }
}

/// Calls `visit` with every line of a file, without its end; of long ones with the first 512 bytes. Nothing when it cannot be read.
pub(crate) fn for_each_line(path: &CStr, mut visit: impl FnMut(&[u8])) {
    let _errno = Errno::keep();
    let Some(file) = File::open(path) else { return };
    // Small: signal handlers use this.
    let mut part = [0; 512];
    let mut line = [0; 512];
    let mut length = 0;
    while let Some(count) = file.read(&mut part).filter(|count| *count != 0) {
        for &byte in part.iter().take(count) {
            if byte == b'\n' {
                visit(line.get(..length).unwrap_or_default());
                length = 0;
            } else if let Some(place) = line.get_mut(length) {
                *place = byte;
                length += 1;
            }
        }
    }
    if length != 0 {
        visit(line.get(..length).unwrap_or_default());
    }
}

/// How many lines a file has; `None` when it cannot be read.
pub(crate) fn count_lines(path: &CStr) -> Option<usize> {
    let _errno = Errno::keep();
    let file = File::open(path)?;
    // Small: who asks may have a stack of 16 KiB.
    let mut part = [0; 1024];
    let mut lines = 0;
    loop {
        let count = file.read(&mut part)?;
        if count == 0 {
            return Some(lines);
        }
        lines += part.iter().take(count).filter(|&&byte| byte == b'\n').count();
    }
}

#[cfg(test)]
mod tests {
    use super::{NewFile, count_lines, read};
    use std::ffi::CString;
    use std::io::Write;

    #[test]
    fn a_file_of_another_user_is_not_written_to() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = CString::new(file.path().to_str().expect("text")).expect("no zero in it");
        std::fs::write(file.path(), "before").expect("written");
        // Only root can give a file away.
        if std::os::unix::fs::chown(file.path(), Some(65_534), None).is_ok() {
            assert_eq!(NewFile::create(&path).err(), Some(libc::EPERM));
            assert_eq!(std::fs::read(file.path()).expect("readable"), b"before");
            std::os::unix::fs::chown(file.path(), Some(0), None).expect("taken back");
        }
        NewFile::create(&path).expect("one's own").write(b"after").expect("written");
        assert_eq!(std::fs::read(file.path()).expect("readable"), b"after");
    }

    #[test]
    fn a_file_with_two_names_is_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        std::fs::write(&one, "before").expect("written");
        std::fs::hard_link(&one, &other).expect("a second name");
        let path = CString::new(other.to_str().expect("text")).expect("no zero in it");
        assert_eq!(NewFile::create(&path).err(), Some(libc::EMLINK));
        assert_eq!(std::fs::read(&one).expect("readable"), b"before");
    }

    #[test]
    fn a_file_is_read_as_far_as_there_is_room_and_its_lines_are_counted() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all("a line\n".repeat(1000).as_bytes()).expect("written");
        let path = CString::new(file.path().to_str().expect("text")).expect("no zero in it");
        assert_eq!(read(&path, &mut [0; 9]), Some(&b"a line\na "[..]));
        assert_eq!(read(&path, &mut [0; 8192]).map(<[u8]>::len), Some(7000));
        assert_eq!(count_lines(&path), Some(1000));
        assert_eq!(read(c"/nowhere", &mut [0; 9]), None);
        assert_eq!(count_lines(c"/nowhere"), None);
    }
}
