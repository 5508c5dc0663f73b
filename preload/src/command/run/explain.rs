//! What testudo found, in plain words, and what to do next.

use std::fmt::Write;

/// The meaning of one kind of report, by the words that begin it.
struct Meaning {
    what: &'static str,
    /// Goes on after the program's name.
    did: &'static str,
    look_for: &'static str,
    /// An option that lets the program run until it is mended.
    meanwhile: Option<&'static str>,
}

const MEANINGS: &[Meaning] = &[
    Meaning {
        what: "double free",
        did: "gave the same block of memory back twice",
        look_for: "two owners of one pointer: a second free on an error path, a structure copied with its pointers, \
                   a destructor that runs twice",
        meanwhile: None,
    },
    Meaning {
        what: "realloc of a freed chunk",
        did: "asked to resize a block of memory that it had given back",
        look_for: "an old copy of a pointer that is still used after free or realloc",
        meanwhile: None,
    },
    Meaning {
        what: "malloc_usable_size of a freed chunk",
        did: "asked for the size of a block of memory that it had given back",
        look_for: "an old copy of a pointer that is still used after free or realloc",
        meanwhile: None,
    },
    Meaning {
        what: "invalid free",
        did: "gave back an address that malloc never returned",
        look_for: "a pointer that was moved forward before it was freed, or that points to the stack, a global or \
                   another library's memory",
        meanwhile: None,
    },
    Meaning {
        what: "invalid realloc",
        did: "asked to resize memory at an address that malloc never returned",
        look_for: "a pointer that was moved forward, or that points to the stack, a global or another library's memory",
        meanwhile: None,
    },
    Meaning {
        what: "invalid malloc_usable_size",
        did: "asked for the size of memory at an address that malloc never returned",
        look_for: "a pointer that was moved forward, or that points to the stack, a global or another library's memory",
        meanwhile: None,
    },
    Meaning {
        what: "buffer overflow",
        did: "wrote past the end of a block of memory",
        look_for: "a length that is not checked, a size computed one too small, a string without room for its final NUL",
        meanwhile: None,
    },
    Meaning {
        what: "buffer overflow by a read",
        did: "read past the end of a block of memory",
        look_for: "a length that is not checked, a string without its final NUL",
        meanwhile: None,
    },
    Meaning {
        what: "buffer overflow by a write",
        did: "wrote past the end of a block of memory",
        look_for: "a length that is not checked, a size computed one too small, a string without room for its final NUL",
        meanwhile: None,
    },
    Meaning {
        what: "buffer underflow by a read",
        did: "read in front of a block of memory",
        look_for: "a negative index, a loop that runs one too far",
        meanwhile: None,
    },
    Meaning {
        what: "buffer underflow by a write",
        did: "wrote in front of a block of memory",
        look_for: "a negative index, a loop that runs one too far",
        meanwhile: None,
    },
    Meaning {
        what: "read after free",
        did: "read a block of memory that it had given back",
        look_for: "an old copy of a pointer that is still used after free: in a list, a cache, a callback, another thread",
        meanwhile: None,
    },
    Meaning {
        what: "read of a zero-sized chunk",
        did: "read through a pointer to no bytes at all",
        look_for: "a size that became zero, and that is not looked at before the first access",
        meanwhile: None,
    },
    Meaning {
        what: "write to a zero-sized chunk",
        did: "wrote through a pointer to no bytes at all",
        look_for: "a size that became zero, and that is not looked at before the first access",
        meanwhile: None,
    },
    Meaning {
        what: "corrupted chunk header",
        did: "wrote in front of a block of memory, or past the end of the block before it",
        look_for: "a negative index, a loop that runs one too far, a length that is not checked",
        meanwhile: None,
    },
    Meaning {
        what: "write after free",
        did: "wrote to a block of memory that it had given back",
        look_for: "an old copy of a pointer that is still used after free: in a list, a cache, a callback, another thread",
        meanwhile: None,
    },
    Meaning {
        what: "mismatched deallocation",
        did: "gave memory back by a function that does not belong to the one it came from",
        look_for: "malloc with delete, new with free, new[] with delete; also across libraries",
        meanwhile: Some("mismatch=0"),
    },
    Meaning {
        what: "wrong size",
        did: "gave memory back with another size than it was asked for with",
        look_for: "a derived class deleted through its base without a virtual destructor; a vector's capacity changed by hand",
        meanwhile: Some("mismatch=0"),
    },
    Meaning {
        what: "wrong alignment",
        did: "gave memory back with another alignment than it was asked for with",
        look_for: "aligned new with plain delete, or the other way round",
        meanwhile: Some("mismatch=0"),
    },
];

/// What begins the first line of every report.
const MARK: &str = "testudo: ";

/// What was run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Ran<'a> {
    /// The program's name as it was given.
    pub program: &'a str,
    /// Whether it had arguments.
    pub arguments: bool,
    /// The part of the command line in front of `--`, without `--exec` and `--quiet`.
    pub how: &'a [String],
    /// Whether every chunk was guarded, as in `fuzz`: then nothing is gained by that profile.
    pub all_guarded: bool,
    /// The least alignment of guarded chunks.
    pub guarded_align: u8,
    /// The number of its process.
    pub process: u32,
}

/// What one report says.
struct Report<'a> {
    /// The words that begin it.
    what: &'a str,
    /// Whether the wrong access itself was stopped.
    at_the_access: bool,
    /// Number and name of the process, where it says them.
    process: Option<(u32, &'a str)>,
}

impl<'a> Report<'a> {
    /// All that are in a text, in their order.
    fn all(text: &'a str) -> impl Iterator<Item = Self> {
        // Each begins with the mark at the start of a line, and has an address in that line.
        let beginnings = text.match_indices(MARK).filter(|(at, _)| *at == 0 || text[..*at].ends_with('\n'));
        beginnings.map(|(at, _)| &text[at + MARK.len()..]).filter_map(Self::first)
    }

    fn first(text: &'a str) -> Option<Self> {
        let what = text.lines().next().filter(|line| line.contains(" at 0x"))?;
        let noticed = text.lines().skip(1).take_while(|line| line.starts_with(' '));
        let noticed = noticed.filter_map(|line| line.trim_start().strip_prefix("noticed while ")).next();
        let process = noticed.and_then(|line| line.split_once(" of process ")).map(|(_, process)| process);
        let process = process.and_then(|process| {
            let (number, name) = process.split_once(' ').unwrap_or((process, ""));
            let name = name.strip_prefix('(').and_then(|name| name.strip_suffix(')')).unwrap_or("");
            Some((number.parse().ok()?, name))
        });
        let at_the_access = noticed.is_some_and(|line| line.starts_with("reading") || line.starts_with("writing"));
        Some(Self { what, at_the_access, process })
    }

    /// Its process, if that is not the program itself but one that it started.
    fn descendant(&self, ran: Ran<'_>) -> Option<(u32, &'a str)> {
        self.process.filter(|(number, _)| *number != ran.process)
    }
}

/// What the library saw of a SIGSEGV in which it found nothing wrong with the heap.
#[derive(Clone, Copy)]
enum Fault {
    /// An access to an address that nothing is known of.
    Access,
    /// The CPU refused an instruction and named no address.
    NoAddress,
    /// Some process sent the signal.
    Sent,
}

/// What the library wrote of the program's own fault; nothing where it had no handler: it guards no chunks, or the program
/// has put a handler of its own in that one's place.
fn fault_of(ran: Ran<'_>, text: &str) -> Option<Fault> {
    let begins = format!("{MARK}process {} ", ran.process);
    let said = text.lines().filter_map(|line| line.strip_prefix(&begins)).next_back()?;
    match said {
        "faulted" => Some(Fault::Access),
        "faulted without an address" => Some(Fault::NoAddress),
        "was sent SIGSEGV" => Some(Fault::Sent),
        _ => None,
    }
}

/// The explanation of the end by a signal that was not found to be the heap's matter.
fn explain_fault(ran: Ran<'_>, name: &str, fault: Option<Fault>, signal: &str) -> Option<String> {
    let mut text = String::from("\n");
    match fault {
        // As with any other signal: whoever sent it knows why.
        Some(Fault::Sent) => return None,
        Some(Fault::Access) => text.push_str(&format!(
            "testudo run: {name} touched memory that it may not touch, and was ended in that instruction.\n  \
             This can be any bad pointer: testudo knows nothing of that address.\n"
        )),
        Some(Fault::NoAddress) => text.push_str(&format!(
            "testudo run: {name} was ended in an instruction that the CPU refused without naming an address.\n  \
             This can be an unaligned vector access, where SSE wants 16 bytes aligned to 16, or a pointer that is no \
             address.\n"
        )),
        None => text.push_str(&format!(
            "testudo run: {name} was ended by {signal}.\n  \
             This can be any bad pointer, or somebody sent that signal: testudo did not see it.\n"
        )),
    }
    if matches!(fault, Some(Fault::NoAddress)) && ran.guarded_align < 16 {
        let how = [ran.how, &["-o".to_owned(), "guarded_align=16".to_owned()]].concat();
        let _ = writeln!(
            text,
            "  Try:        {}\n              \
             With guarded_align={}, as now, not all chunks are aligned to 16; so they are. The price: a write up to\n              \
             15 bytes past the end is noticed when the chunk is freed, not at the access, and a read is not.",
            command(ran, &how, ""),
            ran.guarded_align
        );
    }
    let _ = writeln!(text, "  See where:  {}", debugger(ran));
    Some(text)
}

/// What profile `fuzz` would add, if anything.
fn with_guards(report: &Report<'_>, ran: Ran<'_>) -> Option<&'static str> {
    if ran.all_guarded || report.at_the_access {
        return None;
    }
    match report.what {
        what if what.starts_with("invalid") => None,
        what if ["buffer", "corrupted", "write"].iter().any(|word| what.starts_with(word)) => {
            Some("stops at the wrong access itself")
        }
        _ => Some("shows where the block came from, and where it went"),
    }
}

/// The explanation, or nothing when there is nothing to explain. `reports` is all that the library wrote, `signal` what
/// ended the program.
pub fn explain(ran: Ran<'_>, reports: &str, signal: Option<i32>) -> Option<String> {
    let name = ran.program.rsplit('/').next().unwrap_or(ran.program);
    let mut found = Report::all(reports);
    let mut text = String::from("\n");
    let Some(first) = found.next() else {
        return match signal? {
            libc::SIGSEGV => explain_fault(ran, name, fault_of(ran, reports), "SIGSEGV"),
            libc::SIGBUS => explain_fault(ran, name, None, "SIGBUS"),
            _ => None,
        };
    };
    let others = found.count();
    // The longest: "invalid free" is not to be taken for a longer phrase that begins alike.
    let meaning =
        MEANINGS.iter().filter(|meaning| first.what.starts_with(meaning.what)).max_by_key(|meaning| meaning.what.len());
    let who = match first.descendant(ran) {
        None => name.to_owned(),
        Some((number, "")) => format!("process {number}, which {name} started,"),
        Some((number, its_name)) => format!("{its_name} (process {number}, started by {name})"),
    };
    let _ = writeln!(
        text,
        "testudo run: {who} {}, and was stopped when that was noticed.",
        meaning.map_or("broke a rule of the heap", |meaning| meaning.did)
    );
    if let Some(meaning) = meaning {
        let _ = writeln!(text, "  Look for:   {}.", meaning.look_for);
    }
    // A debugger would follow the program, not what it starts.
    let by_itself = match first.descendant(ran) {
        None => ran,
        Some((_, its_name)) => {
            let _ =
                writeln!(text, "  See where:  the calls under \"found here\" above; or run that program by itself:");
            let program = if its_name.is_empty() { "PROGRAM" } else { its_name };
            Ran { program, arguments: true, ..ran }
        }
    };
    let first_column = if first.descendant(ran).is_some() { "" } else { "See where:" };
    let _ = writeln!(text, "  {first_column:<12}{}", debugger(by_itself));
    if let Some(gain) = with_guards(&first, ran) {
        let how = ["--profile", "fuzz"].map(str::to_owned);
        let _ = writeln!(text, "              {}    {gain}", command(by_itself, &how, ""));
    }
    if let Some(option) = meaning.and_then(|meaning| meaning.meanwhile) {
        let _ = writeln!(text, "  Meanwhile:  -o {option} lets it run; all other checks stay on.");
    }
    if others > 0 {
        let were = if others == 1 { "process was" } else { "processes were" };
        let _ = writeln!(text, "  {others} more {were} stopped.");
    }
    Some(text)
}

/// The command line once more, to be typed.
fn command(ran: Ran<'_>, how: &[String], exec: &str) -> String {
    let how: String = how.iter().map(|word| format!(" {}", quoted(word))).collect();
    let rest = if ran.arguments { " …" } else { "" };
    format!("testudo run{exec}{how} -- {}{rest}", quoted(ran.program))
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:+,@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn debugger(ran: Ran<'_>) -> String {
    format!("gdb -ex run -ex backtrace --args {}", command(ran, ran.how, " --exec"))
}

#[cfg(test)]
mod tests {
    use super::{MEANINGS, Ran, explain};
    use hardened_heap::{Kind, Operation, Violation};

    const KINDS: [Kind; 12] = [
        Kind::DoubleFree,
        Kind::Freed,
        Kind::NotAChunk,
        Kind::Overflow,
        Kind::Underflow,
        Kind::UseAfterFree,
        Kind::ZeroSized,
        Kind::CorruptHeader,
        Kind::WriteAfterFree,
        Kind::Mismatch,
        Kind::WrongSize,
        Kind::WrongAlignment,
    ];
    const OPERATIONS: [Operation; 7] = [
        Operation::Free,
        Operation::Allocate,
        Operation::Reallocate,
        Operation::UsableSize,
        Operation::Check,
        Operation::Read,
        Operation::Write,
    ];

    const PLAIN: Ran<'static> =
        Ran { program: "./prog", arguments: false, how: &[], all_guarded: false, guarded_align: 16, process: 7 };

    fn violation(kind: Kind, operation: Operation) -> Violation {
        Violation { kind, operation, address: 0x10, chunk: None, expected: 0, seen: 0, offset: None, detail: "" }
    }

    #[test]
    fn every_report_has_a_meaning() {
        for kind in KINDS {
            for operation in OPERATIONS {
                let what = violation(kind, operation).what();
                assert!(MEANINGS.iter().any(|meaning| meaning.what == what), "{what}");
            }
        }
    }

    #[test]
    fn a_report_is_explained_with_what_to_do_next() {
        for kind in KINDS {
            let report = format!("testudo: {}\n  found: something\n", violation(kind, Operation::Free));
            let text = explain(PLAIN, &report, Some(libc::SIGABRT)).expect("an explanation");
            assert!(text.contains("prog ") && text.contains("Look for:") && text.contains("gdb"), "{text}");
        }
    }

    fn report(kind: Kind, operation: Operation, noticed: &str) -> String {
        format!("testudo: {}\n  found: something\n  noticed while {noticed}\n  Advice.\n", violation(kind, operation))
    }

    #[test]
    fn the_command_to_repeat_is_the_one_that_was_typed() {
        let how = ["--profile".to_owned(), "strict".to_owned(), "-o".to_owned(), "report_path=/a b".to_owned()];
        let ran = Ran { program: "./it's", arguments: true, how: &how, ..PLAIN };
        let report = report(Kind::Overflow, Operation::Free, "giving memory back, in thread 7 of process 7 (it's)");
        let text = explain(ran, &report, Some(libc::SIGABRT)).expect("an explanation");
        let line = r"gdb -ex run -ex backtrace --args testudo run --exec --profile strict -o 'report_path=/a b' -- './it'\''s' …";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("testudo run: it's wrote past"), "{text}");
        // Without arguments nothing stands for them.
        assert!(explain(PLAIN, &report, None).expect("an explanation").contains("--exec -- ./prog\n"));
    }

    #[test]
    fn a_process_that_the_program_started_is_named() {
        let at = |process: &str| format!("giving memory back, in thread 9 of process {process}");
        for (process, who) in [
            ("7 (prog)", "prog gave the same"),
            ("7", "prog gave the same"),
            ("9 (a b)", "a b (process 9, started by prog) gave the same"),
            ("9", "process 9, which prog started, gave the same"),
        ] {
            let report = report(Kind::DoubleFree, Operation::Free, &at(process));
            let text = explain(PLAIN, &report, None).expect("an explanation");
            assert!(text.contains(&format!("testudo run: {who}")), "{text}");
            assert_eq!(text.contains("--exec -- ./prog"), process.starts_with('7'), "{text}");
        }
    }

    #[test]
    fn guards_are_advised_where_they_would_tell_more() {
        for (kind, operation, noticed, advised) in [
            (Kind::Overflow, Operation::Free, "giving memory back", Some("stops at the wrong access")),
            (Kind::WriteAfterFree, Operation::Allocate, "allocating", Some("stops at the wrong access")),
            (Kind::DoubleFree, Operation::Free, "giving memory back", Some("where the block came from")),
            (Kind::Mismatch, Operation::Free, "giving memory back", Some("where the block came from")),
            (Kind::NotAChunk, Operation::Free, "giving memory back", None),
            (Kind::WriteAfterFree, Operation::Write, "writing", None),
            (Kind::ZeroSized, Operation::Read, "reading", None),
        ] {
            let report = report(kind, operation, &format!("{noticed}, in thread 7 of process 7 (prog)"));
            let text = explain(PLAIN, &report, None).expect("an explanation");
            assert_eq!(text.contains("--profile fuzz"), advised.is_some(), "{text}");
            assert!(advised.is_none_or(|advised| text.contains(advised)), "{text}");
            let guarded = explain(Ran { all_guarded: true, ..PLAIN }, &report, None).expect("an explanation");
            assert!(!guarded.contains("--profile fuzz"), "{guarded}");
        }
    }

    #[test]
    fn nothing_is_explained_where_nothing_was_found() {
        assert_eq!(explain(PLAIN, "", None), None);
        assert_eq!(explain(PLAIN, "", Some(libc::SIGABRT)), None);
        assert_eq!(explain(PLAIN, "", Some(libc::SIGTERM)), None);
    }

    #[test]
    fn a_fault_is_explained_with_doubt() {
        let text = explain(PLAIN, "", Some(libc::SIGSEGV)).expect("an explanation");
        assert!(text.contains("can be any bad pointer"), "{text}");
    }

    #[test]
    fn what_the_library_saw_of_a_fault_decides_what_is_said_of_it() {
        let fuzz = Ran { guarded_align: 4, ..PLAIN };
        let said = |ran, seen: &str| {
            let seen =
                format!("testudo: process 7 was sent SIGSEGV\ntestudo: process {seen}\ntestudo: process 9 faulted\n");
            explain(ran, &seen, Some(libc::SIGSEGV))
        };
        let text = said(fuzz, "7 faulted").expect("an explanation");
        assert!(text.contains("touched memory") && !text.contains("guarded_align"), "{text}");
        assert_eq!(said(fuzz, "7 was sent SIGSEGV"), None);
        let text = said(fuzz, "7 faulted without an address").expect("an explanation");
        assert!(text.contains("unaligned") && text.contains("run -o guarded_align=16 -- ./prog\n"), "{text}");
        let text = said(PLAIN, "7 faulted without an address").expect("an explanation");
        assert!(text.contains("unaligned") && !text.contains("guarded_align"), "{text}");
    }

    #[test]
    fn all_processes_that_were_stopped_are_counted() {
        let report = format!("testudo: {}\n", violation(Kind::Overflow, Operation::Free)).repeat(3);
        assert!(explain(PLAIN, &report, None).expect("an explanation").contains("2 more processes were"));
    }
}
