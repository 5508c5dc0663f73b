//! Allocation works at every moment of a process's life.

mod support;

use support::check::checks;

checks! { of "conformance_moments.cpp";
    memory_from_before_main_is_sound
    exit_handlers_and_destructors_can_allocate_and_free
    thread_local_destructors_can_allocate_and_free
    key_destructors_can_allocate_and_free_in_every_round
    libraries_can_be_loaded_and_unloaded
    a_failed_dlopen_leaves_its_message
    a_thread_can_free_what_another_allocated
    a_forked_child_can_use_and_free_its_parents_memory
    forking_while_threads_allocate_does_not_hang
    a_signal_handler_on_an_alternate_stack_can_allocate
}
