//! A report as one JSON line, for `report_path`; `docs/report.md` and `docs/report.schema.json` say what is in it.
//!
//! One `write` to a file opened for appending: lines of several processes do not mix.

use crate::options::FilePath;
use crate::os::{file, process};
use crate::text::Text;
use crate::trace::{self, Caller, History, Trace};
use crate::violation::{Chunk, Kind, Operation, Violation};
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

/// Text between quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(out, "\\{character}")?,
                control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
                other => out.write_char(other)?,
            }
        }
        out.write_char('"')
    }
}

/// Names of the kinds. Whether a chunk was found freed by its state or by a race is nothing that a reader could use.
const fn kind(violation: &Violation) -> &'static str {
    match violation.kind {
        Kind::DoubleFree => "double_free",
        Kind::Freed if matches!(violation.operation, Operation::Free) => "double_free",
        Kind::Freed => "freed",
        Kind::NotAChunk => "not_a_chunk",
        Kind::Overflow => "overflow",
        Kind::CorruptHeader => "corrupt_header",
        Kind::WriteAfterFree => "write_after_free",
        Kind::UseAfterFree => "use_after_free",
        Kind::Underflow => "underflow",
        Kind::ZeroSized => "zero_sized",
        Kind::Mismatch => "mismatch",
        Kind::WrongSize => "wrong_size",
        Kind::WrongAlignment => "wrong_alignment",
    }
}

const fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Free => "free",
        Operation::Allocate => "allocate",
        Operation::Reallocate => "reallocate",
        Operation::UsableSize => "usable_size",
        Operation::Check => "check",
        Operation::Read => "read",
        Operation::Write => "write",
    }
}

/// The calls that a report knows of: those that led to what found it, and those that allocated and freed the chunk.
#[derive(Clone, Copy)]
pub(crate) struct Calls<'a> {
    pub(crate) here: &'a Trace,
    pub(crate) history: Option<&'a History>,
}

/// A line with stacks, for one report at a time: too long for the stack of a signal handler.
struct Line(UnsafeCell<Text<LONGEST>>);

/// Bytes of the longest line.
const LONGEST: usize = 24 << 10;

/// Bytes that must be left for one more frame: the longest path, each byte of it escaped, and the ends of everything.
const ROOM: usize = 2048;

// SAFETY: used by whoever has set `LINE_TAKEN`, which is never taken back.
unsafe impl Sync for Line {}

static LINE: Line = Line(UnsafeCell::new(Text::new()));
static LINE_TAKEN: AtomicBool = AtomicBool::new(false);

/// The frames of a stack as an array; those that find no room are left out.
fn write_stack(out: &mut Text<LONGEST>, trace: &Trace) -> fmt::Result {
    out.write_char('[')?;
    for (number, &frame) in trace.frames.iter().take(trace.length).enumerate() {
        if out.room() < ROOM {
            break;
        }
        let comma = if number == 0 { "" } else { "," };
        write!(out, "{comma}{{\"address\":\"{frame:#x}\"")?;
        let mut path = [0; 256];
        if let Some((name, offset)) = trace::place_of(frame, &mut path) {
            // What is not text in a path is left out.
            let name = name.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            let name = if name.len() > PATH_LIMIT { "" } else { name };
            write!(out, ",\"module\":{},\"offset\":\"{offset:#x}\"", Quoted(name))?;
        }
        out.write_char('}')?;
    }
    out.write_char(']')
}

/// Longer paths, in bytes, are left out of a line.
const PATH_LIMIT: usize = 256;

/// What is known of the calls, as more fields of a line.
fn write_calls(out: &mut Text<LONGEST>, calls: &Calls<'_>) -> fmt::Result {
    if calls.here.length != 0 {
        out.write_str(",\"stack\":")?;
        write_stack(out, calls.here)?;
    }
    let Some(history) = calls.history else { return Ok(()) };
    for (name, call) in [("freed", &history.freed), ("allocated", &history.allocated)] {
        if let Some(Caller { thread, trace }) = call {
            write!(out, ",\"{name}\":{{\"thread\":{thread},\"stack\":")?;
            write_stack(out, trace)?;
            out.write_char('}')?;
        }
    }
    Ok(())
}

/// All but the end of a line.
fn write_line(out: &mut impl Write, violation: &Violation, advice: &str) -> fmt::Result {
    write!(
        out,
        "{{\"schema\":1,\"version\":{},\"time\":{},\"process\":{},\"thread\":{},\"what\":{},\"kind\":{},\"operation\":{},\
         \"address\":\"{:#x}\"",
        Quoted(env!("CARGO_PKG_VERSION")),
        process::seconds_since_1970(),
        process::process_number(),
        process::thread_number(),
        Quoted(violation.what()),
        Quoted(kind(violation)),
        Quoted(operation(violation.operation)),
        violation.address
    )?;
    let program = process::Program::of_this_process();
    if !program.is_empty() {
        let mut name = Text::<16>::new();
        write!(name, "{program}")?;
        write!(out, ",\"program\":{}", Quoted(core::str::from_utf8(name.as_bytes()).unwrap_or_default()))?;
    }
    if let Some(Chunk { size, origin }) = violation.chunk {
        write!(out, ",\"chunk\":{{\"size\":{size}")?;
        if let Some(origin) = origin {
            write!(out, ",\"origin\":{}", Quoted(origin))?;
        }
        out.write_char('}')?;
    }
    if violation.expected != violation.seen {
        write!(out, ",\"expected\":\"{:#x}\",\"seen\":\"{:#x}\"", violation.expected, violation.seen)?;
    }
    if let Some(offset) = violation.offset {
        write!(out, ",\"offset\":{offset}")?;
    }
    write!(out, ",\"found\":{},\"advice\":{}", Quoted(violation.detail), Quoted(advice))
}

/// Appends a report to a file.
///
/// # Errors
/// The error number of the system.
#[inline(never)]
pub(crate) fn append(path: &FilePath, violation: &Violation, advice: &str, calls: &Calls<'_>) -> Result<(), i32> {
    if path.is_none() {
        return Ok(());
    }
    let name = path.expanded(process::process_number(), 1);
    let name = CStr::from_bytes_until_nul(name.as_bytes()).map_err(|_| libc::ENAMETOOLONG)?;
    if !LINE_TAKEN.swap(true, Ordering::AcqRel) {
        // SAFETY: taken just now, once and for all: a second report of the same process goes without stacks.
        let line = unsafe { &mut *LINE.0.get() };
        let _ = write_line(line, violation, advice);
        let _ = write_calls(line, calls);
        let _ = line.write_str("}\n");
        return file::append(name, line.as_bytes());
    }
    append_without_calls(name, violation, advice)
}

#[inline(never)]
fn append_without_calls(name: &CStr, violation: &Violation, advice: &str) -> Result<(), i32> {
    let mut line = Text::<1536>::new();
    let _ = write_line(&mut line, violation, advice);
    let _ = line.write_str("}\n");
    file::append(name, line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Quoted, write_line};
    use crate::violation::{Kind, Operation, Violation};

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(Quoted("a\"b\\c\nd").to_string(), r#""a\"b\\c\u000ad""#);
    }

    #[test]
    fn the_longest_line_fits() {
        let longest = "x".repeat(200).leak();
        let violation = Violation::new(Kind::CorruptHeader, Operation::UsableSize, usize::MAX, longest)
            .chunk(usize::MAX, Some(crate::chunk::header::Origin::AlignedNewArray))
            .values(u64::MAX, 0)
            .at(isize::MIN);
        let mut line = String::new();
        write_line(&mut line, &violation, longest).expect("never fails");
        assert!(line.len() < 1536 - 2 && line.ends_with('"'), "{line}");
    }
}
