//! A report as one JSON line, for `report_path`; `docs/report.md` and `docs/report.schema.json` say what is in it.
//!
//! One `write` to a file opened for appending: lines of several processes do not mix.

use crate::options::FilePath;
use crate::os::{file, process};
use crate::text::Text;
use crate::violation::{Chunk, Kind, Operation, Violation};
use core::ffi::CStr;
use core::fmt::{self, Write};

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
    writeln!(out, ",\"found\":{},\"advice\":{}}}", Quoted(violation.detail), Quoted(advice))
}

/// Appends a report to a file. Failures are passed over: the report has been written to standard error.
pub(crate) fn append(path: &FilePath, violation: &Violation, advice: &str) {
    if path.is_none() {
        return;
    }
    let name = path.expanded(process::process_number(), 1);
    let Ok(name) = CStr::from_bytes_until_nul(name.as_bytes()) else { return };
    let mut line = Text::<1536>::new();
    let _ = write_line(&mut line, violation, advice);
    file::append(name, line.as_bytes());
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
        assert!(line.len() < 1536 && line.ends_with("}\n"), "{line}");
    }
}
