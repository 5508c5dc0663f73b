//! Every operator new and delete does what the C++ standard says.

mod support;

use support::check::checks;

checks! { of "conformance_cxx.cpp";
    plain_new_and_delete
    array_new_and_delete
    nothrow_new_and_delete
    aligned_new_and_delete
    aligned_array_new_and_delete
    aligned_nothrow_new_and_delete
    delete_of_null_does_nothing
    new_of_nothing_returns_distinct_pointers
    the_new_handler_is_called_until_it_is_gone
    the_new_handler_is_called_for_nothrow_new_too
    what_the_new_handler_throws_reaches_the_caller
    the_new_handler_is_not_called_when_memory_is_found
    over_aligned_types_work_in_expressions_and_containers
    a_constructor_that_throws_frees_the_array
    malloc_usable_size_knows_memory_from_new
}
