//! What testudo found, in plain words, and what to do next.

use hardened_heap::Profile;
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

/// The explanation, or nothing when there is nothing to explain. `reports` is all that the library wrote, `signal` what
/// ended the program.
pub fn explain(program: &str, reports: &str, signal: Option<i32>) -> Option<String> {
    let mut found = reports.lines().filter_map(|line| line.strip_prefix(MARK)).filter(|line| line.contains(" at 0x"));
    let mut text = String::from("\n");
    let Some(first) = found.next() else {
        if !matches!(signal, Some(libc::SIGSEGV | libc::SIGBUS)) {
            return None;
        }
        let _ = writeln!(
            text,
            "testudo run: {program} touched memory that it may not touch, and was ended in that instruction.\n  \
             This can be any bad pointer: testudo knows nothing of that address.\n  \
             See where:  {}",
            debugger(program)
        );
        return Some(text);
    };
    let others = found.count();
    // The longest: "invalid free" is not to be taken for a longer phrase that begins alike.
    let meaning =
        MEANINGS.iter().filter(|meaning| first.starts_with(meaning.what)).max_by_key(|meaning| meaning.what.len());
    let _ = writeln!(
        text,
        "testudo run: {program} {}, and was stopped when that was noticed.",
        meaning.map_or("broke a rule of the heap", |meaning| meaning.did)
    );
    if let Some(meaning) = meaning {
        let _ = writeln!(text, "  Look for:   {}.", meaning.look_for);
    }
    let _ = writeln!(text, "  See where:  {}", debugger(program));
    if Profile::ALL.iter().any(|(name, _)| *name == "fuzz") {
        let _ = writeln!(
            text,
            "              testudo run --profile fuzz -- {program} …    stops at the wrong access itself"
        );
    } else {
        let _ = writeln!(
            text,
            "              testudo run --profile strict -- {program} …  looks more often, and stops earlier"
        );
    }
    if let Some(option) = meaning.and_then(|meaning| meaning.meanwhile) {
        let _ = writeln!(text, "  Meanwhile:  -o {option} lets it run; all other checks stay on.");
    }
    if others > 0 {
        let _ = writeln!(text, "  {others} more of its processes were stopped.");
    }
    Some(text)
}

fn debugger(program: &str) -> String {
    format!("gdb -ex run -ex backtrace --args testudo run --exec -- {program} …")
}

#[cfg(test)]
mod tests {
    use super::{MEANINGS, explain};
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
            let text = explain("prog", &report, Some(libc::SIGABRT)).expect("an explanation");
            assert!(text.contains("prog ") && text.contains("Look for:") && text.contains("gdb"), "{text}");
        }
    }

    #[test]
    fn nothing_is_explained_where_nothing_was_found() {
        assert_eq!(explain("prog", "", None), None);
        assert_eq!(explain("prog", "", Some(libc::SIGABRT)), None);
        assert_eq!(explain("prog", "", Some(libc::SIGTERM)), None);
    }

    #[test]
    fn a_fault_is_explained_with_doubt() {
        let text = explain("prog", "", Some(libc::SIGSEGV)).expect("an explanation");
        assert!(text.contains("can be any bad pointer"), "{text}");
    }

    #[test]
    fn all_processes_that_were_stopped_are_counted() {
        let report = format!("testudo: {}\n", violation(Kind::Overflow, Operation::Free)).repeat(3);
        assert!(explain("prog", &report, None).expect("an explanation").contains("2 more"));
    }
}
