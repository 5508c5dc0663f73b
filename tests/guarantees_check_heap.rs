//! `testudo_check_heap` finds at once what free, reuse and exit would find later.

mod support;

use support::attack::{Must, SMALL, claims};

const LARGE_WITH_SLACK: &[usize] = &[262_145, 270_001, 300_007];

/// Without slack an overflow shows in the next chunk's header, and whose doing that was cannot be told.
const OVERFLOW: Must = Must::AbortOrFault(&["buffer overflow", "corrupted chunk header"]);

claims! { of "check_heap.c";
    an_overflow: "overflow", both, [SMALL => OVERFLOW, LARGE_WITH_SLACK => Must::Abort(&["buffer overflow"])];
    an_underflow: "underflow", both, [SMALL => Must::AbortOrFault(&["corrupted chunk header"]), LARGE_WITH_SLACK => Must::AbortOrFault(&["corrupted chunk header"])];
    a_write_after_free: "write_after_free", both, [SMALL => Must::AbortOrFault(&["write after free"])];
    a_write_to_a_freed_header: "write_to_a_freed_header", both, [SMALL => Must::AbortOrFault(&["write after free", "corrupted chunk header", "buffer overflow"])];
}
