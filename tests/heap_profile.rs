//! Heap profiles say what was allocated where, in proportion; readers of other projects open them; and a chunk that is recorded is
//! checked like any other.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use real::Ended;
use std::alloc::Layout;
use testudo::{Heap, HeapProfileError, Kind, Options};

const SIGABRT: i32 = 6;

fn program(folder: &Path) -> PathBuf {
    let flags = ["-O1", "-g", "-pthread", "-Wno-use-after-free", "-Wno-array-bounds"];
    real::compile("c/heap_profile.c", folder, "heap_profile", &flags)
}

fn run(program: &Path, folder: &Path, options: &str, arguments: &[&str]) -> Ended {
    real::to_the_end(real::command(program, folder, Some(options)).args(arguments))
}

/// Runs `testudo heap-profile`; returns what it prints.
fn convert(profile: &Path, arguments: &[&str]) -> String {
    let command = support::libtestudo().with_file_name("testudo");
    let output =
        Command::new(command).arg("heap-profile").arg(profile).args(arguments).output().expect("the command runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What each function holds that calls the allocator itself, by the folded stacks.
fn held(profile: &Path, value: &str) -> HashMap<String, f64> {
    let mut held = HashMap::new();
    for line in convert(profile, &["--folded", "-", "--value", value]).lines() {
        let (stack, amount) = line.rsplit_once(' ').expect("a stack and an amount");
        assert!(stack.contains("main;"), "{line}");
        let innermost = stack.rsplit(';').next().unwrap_or_default();
        *held.entry(innermost.to_owned()).or_default() += amount.parse::<f64>().expect("a number");
    }
    held
}

/// Holds an estimate against the truth. With at least 1,200 samples, as here, the chance that a correct one is off by a fifth is
/// below 10^-11.
fn near(held: &HashMap<String, f64>, function: &str, expected: f64) {
    let found = held.get(function).copied().unwrap_or_default();
    assert!((found / expected - 1.0).abs() < 0.2, "{function}: {found}, not {expected}, in {held:?}");
}

/// The process's profile, taken at exit.
fn at_exit(folder: &Path, profile: &str, interval: u32, arguments: &[&str]) -> PathBuf {
    let file = folder.join("profile");
    let options = format!(
        "{profile}heap_profile_kb={interval}:heap_profile_at_exit=1:heap_profile_path={}",
        file.to_str().expect("text")
    );
    let ended = run(&program(folder), folder, &options, arguments);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    file
}

#[test]
fn a_profile_at_exit_tells_what_is_live_and_what_was_allocated_where() {
    for profile in ["", "profile=strict:", "profile=fast:", "profile=fuzz:guarded_slots=64:fill_pattern=0:"] {
        let folder = real::folder();
        let file = at_exit(folder.path(), profile, 16, &["run", "check"]);
        let live = held(&file, "inuse_space");
        near(&live, "keeps_small", 40e6);
        near(&live, "keeps_large", 20.0 * 1048576.0);
        near(&live, "keeps_aligned", 20e6);
        assert!(!live.contains_key("drops_all") && !live.contains_key("resizes"), "{live:?}");
        near(&held(&file, "inuse_objects"), "keeps_small", 400e3);
        let allocated = held(&file, "alloc_space");
        near(&allocated, "drops_all", 80e6);
        near(&allocated, "keeps_small", 40e6);
        near(&held(&file, "alloc_objects"), "drops_all", 800e3);
    }
}

#[test]
fn what_was_given_back_is_not_live() {
    let folder = real::folder();
    let file = at_exit(folder.path(), "", 16, &["run", "released", "check"]);
    // What the C library itself holds may be among the samples.
    let live = held(&file, "inuse_space");
    assert!(live.keys().all(|function| !function.starts_with("keeps")), "{live:?}");
    near(&held(&file, "alloc_space"), "keeps_small", 40e6);
}

#[test]
fn a_c_function_writes_it_on_demand_and_a_second_file_beside_the_first() {
    let folder = real::folder();
    let program = program(folder.path());
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let [one, two] = [&first, &second].map(|path| path.to_str().expect("text"));
    let ended = run(&program, folder.path(), "heap_profile_kb=32", &["run", one, "released", two]);
    assert!(ended.status.success(), "{ended:?}");
    near(&held(&first, "inuse_space"), "keeps_small", 40e6);
    assert!(!held(&second, "inuse_space").contains_key("keeps_small"));
}

#[test]
fn without_an_interval_nothing_is_recorded_and_the_function_says_so() {
    let folder = real::folder();
    let file = folder.path().join("profile");
    let ended = run(&program(folder.path()), folder.path(), "profile=default", &["run", file.to_str().expect("text")]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.err().contains("not supported") && !file.exists(), "{ended:?}");
}

#[test]
fn a_profile_that_cannot_be_written_at_exit_is_named_with_the_reason() {
    let folder = real::folder();
    let options = "heap_profile_kb=512:heap_profile_at_exit=1:heap_profile_path=/no/such/folder/%p";
    let ended = run(&program(folder.path()), folder.path(), options, &["run"]);
    let line = "testudo: the heap profile cannot be written: there is no such folder: /no/such/folder/%p\n";
    assert_eq!((ended.status.success(), ended.err().as_str()), (true, line), "{ended:?}");
}

#[test]
fn a_signal_has_it_written_whatever_threads_are_about() {
    let folder = real::folder();
    let path = folder.path().join("%p-%n");
    // An interval so short that threads are in the middle of recording most of the time.
    let options = format!("heap_profile_kb=1:heap_profile_signal=12:heap_profile_path={}", path.display());
    let ended = run(&program(folder.path()), folder.path(), &options, &["signals"]);
    assert!(ended.status.success(), "{ended:?}");
    let mut files = 0;
    for file in fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("an entry").path()) {
        if file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains('-')) {
            files += 1;
            assert!(convert(&file, &["--folded", "-"]).lines().count() < 10_000, "a whole profile");
        }
    }
    assert!(files > 10, "{files} profiles for 201 signals");
}

#[test]
fn a_signal_that_is_answered_by_no_profile_is_answered_by_a_line() {
    let folder = real::folder();
    let program = program(folder.path());
    let ask = |path: &str| {
        let options = format!("heap_profile_kb=512:heap_profile_signal=12:heap_profile_path={path}");
        let ended = run(&program, folder.path(), &options, &["asks"]);
        assert!(ended.status.success(), "{ended:?}");
        ended.err()
    };
    let line = "testudo: the heap profile cannot be written: there is no such folder: /no/such/folder/%p-%n\n";
    assert_eq!(ask("/no/such/folder/%p-%n"), line.repeat(2));
    assert_eq!(ask(folder.path().join("profile").to_str().expect("text")), "");
}

#[test]
fn the_line_that_nobody_reads_does_not_end_the_program() {
    let folder = real::folder();
    let program = program(folder.path());
    let options = "heap_profile_kb=512:heap_profile_signal=12:heap_profile_path=/no/such/folder/profile";
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = real::command(&program, folder.path(), Some(options));
    command.arg("asks").stdout(std::process::Stdio::null()).stderr(writer);
    let status = real::end_of(real::start(&mut command), &command);
    assert!(status.success(), "{status}");
}

/// Runs a script in which `"$0"` is the command, with little memory, lest something takes all there is; returns the one line
/// that the command says when it refuses.
fn refused(script: &str, status: i32) -> String {
    let command = support::libtestudo().with_file_name("testudo");
    let folder = real::folder();
    let bash = real::find("bash").expect("every system has bash");
    let script = format!("ulimit -v 2000000; {script}");
    let ended = real::to_the_end(real::command(&bash, folder.path(), None).args(["-c", &script]).arg(command));
    let said = ended.err();
    assert_eq!((ended.status.code(), ended.out().as_str()), (Some(status), ""), "{ended:?}");
    assert!(said.starts_with("testudo: ") && said.lines().count() == 1, "{ended:?}");
    said
}

#[test]
fn a_file_that_has_no_end_is_refused() {
    for device in ["/dev/zero", "/dev/full"] {
        let said = refused(&format!("\"$0\" heap-profile {device}"), 1);
        assert_eq!(said, format!("testudo: {device}: this is no heap profile of testudo\n"));
    }
    let said = refused("(echo 'testudo heap profile 1'; yes) | \"$0\" heap-profile /dev/stdin", 1);
    assert!(said.contains("no heap profile of testudo is longer than"), "{said}");
}

#[test]
fn two_formats_are_not_written_to_one_place() {
    for (place, named) in [("-", "standard output"), ("both", "both")] {
        let said = refused(&format!("\"$0\" heap-profile /nowhere --pprof {place} --folded {place}"), 2);
        assert_eq!(said, format!("testudo: --pprof and --folded cannot both go to {named}\n"));
    }
}

#[test]
fn pprof_opens_it_and_counts_the_same() {
    if !real::installed(&["go"]) {
        return;
    }
    let folder = real::folder();
    let file = at_exit(folder.path(), "", 64, &["run"]);
    let packed = folder.path().join("profile.pb.gz");
    convert(&file, &["--pprof", packed.to_str().expect("text")]);
    for (value, function) in [("inuse_space", "keeps_small"), ("alloc_space", "drops_all")] {
        let output = Command::new("go")
            .args(["tool", "pprof", "-top", "-unit=B", &format!("-sample_index={value}")])
            .arg(&packed)
            .env("HOME", folder.path())
            .output()
            .expect("go runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let row = text.lines().find(|line| line.trim_end().ends_with(function)).unwrap_or_else(|| panic!("{text}"));
        let amount = row.split_whitespace().next().and_then(|word| word.strip_suffix('B')).expect("bytes");
        let amount: f64 = amount.parse().expect("a number");
        let expected = held(&file, value)[function];
        assert!((amount - expected).abs() < 1000.0, "{amount}, not {expected}: {text}");
    }
    // Lines of the source, too.
    let output = Command::new("go")
        .args(["tool", "pprof", "-list=keeps_small"])
        .arg(&packed)
        .env("HOME", folder.path())
        .output()
        .expect("go runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("small[i] = malloc(50 + i % 3 * 50);"), "{text}");
}

#[test]
fn a_recorded_chunk_is_checked_like_any_other() {
    let folder = real::folder();
    let program = program(folder.path());
    for profile in ["default", "strict", "fast"] {
        let options = format!("profile={profile}:sample_rate=0:heap_profile_kb=1");
        let twice = run(&program, folder.path(), &options, &["twice"]);
        assert_eq!(twice.status.signal(), Some(SIGABRT), "{profile}: {twice:?}");
        assert!(twice.err().starts_with("testudo: double free"), "{profile}: {twice:?}");
        if profile != "fast" {
            let overflow = run(&program, folder.path(), &options, &["overflow"]);
            assert_eq!(overflow.status.signal(), Some(SIGABRT), "{profile}: {overflow:?}");
            assert!(overflow.err().starts_with("testudo: buffer overflow"), "{profile}: {overflow:?}");
        }
    }
}

/// A private heap in which every chunk of more than a few KiB is recorded.
fn recording() -> Heap {
    Heap::new(Options { heap_profile_kb: 1, sample_rate: 0, ..Options::STRICT }).expect("a heap")
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

#[test]
fn recorded_chunks_keep_every_promise_of_a_private_heap() {
    let heap = recording();
    // 64 KiB are 64 intervals: the chance that one goes unrecorded is 10^-28.
    let chunks: Vec<_> = (0..50).map(|_| heap.allocate(layout(65_000)).expect("memory")).collect();
    let exact = heap.check_stats().expect("nothing is wrong");
    assert_eq!((exact.chunks, exact.allocated), (50, 50 * 65_000));
    for &chunk in &chunks {
        assert_eq!(heap.size_of(chunk), Ok(65_000));
        // SAFETY: mistakes that the heap finds; nothing is given back.
        unsafe {
            assert_eq!(heap.deallocate(chunk, layout(64_999)).expect_err("found").kind, Kind::WrongSize);
            let inside = chunk.add(16);
            assert_eq!(heap.deallocate(inside, layout(64_984)).expect_err("found").kind, Kind::NotAChunk);
        }
    }
    assert_eq!(recorded(&heap), 50);
    // SAFETY: a live chunk; the byte behind it is the mistake.
    unsafe {
        let behind = chunks[0].add(65_000);
        let canary = behind.read_volatile();
        behind.write_volatile(!canary);
        assert_eq!(heap.check().expect_err("found").kind, Kind::Overflow);
        behind.write_volatile(canary);
    }
    for &chunk in &chunks[1..] {
        // SAFETY: a live chunk, given back once rightly and once wrongly.
        unsafe {
            let shorter = heap.reallocate(chunk, layout(65_000), 64_990).expect("room in its slot");
            assert_eq!(shorter, chunk);
            heap.deallocate(chunk, layout(64_990)).expect("a correct free");
            assert_eq!(heap.deallocate(chunk, layout(64_990)).expect_err("found").what(), "double free");
        }
    }
    assert_eq!(recorded(&heap), 1);
}

/// How many live chunks the heap's profile has.
fn recorded(heap: &Heap) -> u64 {
    let folder = real::folder();
    let file = folder.path().join("profile");
    let path = std::ffi::CString::new(file.to_str().expect("text")).expect("no zero");
    heap.write_heap_profile(&path).expect("written");
    let text = fs::read_to_string(&file).expect("a file");
    let lines = text.lines().skip_while(|line| *line != "samples").skip(1).take_while(|line| *line != "mappings");
    lines
        .map(|line| {
            let numbers: Vec<u64> = line.split(' ').take(5).map(|word| word.parse().expect("a number")).collect();
            numbers[1] - numbers[3]
        })
        .sum()
}

/// In slots, aligned in slots, in mappings, and guarded; in the slot that a freed one comes back to, too.
#[test]
fn chunks_of_every_kind_are_recorded_until_they_are_given_back() {
    const COUNT: u64 = 20;
    for (sample_rate, size, align) in [(0, 65_000, 16), (0, 60_000, 4096), (0, 300_000, 16), (1, 65_000, 16)] {
        let heap = Heap::new(Options { heap_profile_kb: 1, sample_rate, ..Options::STRICT }).expect("a heap");
        let layout = Layout::from_size_align(size, align).expect("a layout");
        for _ in 0..3 {
            let chunks: Vec<_> = (0..COUNT).map(|_| heap.allocate(layout).expect("memory")).collect();
            assert_eq!(recorded(&heap), COUNT, "{layout:?}");
            for chunk in chunks {
                // SAFETY: a live chunk of this layout, not used again.
                unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
            }
            assert_eq!(recorded(&heap), 0, "{layout:?}");
        }
    }
}

#[test]
fn a_large_chunk_that_grows_is_recorded_once_where_it_is_now() {
    let heap = recording();
    let chunk = heap.allocate(layout(300_000)).expect("memory");
    // SAFETY: a live chunk each time, whose old address is forgotten.
    unsafe {
        let grown = heap.reallocate(chunk, layout(300_000), 3_000_000).expect("memory");
        assert_eq!(recorded(&heap), 1);
        let shrunk = heap.reallocate(grown, layout(3_000_000), 400_000).expect("memory");
        assert_eq!(recorded(&heap), 1);
        heap.deallocate(shrunk, layout(400_000)).expect("a correct free");
    }
    assert_eq!(recorded(&heap), 0);
}

#[test]
fn a_profile_that_cannot_be_written_is_an_error() {
    let heap = recording();
    assert_eq!(heap.write_heap_profile(c"/nowhere/at/all"), Err(HeapProfileError::File(libc::ENOENT)));
    let folder = real::folder();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path().join("victim"), &link).expect("a link");
    let path = std::ffi::CString::new(link.to_str().expect("text")).expect("no zero");
    assert_eq!(heap.write_heap_profile(&path), Err(HeapProfileError::File(libc::ELOOP)));
    assert_eq!(Heap::new(Options::DEFAULT).expect("a heap").write_heap_profile(&path), Err(HeapProfileError::Off));
}
