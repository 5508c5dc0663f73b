//! Modules that are opened with `RTLD_DEEPBIND`, as PHP's extensions are, have the program's allocator.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use real::Ended;
use std::path::Path;
use std::process::Command;

const SAME: &str = "the program's malloc\nchunks were exchanged\n";

/// A program that opens `libdeep.so`, which lies where only the program's own `RUNPATH` says.
fn host(folder: &Path) -> Command {
    let modules = folder.join("modules");
    std::fs::create_dir(&modules).expect("a folder");
    real::compile("c/deep_module.c", &modules, "libdeep.so", &["-shared", "-fPIC"]);
    let flags = ["-Wl,--enable-new-dtags,-rpath,$ORIGIN/modules", "-ldl"];
    let mut command = Command::new(real::compile("c/deep_host.c", folder, "host", &flags));
    command.env_clear().current_dir("/").arg("libdeep.so");
    command
}

fn under_testudo(options: &str) -> Ended {
    let folder = real::folder();
    let mut command = host(folder.path());
    real::to_the_end(command.env("LD_PRELOAD", support::libtestudo()).env("TESTUDO_OPTIONS", options))
}

#[test]
fn a_module_that_is_bound_to_its_own_libraries_first_has_the_programs_allocator_and_is_found_where_its_caller_looks() {
    let folder = real::folder();
    let ended = real::to_the_end(&mut host(folder.path()));
    assert_eq!((ended.out().as_str(), ended.err()), (SAME, String::new()), "without testudo: {ended:?}");
    for profile in ["default", "strict", "fast", "fuzz"] {
        let ended = under_testudo(&format!("profile={profile}"));
        assert_eq!((ended.out().as_str(), ended.err()), (SAME, String::new()), "{profile}: {ended:?}");
        assert!(ended.status.success(), "{profile}: {ended:?}");
    }
}

#[test]
fn where_the_flag_is_left_to_it_such_a_module_has_the_c_librarys_allocator() {
    let ended = under_testudo("deepbind=1");
    assert_eq!((ended.out().as_str(), ended.err()), ("another malloc\n", String::new()), "{ended:?}");
    assert!(ended.status.success(), "{ended:?}");
}
