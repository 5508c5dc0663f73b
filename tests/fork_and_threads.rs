//! Processes that fork, threads that come and go, libraries that are loaded and unloaded, and what a
//! program still does while it ends. Each program ends itself when it hangs.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

/// A program of `tests/c`, compiled, in a folder that is removed with it.
struct Program {
    folder: TempDir,
    source: &'static str,
}

impl Program {
    fn new(source: &'static str) -> Self {
        let folder = real::folder();
        real::compile(&format!("c/{source}"), folder.path(), "program", &[]);
        Self { folder, source }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs it under `profile`: it must exit with `status`, print `expected` and no report.
    fn prints(&self, profile: &str, args: &[&str], status: i32, expected: &str) {
        let options = format!("profile={profile}");
        let program = self.folder().join("program");
        let mut command = real::command(&program, self.folder(), Some(&options));
        let ended = real::to_the_end_within(command.args(args), deadline());
        let source = self.source;
        assert_eq!(ended.out(), expected, "{source} {args:?}, {profile}: {ended:?}");
        assert_eq!(ended.err(), "", "{source} {args:?}, {profile}: {ended:?}");
        assert_eq!(ended.status.code(), Some(status), "{source} {args:?}, {profile}: {ended:?}");
    }
}

/// Nightly runs have time.
fn deadline() -> Duration {
    if support::nightly() { Duration::from_secs(7200) } else { real::DEADLINE }
}

/// Longer runs of what is tested shortly below.
fn at_night(source: &'static str, args: &[&str], expected: &str) {
    if !support::nightly() {
        real::say_skipped("nightly runs only");
        return;
    }
    for profile in ["default", "strict", "fast"] {
        Program::new(source).prints(profile, args, 0, &format!("{expected}\n"));
    }
}

#[test]
fn ten_thousand_children_forked_while_threads_allocate_end_well() {
    at_night("fork_while_threads_allocate.c", &["10000"], "every child ended well");
}

#[test]
fn a_hundred_thousand_short_threads_leave_nothing_behind() {
    at_night("threads_short.c", &["100000"], "every thread ended well");
}

/// One module for each claim, in it one test for each profile.
macro_rules! under_every_profile {
    ($($claim:ident: $source:literal $args:expr => $expected:literal;)*) => {$(
        mod $claim {
            fn under(profile: &str) {
                super::Program::new($source).prints(profile, &$args, 0, concat!($expected, "\n"));
            }

            #[test]
            fn under_default() {
                under("default");
            }

            #[test]
            fn under_strict() {
                under("strict");
            }

            #[test]
            fn under_fast() {
                under("fast");
            }
        }
    )*};
}

under_every_profile! {
    children_forked_while_threads_allocate_end_well:
        "fork_while_threads_allocate.c" [] => "every child ended well";
    children_do_not_know_each_others_small_addresses:
        "fork_layouts.c" ["48"] => "every layout is another";
    children_do_not_know_each_others_large_addresses:
        "fork_layouts.c" ["300000"] => "every layout is another";
    fork_handlers_that_were_registered_first_may_allocate:
        "fork_handlers.c" [] => "every handler allocated";
    programs_spawned_while_threads_allocate_end_well:
        "fork_spawns.c" [] => "every program ended well";
    ten_thousand_short_threads_leave_nothing_behind:
        "threads_short.c" [] => "every thread ended well";
    destructors_of_thread_keys_may_allocate_in_every_round:
        "threads_key_destructors.c" [] => "every destructor ran";
    destructors_of_thread_local_objects_may_allocate:
        "threads_local_destructors.cpp" [] => "every destructor ran";
    chunks_freed_by_other_threads_stay_whole_until_then:
        "threads_free_storm.c" [] => "every chunk was whole";
    memory_comes_back_from_a_consumer_to_its_producer:
        "threads_producer_consumer.c" [] => "memory came back";
    threads_cancelled_between_allocations_leave_no_lock_behind:
        "threads_cancelled.c" [] => "every thread was cleaned up";
    audits_raise_no_false_alarm_among_more_threads_than_there_are_marks:
        "threads_check_heap.c" [] => "every audit passed";
    no_over_aligned_chunk_is_live_before_what_is_in_front_of_it_is_written:
        "threads_over_aligned.c" [] => "every audit passed";
    what_a_crowd_of_threads_leaves_behind_goes_back_to_the_system:
        "threads_left.c" [] => "what threads leave went back";
    contents_move_along_when_many_threads_resize:
        "threads_realloc.c" [] => "every byte moved along";
}

/// Four copies, so that some are unloaded while others stay.
fn libraries_come_and_go_under(profile: &str) {
    let program = Program::new("threads_plugins.c");
    let copies = ["a.so", "b.so", "c.so", "d.so"].map(|name| {
        let flags = ["-shared", "-fPIC"];
        real::compile("c/threads_plugin.c", program.folder(), name, &flags).display().to_string()
    });
    let args = copies.each_ref().map(String::as_str);
    program.prints(profile, &args, 0, "every library came and went\n");
}

#[test]
fn libraries_that_allocate_come_and_go_under_default() {
    libraries_come_and_go_under("default");
}

#[test]
fn libraries_that_allocate_come_and_go_under_strict() {
    libraries_come_and_go_under("strict");
}

#[test]
fn libraries_that_allocate_come_and_go_under_fast() {
    libraries_come_and_go_under("fast");
}

/// Repeated, because the threads that still run are somewhere else each time.
fn handlers_may_allocate_while_the_process_ends_under(profile: &str) {
    let program = Program::new("threads_at_exit.c");
    for _ in 0..50 {
        program.prints(
            profile,
            &[],
            9,
            "atexit, first to run\natexit, registered by a handler\non_exit\n\
             atexit, last to run\ndestructor\n",
        );
    }
}

#[test]
fn handlers_may_allocate_while_the_process_ends_under_default() {
    handlers_may_allocate_while_the_process_ends_under("default");
}

#[test]
fn handlers_may_allocate_while_the_process_ends_under_strict() {
    handlers_may_allocate_while_the_process_ends_under("strict");
}

#[test]
fn handlers_may_allocate_while_the_process_ends_under_fast() {
    handlers_may_allocate_while_the_process_ends_under("fast");
}
