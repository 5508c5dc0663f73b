//! What the allocator knows lies out of an overflow's reach.

mod support;

use support::attack::{ALL, Must, SMALL, claims};

claims! { of "metadata.c";
    chunks_lie_between_guards: "guarded_on_both_sides", observed, [ALL => Must::Pass];
    no_pointer_into_the_heap_lies_in_the_heap: "no_pointer_in_the_heap", observed, [SMALL => Must::Pass];
    canary_bytes_are_never_zero: "canary_has_no_zero", observed, [SMALL => Must::Pass];
    running_upwards_ends_at_a_guard: "upwards_until_it_faults", both, [&[8, 100, 4096, 20_000, 300_000] => Must::Fault];
    running_downwards_ends_at_a_guard: "downwards_until_it_faults", both, [&[8, 100, 4096, 20_000, 300_000] => Must::Fault];
}
