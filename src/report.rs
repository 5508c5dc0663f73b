//! The one place that turns a [`Violation`] into a report and an abort.
//!
//! No allocation, no lock, no `println!`: the text is put together on the stack and written with
//! `write(2)`. Whoever reads it was woken at night, so it says what, where, how it was noticed, and
//! what to do next.
//!
//! A report may be written from a signal handler, on an alternate stack of 8 KiB: each text has a function of its own that is
//! not inlined, so that no two of them are on the stack at a time.

use crate::abort_message;
use crate::options::FilePath;
use crate::os::file::Why;
use crate::os::{process, report_copy};
use crate::report_json;
use crate::text::Text;
use crate::trace::{self, Caller, History, Trace, Window};
use crate::violation::{Kind, Operation, Violation};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, Ordering};

/// Where reports also go, as JSON lines; null or the option of the process-wide heap, which lives as long as the process.
static PATH: AtomicPtr<FilePath> = AtomicPtr::new(core::ptr::null_mut());

/// Has reports appended to a file, too.
pub(crate) fn also_to(path: &'static FilePath) {
    PATH.store(core::ptr::from_ref(path).cast_mut(), Ordering::Release);
}

/// What the rule means and what to do next.
const fn advice(kind: Kind, operation: Operation) -> &'static str {
    match kind {
        Kind::DoubleFree | Kind::Freed => "The chunk was given back before; look for a second owner of the pointer.",
        Kind::NotAChunk => {
            "Only an address that malloc or operator new returned, and that was not given back, may be passed."
        }
        Kind::Overflow if matches!(operation, Operation::Read | Operation::Write) => {
            "The program went past the end of this chunk."
        }
        Kind::Overflow => "The program wrote past the end of this chunk, some time since it was allocated.",
        Kind::Underflow => "The program went past the start of this chunk, downwards.",
        Kind::UseAfterFree => "The program used a pointer to this chunk after giving it back.",
        Kind::ZeroSized => "The chunk was asked for with size zero: nothing may be read or written through it.",
        Kind::CorruptHeader => {
            "The 8 bytes in front of the chunk were changed: a write before its start, or past the end of the chunk in front."
        }
        Kind::WriteAfterFree => "The program wrote through a pointer to this chunk after giving it back.",
        Kind::Mismatch => {
            "malloc goes with free, new with delete, new[] with delete[], aligned new with aligned delete."
        }
        Kind::WrongSize => "The size given back must be the size that was asked for.",
        Kind::WrongAlignment => "The alignment given back must be the alignment that was asked for.",
    }
}

/// Where an access that faulted lies, seen from its chunk. How many bytes it would have read or written nobody says.
fn write_place(out: &mut dyn Write, offset: isize, size: usize) -> fmt::Result {
    match usize::try_from(offset) {
        Ok(inside) if inside < size => writeln!(out, "  where: {inside} bytes inside the {size}-byte chunk"),
        Ok(behind) => writeln!(out, "  where: {} bytes right of the {size}-byte chunk", behind - size),
        Err(_) => writeln!(out, "  where: {} bytes left of the {size}-byte chunk", offset.unsigned_abs()),
    }
}

/// The beginning of the leak report.
pub(crate) fn write_leaks(chunks: usize, bytes: usize, all: bool) {
    let mut text = Text::<512>::new();
    let which = if all { "guarded chunks" } else { "sampled chunks (others are not known one by one)" };
    let _ = writeln!(text, "testudo: at exit {chunks} {which} of {bytes} bytes were live");
    process::write_all(libc::STDERR_FILENO, text.as_bytes());
}

/// One group of the leak report.
pub(crate) fn write_leak(chunks: usize, bytes: usize, trace: &Trace) {
    let mut text = Text::<512>::new();
    let _ = writeln!(text, "  {bytes} bytes in {chunks} chunks, allocated here:");
    process::write_all(libc::STDERR_FILENO, text.as_bytes());
    for (number, &frame) in trace.frames.iter().take(trace.length).enumerate() {
        let mut text = Text::<512>::new();
        let _ = trace::write_frame(&mut text, number, frame);
        process::write_all(libc::STDERR_FILENO, text.as_bytes());
    }
}

/// Writes one piece of a report.
#[inline(never)]
fn put(fill: &dyn Fn(&mut Text<1024>) -> fmt::Result) {
    let mut text = Text::<1024>::new();
    // Cannot fail: `Text` cuts off instead.
    let _ = fill(&mut text);
    process::write_all(libc::STDERR_FILENO, text.as_bytes());
    report_copy::append(text.as_bytes());
}

/// Leaves the report where crash collectors look.
#[inline(never)]
fn leave(violation: &Violation) {
    let mut text = Text::<1024>::new();
    let _ = write_report(&mut text, violation);
    abort_message::leave(text.as_bytes());
}

/// Appends a report to the file that was named, if one was.
///
/// # Errors
/// Its name, and the error number of the system.
#[inline(never)]
fn append(violation: &Violation, history: Option<&History>, here: &Trace) -> Result<(), (&'static FilePath, i32)> {
    // SAFETY: null, or made from a reference that is valid for ever.
    let Some(path) = (unsafe { PATH.load(Ordering::Acquire).as_ref() }) else { return Ok(()) };
    let calls = report_json::Calls { here, history };
    let advice = advice(violation.kind, violation.operation);
    report_json::append(path, violation, advice, &calls).map_err(|error| (path, error))
}

/// Writes a report piece by piece.
#[inline(never)]
pub(crate) fn write(violation: &Violation, history: Option<&History>, here: &Trace) {
    put(&|text| write_report(text, violation));
    leave(violation);
    let appended = append(violation, history, here);
    write_calls(history, here);
    // Whoever waits for reports in that file is not to take it for one without any.
    if let Err((path, error)) = appended {
        warn(&format_args!("the report cannot be appended to the file: {}: {path}", Why(error)));
    }
}

/// Writes the calls that a report knows of.
#[inline(never)]
fn write_calls(history: Option<&History>, here: &Trace) {
    let frames = |trace: &Trace| {
        for (number, &frame) in trace.frames.iter().take(trace.length).enumerate() {
            put(&|text| trace::write_frame(text, number, frame));
        }
    };
    if here.length != 0 {
        put(&|text| writeln!(text, "  found here:"));
        frames(here);
    }
    let Some(history) = history else { return };
    for (what, call) in [("freed", &history.freed), ("allocated", &history.allocated)] {
        if let Some(Caller { thread, trace }) = call {
            put(&|text| writeln!(text, "  {what} by thread {thread} here:"));
            frames(trace);
        }
    }
}

fn write_report<const BYTES: usize>(text: &mut Text<BYTES>, violation: &Violation) -> fmt::Result {
    writeln!(text, "testudo: {violation}")?;
    writeln!(text, "  found: {}", violation.detail)?;
    if let (Some(offset), Some(chunk), Operation::Read | Operation::Write) =
        (violation.offset, violation.chunk, violation.operation)
    {
        write_place(text, offset, chunk.size)?;
    } else if let Some(offset) = violation.offset {
        writeln!(
            text,
            "  where: byte {offset} of the chunk; expected {:#018x}, seen {:#018x}",
            violation.expected, violation.seen
        )?;
    } else if violation.expected != violation.seen {
        writeln!(text, "  expected {:#x}, seen {:#x}", violation.expected, violation.seen)?;
    }
    let operation = match violation.operation {
        Operation::Free => "giving memory back",
        Operation::Allocate => "allocating",
        Operation::Reallocate => "reallocating",
        Operation::UsableSize => "asking for a size",
        Operation::Check => "checking the heap",
        Operation::Read => "reading",
        Operation::Write => "writing",
    };
    write!(
        text,
        "  noticed while {operation}, in thread {} of process {}",
        process::thread_number(),
        process::process_number()
    )?;
    let program = process::Program::of_this_process();
    if !program.is_empty() {
        write!(text, " ({program})")?;
    }
    text.write_char('\n')?;
    writeln!(text, "  {}", advice(violation.kind, violation.operation))
}

/// Reports on standard error, then ends the process by SIGABRT.
#[cold]
#[inline(never)]
pub(crate) fn abort(violation: &Violation, history: Option<&History>) -> ! {
    let mut window = Window::UNKNOWN;
    let here = Trace::here(&mut window, process::thread_number());
    write(violation, history, &here);
    process::abort()
}

/// Ends the process by SIGABRT with one line: the allocator itself cannot go on.
#[cold]
#[inline(never)]
pub(crate) fn fatal(reason: &str) -> ! {
    let mut text = Text::<256>::new();
    let _ = writeln!(text, "testudo: {reason}");
    process::write_all(libc::STDERR_FILENO, text.as_bytes());
    abort_message::leave(text.as_bytes());
    process::abort()
}

/// One line on standard error, at exit or while the program runs, which goes on as if nothing had been; in signal handlers,
/// too.
#[cold]
#[inline(never)]
pub(crate) fn warn(message: &dyn fmt::Display) {
    let mut text = Text::<1024>::new();
    let _ = writeln!(text, "testudo: {message}");
    process::write_and_go_on(libc::STDERR_FILENO, text.as_bytes());
}

/// Ends the process with status 1 before the program begins: an option is wrong.
#[cold]
#[inline(never)]
pub(crate) fn refuse(message: &dyn fmt::Display) -> ! {
    let mut text = Text::<1024>::new();
    let _ = writeln!(text, "testudo: {message}");
    process::write_all(libc::STDERR_FILENO, text.as_bytes());
    process::exit_now(1)
}

#[cfg(test)]
mod tests {
    use super::{Text, write_report};
    use crate::chunk::header::Origin;
    use crate::violation::{Kind, Operation, Violation};

    #[test]
    fn a_report_says_what_where_and_what_to_do() {
        let violation = Violation::new(Kind::Overflow, Operation::Free, 0x7f00_0010, "canary damaged")
            .chunk(24, Some(Origin::Malloc))
            .values(0x80, 0x41)
            .at(24);
        let mut text = Text::<1536>::new();
        write_report(&mut text, &violation).expect("never fails");
        let text = String::from_utf8_lossy(text.as_bytes()).into_owned();
        assert!(text.starts_with("testudo: buffer overflow at 0x7f000010 (24-byte malloc chunk)\n"), "{text}");
        assert!(text.contains("byte 24 of the chunk") && text.contains("past the end"), "{text}");
    }
}
