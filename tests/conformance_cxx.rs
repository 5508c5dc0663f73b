//! Every operator new and delete does what the C++ standard says.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
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

/// Where the C++ runtime came with a plug-in, nobody else sees it. What a failing `new` throws must be that runtime's.
#[test]
fn a_plug_in_catches_what_its_failing_new_throws() {
    let folder = real::folder();
    let host = real::compile("c/plug_in_host.c", folder.path(), "host", &["-ldl"]);
    for runtime in [&[][..], &["-static-libstdc++", "-static-libgcc"]] {
        let flags = [&["-shared", "-fPIC", "-std=c++17"], runtime].concat();
        let plug_in = real::compile("c/plug_in.cpp", folder.path(), "plug_in.so", &flags);
        let mut command = real::command(&host, folder.path(), Some("max_alloc_mb=100"));
        let ended = real::to_the_end(command.arg(&plug_in));
        let line = "new: bad_alloc, 1; new[]: bad_alloc, 1; nothrow: null, 1; aligned nothrow: null, 1\n";
        assert_eq!((ended.out(), ended.err()), (line.repeat(2), String::new()), "{runtime:?}: {ended:?}");
        assert!(ended.status.success(), "{runtime:?}: {ended:?}");
    }
}

/// Linked with the C++ runtime as a library, and with one of its own inside.
#[test]
fn operators_that_the_program_does_not_replace_go_by_way_of_those_that_it_does() {
    let folder = real::folder();
    for (number, flags) in [&[][..], &["-DALIGNED"], &["-DALIGNED", "-static-libstdc++"]].into_iter().enumerate() {
        let name = format!("replaced{number}");
        let program = real::compile(
            "c/replaced_operators.cpp",
            folder.path(),
            &name,
            &[&["-std=c++17", "-Wno-sized-deallocation"], flags].concat(),
        );
        for (profile, _) in testudo::Profile::ALL {
            let options = format!("profile={profile}");
            let ended = real::to_the_end(&mut real::command(&program, folder.path(), Some(&options)));
            let line = "every chunk went through the program's operators\n";
            assert_eq!((ended.out(), ended.err()), (line.to_owned(), String::new()), "{profile}, {flags:?}: {ended:?}");
            assert!(ended.status.success(), "{profile}, {flags:?}: {ended:?}");
        }
    }
}

/// While the loader's lock is held.
#[test]
fn a_plug_in_may_start_threads_and_wait_for_them_while_it_is_loaded() {
    let folder = real::folder();
    let host = real::compile("c/plug_in_host.c", folder.path(), "host", &["-ldl"]);
    let plug_in =
        real::compile("c/plug_in_threads.cpp", folder.path(), "plug_in.so", &["-shared", "-fPIC", "-std=c++17"]);
    let mut command = real::command(&host, folder.path(), Some(""));
    let ended = real::to_the_end(command.arg(&plug_in));
    assert_eq!((ended.out(), ended.err()), ("loaded\n".to_owned(), String::new()), "{ended:?}");
    assert!(ended.status.success(), "{ended:?}");
}
