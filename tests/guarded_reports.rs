//! What a report says about guarded chunks: where the access lay, who allocated and who freed; and that the program's own
//! handling of SIGSEGV stays what it was.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use real::Ended;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIGSEGV: i32 = 11;
const SIGABRT: i32 = 6;

/// The two ways to compile: with frame pointers, and as most programs are.
const WAYS: [&[&str]; 2] = [&["-O1", "-fno-omit-frame-pointer"], &["-O2", "-fomit-frame-pointer"]];

fn program(folder: &Path, flags: &[&str]) -> PathBuf {
    real::compile(
        "c/stacks.c",
        folder,
        "stacks",
        &[flags, &["-Wno-use-after-free", "-Wno-free-nonheap-object"]].concat(),
    )
}

fn run(program: &Path, folder: &Path, options: &str, what: &str, size: usize) -> Ended {
    real::to_the_end(real::command(program, folder, Some(options)).args([what, &size.to_string()]))
}

/// Runs a bug until its chunk lies at the end of its slot, as seven in eight do.
fn faulting(program: &Path, folder: &Path, what: &str, size: usize) -> Ended {
    (0..50)
        .map(|_| run(program, folder, "profile=fuzz", what, size))
        .find(|ended| ended.status.signal() == Some(SIGSEGV))
        .expect("it faults in seven of eight runs")
}

/// The functions of the program in one stack of a report, which begins behind a line with `title`; innermost first.
fn functions(ended: &Ended, program: &Path, title: &str) -> Vec<String> {
    let text = ended.err();
    let mut lines = text.lines().skip_while(|line| !line.contains(title));
    assert!(lines.next().is_some(), "no {title:?} in {ended:?}");
    lines
        .take_while(|line| line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('(')?.1.strip_suffix(')')?.rsplit_once('+'))
        .filter(|(module, _)| Path::new(module) == program)
        .map(|(module, offset)| {
            let output = Command::new("addr2line").args(["-f", "-e", module, offset]).output().expect("addr2line runs");
            String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
        })
        .collect()
}

/// The names that the report itself gives to the functions of one stack.
fn named(ended: &Ended, title: &str) -> Vec<String> {
    let text = ended.err();
    let lines = text.lines().skip_while(|line| !line.contains(title)).skip(1);
    lines
        .take_while(|line| line.trim_start().starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace().skip(2);
            let name = words.next().filter(|word| !word.starts_with('(')).and_then(|word| word.rsplit_once("+0x"));
            name.map_or("", |(name, _)| name).to_owned()
        })
        .collect()
}

fn begins(found: &[String], expected: &[&str]) {
    assert!(
        found.len() >= expected.len() && found.iter().zip(expected).all(|(a, b)| a == b),
        "{found:?}, {expected:?}"
    );
}

fn first_line(ended: &Ended) -> String {
    ended.err().lines().next().unwrap_or_default().to_owned()
}

#[test]
fn stacks_name_the_functions_with_and_without_frame_pointers() {
    if !real::installed(&["gcc", "addr2line"]) {
        return;
    }
    for flags in WAYS {
        let folder = real::folder();
        let program = program(folder.path(), flags);
        let over = faulting(&program, folder.path(), "overflow", 24);
        begins(&functions(&over, &program, "found here"), &["function_that_writes", "function_between", "main"]);
        begins(&functions(&over, &program, "allocated by"), &["function_that_allocates", "main"]);

        let after = run(&program, folder.path(), "profile=fuzz", "freed-write", 100);
        begins(&functions(&after, &program, "found here"), &["function_that_writes", "function_between", "main"]);
        begins(&functions(&after, &program, "freed by"), &["function_that_frees", "main"]);
        begins(&functions(&after, &program, "allocated by"), &["function_that_allocates", "main"]);

        let twice = run(&program, folder.path(), "profile=fuzz", "freed-freed", 100);
        assert_eq!(twice.status.signal(), Some(SIGABRT), "{twice:?}");
        begins(&functions(&twice, &program, "found here"), &["function_that_frees", "main"]);
        begins(&functions(&twice, &program, "freed by"), &["function_that_frees", "main"]);
    }
}

#[test]
fn a_report_has_the_stack_of_what_found_it_without_guarded_slots_too() {
    if !real::installed(&["gcc", "addr2line"]) {
        return;
    }
    let folder = real::folder();
    let program = program(folder.path(), WAYS[1]);
    for options in ["profile=default:sample_rate=0", "profile=strict:sample_rate=0"] {
        let twice = run(&program, folder.path(), options, "freed-freed", 100);
        begins(&functions(&twice, &program, "found here"), &["function_that_frees", "main"]);
    }
}

#[test]
fn a_fault_says_where_it_lay_and_whether_it_read_or_wrote() {
    let folder = real::folder();
    let program = program(folder.path(), WAYS[1]);
    for (what, size, begins, place) in [
        ("overflow", 24, "testudo: buffer overflow by a write at 0x", "0 bytes right of the 24-byte chunk"),
        ("overread", 100, "testudo: buffer overflow by a read at 0x", "3 bytes right of the 100-byte chunk"),
        ("overflow", 300_000, "testudo: buffer overflow by a write at 0x", "0 bytes right of the 300000-byte chunk"),
        ("underflow", 24, "testudo: buffer underflow by a read at 0x", " bytes left of the 24-byte chunk"),
        ("freed-read", 24, "testudo: read after free at 0x", "5 bytes inside the 24-byte chunk"),
        ("freed-read", 300_000, "testudo: read after free at 0x", "5 bytes inside the 300000-byte chunk"),
        ("freed-write", 5000, "testudo: write after free at 0x", "0 bytes inside the 5000-byte chunk"),
        ("overflow", 0, "testudo: write to a zero-sized chunk at 0x", ""),
    ] {
        let ended = faulting(&program, folder.path(), what, size);
        let line = first_line(&ended);
        assert!(line.starts_with(begins), "{what}: {ended:?}");
        assert!(line.ends_with(&format!("({size}-byte malloc chunk)")), "{what}: {ended:?}");
        assert!(ended.err().contains(place), "{what}: {ended:?}");
    }
}

#[test]
fn stacks_name_the_functions_where_the_file_does() {
    let folder = real::folder();
    for way in WAYS {
        let program = program(folder.path(), way);
        let ended = faulting(&program, folder.path(), "freed-write", 24);
        begins(&named(&ended, "found here"), &["function_that_writes", "function_between", "main"]);
        begins(&named(&ended, "freed by"), &["function_that_frees", "main"]);
        begins(&named(&ended, "allocated by"), &["function_that_allocates", "main"]);
    }
}

#[test]
fn stacks_of_a_stripped_program_name_libraries_functions_and_the_programs_by_offset() {
    if !real::installed(&["gcc", "addr2line"]) {
        return;
    }
    let folder = real::folder();
    let program = program(folder.path(), &[WAYS[1], &["-s"]].concat());
    let ended = faulting(&program, folder.path(), "freed-write", 24);
    let names = named(&ended, "allocated by");
    assert!(names.starts_with(&[String::new(), String::new()]), "{names:?}");
    assert!(names.iter().any(|name| name == "__libc_start_main"), "{names:?}");
    assert!(!functions(&ended, &program, "allocated by").is_empty(), "{ended:?}");
}

#[test]
fn the_handler_runs_on_an_alternate_stack() {
    let folder = real::folder();
    let program = program(folder.path(), WAYS[1]);
    let ended = faulting(&program, folder.path(), "alternate-overflow", 24);
    assert!(first_line(&ended).starts_with("testudo: buffer overflow by a write at 0x"), "{ended:?}");
    begins(&functions(&ended, &program, "found here"), &["function_that_writes", "function_between", "main"]);
}

#[test]
fn a_handler_that_was_there_first_runs_after_the_report() {
    let folder = real::folder();
    let program = program(folder.path(), WAYS[0]);
    let ended = run(&program, folder.path(), "profile=fuzz", "early-freed-read", 24);
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    let text = ended.err();
    assert!(text.starts_with("testudo: read after free at 0x"), "{ended:?}");
    assert!(text.ends_with("\nthe program's handler ran\n"), "{ended:?}");
}

#[test]
fn a_handler_that_comes_later_is_the_only_one() {
    let folder = real::folder();
    let program = program(folder.path(), WAYS[0]);
    let ended = run(&program, folder.path(), "profile=fuzz", "late-freed-read", 24);
    assert_eq!((ended.status.code(), ended.err().as_str()), (Some(7), "the program's handler ran\n"), "{ended:?}");
}

/// A fuzzer's runtime that found testudo's handler in place has installed none for faults, but saves the input at an abort.
#[test]
fn where_a_program_handles_aborts_and_no_faults_an_explained_fault_is_one() {
    let folder = real::folder();
    let program = program(folder.path(), WAYS[0]);
    let ended = run(&program, folder.path(), "profile=fuzz", "saving-freed-read", 24);
    assert_eq!(ended.status.code(), Some(6), "{ended:?}");
    let text = ended.err();
    assert!(text.starts_with("testudo: read after free at 0x"), "{ended:?}");
    assert!(text.ends_with("\nthe input is saved\n"), "{ended:?}");
    let ended = run(&program, folder.path(), "profile=fuzz", "freed-read", 24);
    assert_eq!(ended.status.signal(), Some(SIGSEGV), "{ended:?}");
}

#[test]
fn faults_that_are_not_the_heaps_end_the_program_as_ever() {
    let folder = real::folder();
    let program = program(folder.path(), WAYS[0]);
    for what in ["nowhere", "sent"] {
        let ended = run(&program, folder.path(), "profile=fuzz", what, 24);
        assert_eq!(ended.status.signal(), Some(SIGSEGV), "{what}: {ended:?}");
        assert_eq!(ended.err(), "", "{what}");
    }
}

/// One allocation in N is guarded, so a use after free is seen in about one process in N.
#[test]
fn sampling_finds_a_use_after_free_about_as_often_as_it_says() {
    let folder = real::folder();
    let program = program(folder.path(), WAYS[0]);
    for (rate, runs) in [(2_u32, 200_u32), (10, 400)] {
        let options = format!("profile=default:sample_rate={rate}");
        let found = (0..runs)
            .filter(|_| run(&program, folder.path(), &options, "freed-read", 200).status.signal() == Some(SIGSEGV))
            .count();
        let expected = (runs / rate) as usize;
        // More than six standard deviations either way.
        assert!(found > expected / 4 && found < expected * 2, "one in {rate}: {found} of {runs}");
    }
}

#[test]
fn the_leak_report_groups_live_chunks_by_the_calls_that_allocated_them() {
    if !real::installed(&["gcc", "addr2line"]) {
        return;
    }
    let folder = real::folder();
    let program = program(folder.path(), WAYS[1]);
    // A size that no library has a chunk of.
    let ended = run(&program, folder.path(), "profile=fuzz:leak_report=1", "leak", 2345);
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.err().contains("testudo: at exit ") && ended.err().contains(" guarded chunks of "), "{ended:?}");
    // The three of the loop, and the one before it, which another call allocated.
    let group = "300 bytes in 3 chunks, allocated here:";
    begins(&functions(&ended, &program, group), &["function_that_allocates", "main"]);
    begins(&functions(&ended, &program, "  2345 bytes in 1 chunks"), &["function_that_allocates", "main"]);
    let nothing = run(&program, folder.path(), "profile=fuzz", "leak", 24);
    assert_eq!(nothing.err(), "");
}

/// Programs have had alternate stacks of 8 KiB (SIGSTKSZ) for decades, of which the kernel takes 3.3 KiB for a frame with AVX-512.
#[test]
fn handlers_are_content_with_an_alternate_stack_of_8_kib() {
    const LEFT: usize = 8192 - 3400;
    let folder = real::folder();
    let program = real::compile("c/alternate_stack.c", folder.path(), "program", &["-Wno-use-after-free"]);
    // With a profile that is written, and with one that cannot be: then the handler says why.
    for (profile, written) in [("default", true), ("fuzz", true), ("default", false)] {
        let wherever = if written { folder.path().to_path_buf() } else { folder.path().join("none") };
        let options = format!(
            "profile={profile}:heap_profile_kb=16:heap_profile_signal=12:heap_profile_path={}/profile:report_path={}/report",
            wherever.display(),
            folder.path().display()
        );
        let ended = real::to_the_end(&mut real::command(&program, folder.path(), Some(&options)));
        assert!(ended.status.success(), "{ended:?}");
        // Both did what they are there for.
        let lines = ended.err();
        let mut lines = lines.lines();
        if !written {
            let why = lines.next().unwrap_or_default();
            assert!(
                why.starts_with("testudo: the heap profile cannot be written: there is no such folder"),
                "{ended:?}"
            );
        }
        assert!(lines.next().unwrap_or_default().starts_with("testudo: write after free at 0x"), "{ended:?}");
        assert_eq!(wherever.join("profile").is_file(), written, "{ended:?}");
        assert!(folder.path().join("report").is_file(), "{ended:?}");
        let text = ended.out();
        let used = |what: &str| {
            let number =
                text.lines().find_map(|line| line.strip_prefix(what)).and_then(|line| line.trim().parse().ok());
            number.unwrap_or_else(|| panic!("no {what}: {ended:?}"))
        };
        let frame: usize = used("nothing");
        for what in ["profile", "fault"] {
            let own = used(what) - frame;
            assert!(own <= LEFT, "{what}: {own} bytes of {LEFT}, in profile {profile}");
        }
    }
}
