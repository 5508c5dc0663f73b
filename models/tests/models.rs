//! Runs every model; each test is one claim.

use testudo_models::{guarded, locks, regions, shared, slots, trace};

macro_rules! models {
    ($($module:ident: $($claim:ident)+;)+) => {
        $($(#[test]
        fn $claim() {
            $module::$claim();
        })+)+
    };
}

models! {
    guarded: a_guarded_chunk_is_freed_once;
    locks: two_threads_exclude_each_other no_wake_up_is_lost_among_three the_bare_lock_excludes
        the_thread_that_forks_passes_the_lock_that_it_holds
        the_thread_that_forks_waits_for_a_lock_that_it_does_not_hold;
    regions: a_chunk_handed_over_is_found a_guessed_address_finds_all_or_nothing;
    slots: by_exchange_one_free_wins by_store_and_fence_the_slot_goes_out_once a_live_slot_has_its_header;
    shared: the_heap_of_the_process_is_made_once a_left_cache_passes_whole a_large_chunk_is_freed_once
        a_kept_mapping_passes_whole a_kept_mapping_has_one_taker;
    trace: a_rule_is_that_of_its_address_or_none the_allocators_code_is_found_whole a_numbered_trace_is_whole;
}

#[test]
#[should_panic(expected = "handed out twice")]
fn the_model_of_racing_frees_sees_a_missing_fence() {
    slots::by_store_alone_it_may_go_out_twice();
}

#[test]
#[should_panic(expected = "an old header")]
fn the_model_of_headers_sees_a_missing_release() {
    slots::without_release_a_live_slot_may_have_an_old_header();
}

#[test]
#[should_panic(expected = "another chunk was taken")]
fn the_model_of_guarded_slots_sees_a_missing_second_look() {
    guarded::without_a_second_look_the_next_chunk_is_taken();
}

#[test]
#[should_panic(expected = "a rule of another address")]
fn the_model_of_rules_sees_two_words_mixed_up() {
    trace::in_two_words_rules_are_mixed_up();
}

#[test]
#[should_panic(expected = "half a trace")]
fn the_model_of_numbered_traces_sees_a_missing_release() {
    trace::without_release_a_trace_may_be_half_there();
}
