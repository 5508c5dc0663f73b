//! Where `testudo run` asked for a copy of every report, so that it can explain what was found, and for what only the program's
//! own process sees of a fault.
//!
//! The environment names the file as `device:inode:/proc/PID/fd/N`. It is opened through the process that reads it:
//! nothing is left open in the program for that, and nothing that the program closes can be missing.

use super::environment;
use super::process::Errno;

const VARIABLE: &[u8] = b"TESTUDO_REPORT_COPY";
/// The longest path that is believed, with its end.
const PATH: usize = 64;

/// Appends a report to the file, if one is asked for. Failures are passed over: the report itself was written before.
pub(crate) fn append(report: &[u8]) {
    let _errno = Errno::keep();
    if let Some((device, inode, path)) = environment::variable(VARIABLE).and_then(read) {
        append_to(device, inode, &path, report);
    }
}

/// Takes the variable apart.
fn read(text: &[u8]) -> Option<(u64, u64, [u8; PATH])> {
    let mut parts = text.splitn(3, |&byte| byte == b':');
    let device = number(parts.next()?)?;
    let inode = number(parts.next()?)?;
    let name = parts.next()?;
    let mut path = [0; PATH];
    // Its last byte stays zero.
    path.get_mut(..PATH - 1)?.get_mut(..name.len())?.copy_from_slice(name);
    name.starts_with(b"/proc/").then_some((device, inode, path))
}

fn number(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// By bare system calls: glibc's own would end a thread that has been cancelled here, and not the process.
fn append_to(device: u64, inode: u64, path: &[u8; PATH], report: &[u8]) {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: a terminated path.
    let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) };
    let Some(file) = i32::try_from(file).ok().filter(|file| *file >= 0) else { return };
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut status: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: a valid place. The reader may have ended, and another process may have its number: then this is another
    // file, and nothing is written to it.
    let same = unsafe { libc::fstat(file, &raw mut status) } == 0 && status.st_dev == device && status.st_ino == inode;
    // SAFETY: the buffer is valid for its length, the descriptor is this function's own.
    unsafe {
        if same {
            libc::syscall(libc::SYS_write, file, report.as_ptr(), report.len());
        }
        libc::syscall(libc::SYS_close, file);
    }
}

#[cfg(test)]
mod tests {
    use super::{append_to, read};
    use std::io::{Read, Seek};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_names_no_file_of_a_process_is_not_believed() {
        assert!(read(b"1:2:/proc/3/fd/4").is_some());
        let long = [b"1:2:/proc/".as_slice(), &[b'9'; 80]].concat();
        for text in [b"".as_slice(), b"1", b"1:2", b"1:x:/proc/3/fd/4", b"1:2:/etc/passwd", &long] {
            assert!(read(text).is_none(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn only_the_file_that_was_meant_is_written_to() {
        let mut file = tempfile::tempfile().expect("a file");
        let metadata = file.metadata().expect("metadata");
        let text =
            |inode: u64| format!("{}:{inode}:/proc/{}/fd/{}", metadata.dev(), std::process::id(), file.as_raw_fd());
        for (inode, report) in [(metadata.ino() + 1, "lost"), (metadata.ino(), "kept")] {
            let (device, inode, path) = read(text(inode).as_bytes()).expect("a good text");
            append_to(device, inode, &path, report.as_bytes());
        }
        let mut contents = String::new();
        file.rewind().expect("rewinds");
        file.read_to_string(&mut contents).expect("text");
        assert_eq!(contents, "kept");
    }
}
