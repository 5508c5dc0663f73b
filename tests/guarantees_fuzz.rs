//! Profile `fuzz`: what faults at the access, what is found at the free, and that both stay so for ever.

mod support;

use support::Profile;
use support::attack::{ALL, Ended, LARGE, Must, SMALL, Side, children, claims};

/// Sizes whose end is that of their slot: multiples of the least alignment. Beyond 64 KiB chunks are large.
const EXACT: &[usize] = &[4, 8, 12, 16, 24, 40, 100, 1000, 1024, 4096, 20_000, 65_536];
/// Sizes behind which alignment leaves some bytes.
const INEXACT: &[usize] = &[1, 2, 3, 5, 13, 27, 101, 1001, 4097, 20_001];
const SOME: &[usize] = &[24, 1000, 20_000];
const ONE: &[usize] = &[24];

const TWICE: Must = Must::Abort(&["double free"]);
const OVERFLOW: Must = Must::AbortOrFault(&["buffer overflow"]);
const UNDERFLOW: Must = Must::AbortOrFault(&["corrupted chunk header"]);
const FREE: Must = Must::Abort(&["invalid free"]);
const REALLOC: Must = Must::Abort(&["invalid realloc"]);
const USABLE: Must = Must::Abort(&["invalid malloc_usable_size"]);
const MISMATCH: Must = Must::Abort(&["mismatched deallocation"]);
const SIZE: Must = Must::Abort(&["wrong size"]);
const ALIGNMENT: Must = Must::Abort(&["wrong alignment"]);

mod double_free {
    use super::*;
    claims! { of "double_free.c";
        twice_in_a_row: "at_once", fuzz, [ALL => TWICE];
        with_another_free_between: "interleaved", fuzz, [ALL => TWICE];
        of_a_chunk_from_calloc: "calloced", fuzz, [ALL => TWICE];
        of_a_chunk_aligned_to_4096: "aligned_to_4096", fuzz, [ALL => TWICE];
        of_what_realloc_moved: "after_realloc_moved_it", fuzz, [SMALL => TWICE];
        again_in_another_thread: "again_in_another_thread", fuzz, [ALL => TWICE];
        after_malloc_trim: "after_trim", fuzz, [SMALL => TWICE];
        by_two_threads_in_the_same_instant: "race_and_nothing_else", fuzz, [SOME => TWICE];
    }
}

mod overflow {
    use super::*;
    claims! { of "overflow.c";
        by_one_byte: "behind_by_1_A", fuzz, [EXACT => OVERFLOW, INEXACT => OVERFLOW, LARGE => Must::Fault];
        by_one_nul: "behind_by_1_nul", fuzz, [EXACT => OVERFLOW, INEXACT => OVERFLOW];
        by_one_ff: "behind_by_1_ff", fuzz, [EXACT => OVERFLOW, INEXACT => OVERFLOW];
        by_a_struct: "behind_by_a_struct_A", fuzz, [EXACT => OVERFLOW, INEXACT => OVERFLOW];
        of_a_chunk_from_calloc: "behind_calloc_nul", fuzz, [EXACT => OVERFLOW];
        of_a_chunk_that_realloc_grew: "behind_realloc_grew_nul", fuzz, [SMALL => OVERFLOW];
        of_a_chunk_that_realloc_shrank: "behind_realloc_shrank_nul", fuzz, [SMALL => OVERFLOW];
        of_an_aligned_chunk: "behind_aligned_nul", fuzz, [SMALL => OVERFLOW];
        seen_by_realloc: "checked_by_realloc", fuzz, [EXACT => OVERFLOW, INEXACT => OVERFLOW];
        never_freed_is_found_at_exit: "behind_never_freed_nul", fuzz, [EXACT => OVERFLOW, INEXACT => OVERFLOW];
        underflow_by_two: "in_front_by_2_A", fuzz, [SMALL => UNDERFLOW];
        underflow_of_1_to_32_by_a_loop: "in_front_by_a_loop", fuzz, [SMALL => UNDERFLOW];
        underflow_of_an_aligned_chunk: "in_front_aligned_A", fuzz, [SMALL => UNDERFLOW];
        underflow_never_freed_is_found_at_exit: "in_front_never_freed_A", fuzz, [SMALL => UNDERFLOW];
    }
}

mod use_after_free {
    use super::*;
    claims! { of "use_after_free.c";
        read: "large_read_start", fuzz, [ALL => Must::Fault];
        read_of_the_end: "large_read_end", fuzz, [ALL => Must::Fault];
        write: "large_write_start", fuzz, [ALL => Must::Fault];
        write_to_any_byte: "write_anywhere", fuzz, [SMALL => Must::Fault];
        read_900_frees_later: "large_read_after_900_small_frees", fuzz, [SMALL => Must::Fault];
        write_to_what_realloc_moved: "write_what_realloc_moved", fuzz, [SMALL => Must::Fault];
        a_freed_slot_is_not_handed_out_at_once: "not_handed_out_at_once", fuzz_observed, [ALL => Must::Pass];
    }
}

mod invalid_pointer {
    use super::*;
    /// Chunks with room inside for what looks like another chunk.
    const ROOMY: &[usize] = &[40, 100, 1024, 4096, 20_000, 300_000];
    claims! { of "invalid_pointer.c";
        free_one_byte_inside: "free_interior_by_1", fuzz_certain, [SMALL => FREE];
        free_half_inside: "free_interior_half", fuzz_certain, [ROOMY => FREE];
        free_eight_bytes_before: "free_before_by_8", fuzz_certain, [ALL => FREE];
        free_of_the_stack: "free_on_the_stack", fuzz_certain, [ONE => FREE];
        free_of_a_foreign_mapping: "free_foreign_mapping_start", fuzz_certain, [ONE => FREE];
        realloc_one_byte_inside: "realloc_interior_by_1", fuzz_certain, [SMALL => REALLOC];
        realloc_of_a_freed_chunk: "realloc_freed", fuzz_certain, [ALL => Must::Abort(&["realloc of a freed chunk"])];
        usable_size_one_byte_inside: "usable_size_interior_by_1", fuzz_certain, [SMALL => USABLE];
        usable_size_of_a_freed_chunk: "usable_size_freed", fuzz_certain, [ALL => Must::Abort(&["malloc_usable_size of a freed chunk"])];
    }
}

mod mismatch {
    use super::*;
    claims! { of "mismatch.cpp";
        malloc_with_delete: "malloc_delete", fuzz_certain, [ALL => MISMATCH];
        memalign_with_delete: "memalign_delete", fuzz_certain, [ALL => MISMATCH];
        new_with_free: "new_free", fuzz_certain, [ALL => MISMATCH];
        new_with_realloc: "new_realloc", fuzz_certain, [ALL => MISMATCH];
        new_array_with_delete: "new_array_delete", fuzz_certain, [ALL => MISMATCH];
        sized_delete_of_one_more: "sized_delete_1_more", fuzz_certain, [ALL => SIZE];
        free_sized_of_one_less: "free_sized_1_less", fuzz_certain, [ALL => SIZE];
        aligned_delete_with_half_the_alignment: "aligned_delete_alignment_32", fuzz_certain, [ALL => ALIGNMENT];
    }
}

mod zero_size {
    use super::*;
    claims! { of "zero_size.cpp";
        read_of_malloc: "malloc_read", fuzz_certain, [&[0] => Must::Fault];
        write_to_new: "new_write", fuzz_certain, [&[0] => Must::Fault];
        read_of_aligned_alloc: "aligned_alloc_read", fuzz_certain, [&[0] => Must::Fault];
    }
}

mod memory {
    use super::*;
    claims! { of "guarded.c";
        uninitialised_memory_stands_out: "new_memory_stands_out", fuzz_observed, [ALL => Must::Pass, EXACT => Must::Pass];
    }
}

/// How an attack ended, run once at each size as many times as there are.
fn ends(source: &str, attack: &str, side: Side, often: (u32, u32), sizes: &[usize]) -> Vec<support::attack::Child> {
    children(source, attack, side, Profile::Fuzz, often, sizes)
}

/// Seven chunks in eight end at a guard page, so that an overflow by one byte faults; the others begin at one.
#[test]
fn an_overflow_by_one_byte_faults_in_seven_of_eight() {
    let all = ends("overflow.c", "behind_by_1_A", Side::Bug, (10, 20), EXACT);
    for &size in EXACT.iter().filter(|&&size| size % 4096 != 0) {
        let faults = all.iter().filter(|child| child.size == size && child.ended == Ended::Signal(11)).count();
        // Expected 175 of 200; fewer than 140, or all, happen once in 10^10.
        assert!((140..200).contains(&faults), "{size} bytes: {faults} of 200 fault at the access");
    }
}

/// One chunk in eight begins at a guard page, so that an underflow by one byte faults.
#[test]
fn an_underflow_faults_in_one_of_eight() {
    let all = ends("overflow.c", "in_front_by_2_A", Side::Bug, (10, 20), SOME);
    for &size in SOME {
        let faults = all.iter().filter(|child| child.size == size && child.ended == Ended::Signal(11)).count();
        // Expected 25 of 200; fewer than 2, or 65 and more, happen once in 10^10.
        assert!((2..65).contains(&faults), "{size} bytes: {faults} of 200 fault at the access");
    }
}

/// A million allocations in one process: the number of mappings stays, and so does what is guarded.
#[test]
fn persistent_mode_keeps_its_mappings_and_its_guards() {
    for attack in ["overflow_after_many_inputs", "use_after_free_after_many_inputs"] {
        for child in ends("guarded.c", attack, Side::Bug, (1, 1), &[400]) {
            assert_eq!(child.ended, Ended::Signal(11), "{attack}: {child:?}");
            assert_eq!(child.phase, "at", "{attack}: {child:?}");
        }
    }
    for child in ends("guarded.c", "overflow_after_many_inputs", Side::Twin, (1, 1), &[400]) {
        assert_eq!(child.ended, Ended::Exit(0), "{child:?}");
    }
}

/// More chunks alive than there are slots: the rest is served, and checked, in the ordinary way.
#[test]
fn chunks_beyond_the_slots_are_served_and_checked() {
    for child in ends("guarded.c", "double_free_beyond_the_slots", Side::Bug, (1, 2), &[24, 1000]) {
        assert!(child.first_line.starts_with("testudo: double free at "), "{child:?}");
    }
    for child in ends("guarded.c", "double_free_beyond_the_slots", Side::Twin, (1, 2), &[24, 1000]) {
        assert_eq!(child.ended, Ended::Exit(0), "{child:?}");
    }
}
