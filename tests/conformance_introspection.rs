//! What tells of the heap or tunes it does what the GNU C library's manual says.

mod support;

use support::check::checks;

checks! { of "conformance_introspection.c";
    mallinfo2_counts_what_is_in_use
    mallinfo_agrees_with_mallinfo2
    malloc_info_writes_well_formed_xml
    malloc_info_writes_where_the_stream_stands
    malloc_info_refuses_other_options_with_einval
    malloc_stats_writes_to_stderr_only
    malloc_stats_is_no_cancellation_point
    malloc_trim_says_whether_it_gave_back
    malloc_trim_gives_memory_back
    mallopt_takes_the_known_parameters
    every_interface_is_the_librarys_own
    the_extensions_pass_a_sound_heap
    testudo_object_size_knows_starts_of_live_chunks_only
}
