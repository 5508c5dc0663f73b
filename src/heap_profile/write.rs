//! The profile as a text file: what was recorded, and which modules the addresses lie in.
//!
//! ```text
//! testudo heap profile 1
//! interval 524288
//! process 4711
//! time 1700000000
//! dropped 0
//! samples
//! 48 12 480 10 400 0x55d0c0a01189 0x55d0c0a011f2 …
//! mappings
//! 55d0c0a01000-55d0c0a02000 r-xp 00001000 08:01 1234 /usr/bin/program
//! end
//! ```
//!
//! A line of a sample has the bytes that each of these chunks counts for in sampling, the chunks recorded and their requested
//! bytes, how many and how much of them was given back, and the calls, innermost first. The mappings are the executable
//! ones of `/proc/self/maps`.
//!
//! By bare system calls and without allocating: this runs in signal handlers too.

use super::table::{Stack, Table};
use crate::os::file::{self, NewFile};
use crate::os::process::{self, Errno};
use core::ffi::CStr;
use core::fmt::{self, Write};

/// Bytes that go to the system at a time. Few, because a signal handler may have a stack of 8 KiB, of which the kernel takes half.
const BUFFER: usize = 1024;

struct Output<'a> {
    file: &'a NewFile,
    buffer: [u8; BUFFER],
    length: usize,
    /// What went wrong first.
    error: i32,
}

impl Output<'_> {
    fn flush(&mut self) -> fmt::Result {
        let text = self.buffer.get(..self.length).unwrap_or_default();
        self.length = 0;
        self.file.write(text).map_err(|error| {
            self.error = error;
            fmt::Error
        })
    }

    fn put(&mut self, mut bytes: &[u8]) -> fmt::Result {
        while !bytes.is_empty() {
            if self.length == BUFFER {
                self.flush()?;
            }
            let part = bytes.len().min(BUFFER - self.length);
            let (now, later) = bytes.split_at(part);
            if let Some(place) = self.buffer.get_mut(self.length..self.length + part) {
                place.copy_from_slice(now);
            }
            self.length += part;
            bytes = later;
        }
        Ok(())
    }
}

impl Write for Output<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes())
    }
}

/// Writes the profile to a file, in place of what is there.
///
/// # Errors
/// The error number of the system.
pub(super) fn write(path: &CStr, mean: usize, table: &mut Table) -> Result<(), i32> {
    let _errno = Errno::keep();
    let file = NewFile::create(path)?;
    let mut output = Output { file: &file, buffer: [0; BUFFER], length: 0, error: libc::EIO };
    write_all(&mut output, mean, table).and_then(|()| output.flush()).map_err(|fmt::Error| output.error)
}

fn write_all(output: &mut Output<'_>, mean: usize, table: &mut Table) -> fmt::Result {
    writeln!(
        output,
        "testudo heap profile 1\ninterval {mean}\nprocess {}\ntime {}\ndropped {}\nsamples",
        process::process_number(),
        process::seconds_since_1970(),
        table.dropped
    )?;
    table.for_each(|stack, frames| {
        let Stack { weight, allocated, freed, .. } = stack;
        write!(output, "{weight} {} {} {} {}", allocated.chunks, allocated.bytes, freed.chunks, freed.bytes)?;
        for frame in frames {
            write!(output, " {frame:#x}")?;
        }
        output.put(b"\n")
    })?;
    output.put(b"mappings\n")?;
    let mut outcome = Ok(());
    file::for_each_line(c"/proc/self/maps", |line| {
        // Permissions stand behind the first blank: `rwxp`.
        let executable =
            line.iter().position(|&byte| byte == b' ').and_then(|blank| line.get(blank + 3)) == Some(&b'x');
        if executable && outcome.is_ok() {
            outcome = output.put(line).and_then(|()| output.put(b"\n"));
        }
    });
    outcome?;
    output.put(b"end\n")
}
