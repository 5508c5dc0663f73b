//! `testudo run` is the program: it ends as it does, and explains what was found. Its signals are in `command_signals.rs`.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

fn command() -> PathBuf {
    support::libtestudo().with_file_name("testudo")
}

fn testudo(args: &[&str]) -> real::Ended {
    let folder = real::folder();
    real::to_the_end(real::command(&command(), folder.path(), None).args(args))
}

/// A C program of a few lines, compiled.
fn program(source: &str, flags: &[&str]) -> (TempDir, PathBuf) {
    let folder = real::folder();
    let file = folder.path().join("program.c");
    fs::write(&file, source).expect("a source is written");
    let product = folder.path().join("program");
    let ended = real::to_the_end(
        Command::new("gcc").args(["-O0", "-g", "-w", "-fno-builtin"]).arg(&file).arg("-o").arg(&product).args(flags),
    );
    assert!(ended.status.success(), "{ended:?}");
    (folder, product)
}

const OVERFLOW: &str = "#include <stdlib.h>
int main(void) { char *p = malloc(10); p[10] = 1; free(p); return 0; }";
const NOTHING: &str = "int main(void) { return 0; }";

fn run(program: &Path, args: &[&str]) -> real::Ended {
    let program = program.to_str().expect("a path of text");
    testudo(&[&["run"], args, &["--", program]].concat())
}

#[test]
fn a_violation_is_explained_after_the_report() {
    let (_folder, program) = program(OVERFLOW, &[]);
    let ended = run(&program, &[]);
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
    let text = ended.err();
    let report = text.find("testudo: buffer overflow at 0x").unwrap_or_else(|| panic!("{text}"));
    let explanation = text.find("testudo run: program wrote past the end").unwrap_or_else(|| panic!("{text}"));
    assert!(report < explanation, "{text}");
    assert!(text.contains("Look for:") && text.contains("See where:"), "{text}");
}

#[test]
fn a_violation_in_a_child_of_the_program_is_explained_too() {
    let (_folder, program) = program(OVERFLOW, &[]);
    let script = format!("{}; {}; exit 3", program.display(), program.display());
    let ended = testudo(&["run", "--", "bash", "-c", &script]);
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    // It was not bash that was stopped.
    let text = ended.err();
    let explained = text.lines().find(|line| line.starts_with("testudo run: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(explained.starts_with("testudo run: program (process "), "{text}");
    assert!(explained.contains(", started by bash) wrote past the end"), "{text}");
    assert!(text.contains("1 more process was stopped"), "{text}");
}

#[test]
fn a_violation_is_explained_when_the_program_closed_every_descriptor() {
    let source = OVERFLOW.replace("{ char", "{ for (int i = 3; i < 1000; i++) close(i); char");
    let (_folder, program) = program(&source, &[]);
    assert!(run(&program, &[]).err().contains("testudo run: program wrote past the end"));
}

#[test]
fn a_mismatch_is_explained_with_the_option_that_lets_it_pass() {
    let source = "#include <stdlib.h>
void _ZdlPv(void *);
int main(void) { _ZdlPv(malloc(10)); return 0; }";
    let (_folder, program) = program(source, &["-lstdc++"]);
    let ended = run(&program, &[]);
    assert!(ended.err().contains("-o mismatch=0"), "{ended:?}");
    let ended = run(&program, &["-o", "mismatch=0"]);
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_fault_is_explained_with_what_it_can_be() {
    let large = "#include <stdlib.h>
int main(void) { char *p = malloc(1 << 20); free(p); p[5000] = 1; return 0; }";
    let elsewhere = "int main(void) { *(volatile char *)8 = 1; return 0; }";
    for (source, said) in
        [(large, "wrote to a block of memory that it had given back"), (elsewhere, "can be any bad pointer")]
    {
        let (_folder, program) = program(source, &[]);
        let ended = run(&program, &[]);
        assert_eq!(ended.status.signal(), Some(libc::SIGSEGV), "{ended:?}");
        assert!(ended.err().contains(said), "{ended:?}");
    }
}

/// In `fuzz` a chunk whose size is a multiple of 4 alone is aligned to 4 alone, and compilers count on 16.
#[test]
#[cfg(target_arch = "x86_64")]
fn an_unaligned_vector_access_is_explained_with_the_option_that_aligns() {
    let source = "#include <emmintrin.h>
#include <stdlib.h>
int main(void) { _mm_store_si128(malloc(20), _mm_setzero_si128()); return 0; }";
    let (_folder, program) = program(source, &[]);
    let ended = run(&program, &["--profile", "fuzz"]);
    assert_eq!(ended.status.signal(), Some(libc::SIGSEGV), "{ended:?}");
    let text = ended.err();
    assert!(text.contains("unaligned vector access") && !text.contains("touched memory"), "{text}");
    assert!(text.contains("testudo run --profile fuzz -o guarded_align=16 -- "), "{text}");
    let ended = run(&program, &["--profile", "fuzz", "-o", "guarded_align=16"]);
    assert!(ended.status.success() && ended.err().is_empty(), "{ended:?}");
}

#[test]
fn a_signal_that_was_sent_is_not_explained_as_an_access() {
    let source = "#include <signal.h>
#include <stdlib.h>
int main(void) { free(malloc(10)); kill(getpid(), SIGSEGV); return 0; }";
    let (_folder, program) = program(source, &[]);
    for profile in ["default", "fuzz"] {
        let ended = run(&program, &["--profile", profile]);
        assert_eq!((ended.status.signal(), ended.err().as_str()), (Some(libc::SIGSEGV), ""), "{profile}: {ended:?}");
    }
    // Without guarded chunks the library has no handler, and nobody can tell.
    let ended = run(&program, &["-o", "sample_rate=0"]);
    assert_eq!(ended.status.signal(), Some(libc::SIGSEGV), "{ended:?}");
    let text = ended.err();
    assert!(text.contains("any bad pointer, or somebody sent that signal") && !text.contains("touched"), "{text}");
}

#[test]
fn nothing_is_explained_where_that_is_not_wanted() {
    let (_folder, program) = program(OVERFLOW, &[]);
    for how in ["--quiet", "--exec"] {
        let ended = run(&program, &[how]);
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
        assert!(ended.err().starts_with("testudo: buffer overflow at 0x"), "{ended:?}");
        assert!(!ended.err().contains("testudo run:"), "{how}: {ended:?}");
    }
}

#[test]
fn nothing_is_open_in_the_program_that_was_not_open_before() {
    let open = |prefix: &[&str]| {
        let words = [prefix, &["ls", "/proc/self/fd"]].concat();
        let folder = real::folder();
        let ended = real::to_the_end(real::command(Path::new("/usr/bin/env"), folder.path(), None).args(words));
        assert!(ended.status.success(), "{ended:?}");
        ended.out()
    };
    let command = command().display().to_string();
    assert_eq!(open(&[]), open(&[&command, "run", "--"]));
}

/// The one line of a refusal.
fn refused(ended: &real::Ended) -> String {
    assert_eq!(ended.status.code(), Some(126), "{ended:?}");
    assert_eq!(ended.out(), "", "{ended:?}");
    assert_eq!(ended.err().lines().count(), 1, "{ended:?}");
    ended.err()
}

#[test]
fn a_statically_linked_program_is_refused() {
    for flags in [&["-static"][..], &["-static-pie"]] {
        let (_folder, program) = program(NOTHING, flags);
        assert!(refused(&run(&program, &[])).contains("statically linked"));
    }
}

#[test]
fn a_script_is_judged_by_its_interpreter() {
    let (folder, program) = program(NOTHING, &["-static"]);
    let script = folder.path().join("script");
    let write = |text: &str| {
        let fresh = folder.path().join("fresh");
        fs::write(&fresh, text).expect("a script");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("permissions");
        real::copy(&fresh, &script);
    };
    for (interpreter, fine) in [(program.display().to_string(), false), ("/usr/bin/env bash".to_owned(), true)] {
        write(&format!("#! {interpreter}\n"));
        let ended = run(&script, &[]);
        if fine {
            assert!(ended.status.success(), "{ended:?}");
        } else {
            assert!(refused(&ended).contains("statically linked"));
        }
    }
    write("#!/no/such/interpreter\n");
    assert!(refused(&run(&script, &[])).contains("interpreter"));
}

#[test]
fn a_program_for_another_machine_is_refused() {
    let (_folder, program) = program(NOTHING, &[]);
    let mut bytes = fs::read(&program).expect("a program");
    bytes[18..20].copy_from_slice(&0x1234_u16.to_le_bytes());
    fs::write(&program, &bytes).expect("the program");
    assert!(refused(&run(&program, &[])).contains("another kind of processor"));
    bytes[4] = 1;
    fs::write(&program, &bytes).expect("the program");
    assert!(refused(&run(&program, &[])).contains("32-bit"));
}

#[test]
fn a_set_user_id_program_is_refused() {
    // SAFETY: reads a number.
    if unsafe { libc::geteuid() } != 0 {
        real::say_skipped("only root can make such a program");
        return;
    }
    let (_folder, program) = program(NOTHING, &[]);
    std::os::unix::fs::chown(&program, Some(65_534), Some(65_534)).expect("root may give files away");
    for (mode, said) in [(0o4755, "set-user-id"), (0o2755, "set-group-id")] {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("permissions");
        assert!(refused(&run(&program, &[])).contains(said));
    }
}

#[test]
fn a_library_of_another_version_is_refused() {
    let folder = real::folder();
    let copy = folder.path().join("testudo");
    real::copy(&command(), &copy);
    let source = folder.path().join("other.c");
    fs::write(&source, "const char *testudo_version(void) { return \"99.0.0\"; }").expect("a source");
    let library = folder.path().join("libtestudo.so");
    let ended = real::to_the_end(Command::new("gcc").args(["-shared", "-fPIC"]).arg(&source).arg("-o").arg(&library));
    assert!(ended.status.success(), "{ended:?}");
    let ended = real::to_the_end(real::command(&copy, folder.path(), None).args(["run", "--", "echo", "main ran"]));
    assert!(refused(&ended).contains("version 99.0.0"));
}

/// A folder with the command, and a library in another folder of which so many bytes are there.
fn cut_off(library: &Path, bytes: u64) -> TempDir {
    let folder = real::folder();
    real::copy(&command(), &folder.path().join("testudo"));
    let copy = folder.path().join(library);
    fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
    fs::copy(support::libtestudo(), &copy).expect("a copy");
    fs::OpenOptions::new().write(true).open(&copy).expect("the copy").set_len(bytes).expect("cut off");
    folder
}

#[test]
fn a_library_that_is_cut_off_is_refused_in_one_line() {
    let whole = fs::metadata(support::libtestudo()).expect("the library").len();
    for bytes in [0, 1, 63, 64, 100, 5000, whole / 4, whole / 2, whole - 4096, whole - 1] {
        let folder = cut_off(Path::new("libtestudo.so"), bytes);
        let mut command = real::command(&folder.path().join("testudo"), folder.path(), None);
        let said = refused(&real::to_the_end(command.args(["run", "--", "echo", "main ran"])));
        let reason = if bytes < 64 { "no shared library" } else { "cut off" };
        assert!(said.contains(reason) && said.contains("install it again"), "{bytes}: {said}");
    }
}

#[test]
fn a_damaged_library_that_the_loader_finds_by_name_is_refused_in_one_line() {
    let whole = fs::metadata(support::libtestudo()).expect("the library").len();
    for bytes in [whole / 4, whole / 2, whole - 1] {
        let folder = cut_off(Path::new("elsewhere/libtestudo.so"), bytes);
        let mut command = real::command(&folder.path().join("testudo"), folder.path(), None);
        command.env("LD_LIBRARY_PATH", folder.path().join("elsewhere"));
        let said = refused(&real::to_the_end(command.args(["run", "--", "echo", "main ran"])));
        assert!(said.contains("install it again"), "{bytes}: {said}");
    }
    // And a whole one is taken.
    let folder = cut_off(Path::new("elsewhere/libtestudo.so"), whole);
    let mut command = real::command(&folder.path().join("testudo"), folder.path(), None);
    command.env("LD_LIBRARY_PATH", folder.path().join("elsewhere"));
    let ended = real::to_the_end(command.args(["run", "--", "cat", "/proc/self/maps"]));
    assert!(ended.status.success() && ended.out().contains("elsewhere/libtestudo.so"), "{ended:?}");
}

#[test]
fn a_path_with_a_space_is_refused_because_the_loader_would_split_it() {
    let folder = real::folder();
    let inside = folder.path().join("a folder");
    fs::create_dir(&inside).expect("a folder");
    for name in ["testudo", "libtestudo.so"] {
        real::copy(&support::libtestudo().with_file_name(name), &inside.join(name));
    }
    let mut command = real::command(&inside.join("testudo"), folder.path(), None);
    assert!(refused(&real::to_the_end(command.args(["run", "--", "true"]))).contains("space"));
}
