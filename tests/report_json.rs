//! `report_path` appends a report that other programs can read, one line each, and nothing when there is none.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use support::compile;

/// Runs the program with a bug; returns the signal that ended it, and its number.
fn commit(bug: &str, report_path: &str, folder: &Path) -> (Option<i32>, u32) {
    let program = compile::program(&["report_json.c"]);
    let options = format!("report_path={report_path}");
    let mut command = real::command(&program, folder, Some(&options));
    let mut child = command.arg(bug).stderr(Stdio::null()).spawn().expect("the program starts");
    (child.wait().expect("it ends").signal(), child.id())
}

/// Asks `jq`, a reader that knows nothing of us.
fn ask(file: &Path, query: &str) -> Vec<String> {
    let output = Command::new("jq").args(["-c", query]).arg(file).output().expect("jq runs");
    assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn every_report_is_one_line_that_the_schema_describes() {
    if !real::installed(&["jq"]) {
        return;
    }
    let folder = real::folder();
    let file = folder.path().join("reports.jsonl");
    let path = file.to_str().expect("text");
    let mut processes = Vec::new();
    for bug in ["double free", "overflow", "invalid free"] {
        let (signal, process) = commit(bug, path, folder.path());
        assert_eq!(signal, Some(libc::SIGABRT), "{bug}");
        processes.push(process.to_string());
    }
    assert_eq!(commit("none", path, folder.path()).0, None);
    assert_eq!(fs::read_to_string(&file).expect("the file is there").lines().count(), 3);
    assert_eq!(ask(&file, ".what"), [r#""double free""#, r#""buffer overflow""#, r#""invalid free""#]);
    assert_eq!(ask(&file, ".kind"), [r#""double_free""#, r#""overflow""#, r#""not_a_chunk""#]);
    assert_eq!(ask(&file, ".process"), processes);
    assert_eq!(
        ask(&file, "select(.kind == \"overflow\") | .chunk, .offset"),
        [r#"{"size":20,"origin":"malloc"}"#, "20"]
    );
    // Every field that there is stands in the schema, and every one that must be there is.
    let schema = support::root().join("docs/report.schema.json");
    for (of_schema, of_report) in
        [(".properties | keys[]", "keys - $known | .[]"), (".required[]", "$known - keys | .[]")]
    {
        let known = format!("[{}]", ask(&schema, of_schema).join(","));
        assert_eq!(ask(&file, &of_report.replace("$known", &known)), Vec::<String>::new(), "{of_schema}");
    }
    for (field, place) in [("kind", ".properties.kind.enum"), ("operation", ".properties.operation.enum")] {
        let known = ask(&schema, place).concat();
        assert_eq!(ask(&file, &format!("select([.{field}] - {known} != [])")), Vec::<String>::new(), "{field}");
    }
    let mode = fs::metadata(&file).expect("the file is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "readable by its owner only");
}

#[test]
fn the_calls_are_in_the_line() {
    if !real::installed(&["jq", "addr2line"]) {
        return;
    }
    let folder = real::folder();
    let file = folder.path().join("reports.jsonl");
    let program = real::compile("c/stacks.c", folder.path(), "stacks", &["-O1", "-Wno-use-after-free"]);
    let options = format!("profile=fuzz:report_path={}", file.display());
    let ended = real::to_the_end(real::command(&program, folder.path(), Some(&options)).args(["freed-freed", "100"]));
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
    for (place, expected) in [
        (".stack", "function_that_frees"),
        (".freed.stack", "function_that_frees"),
        (".allocated.stack", "function_that_allocates"),
    ] {
        let [offset] = &ask(&file, &format!("{place}[0].offset"))[..] else { panic!("{place}") };
        let output = Command::new("addr2line")
            .args(["-f", "-e"])
            .arg(&program)
            .arg(offset.trim_matches('"'))
            .output()
            .expect("runs");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(expected), "{place}: {output:?}");
    }
    assert_eq!(ask(&file, ".allocated.thread == .process"), ["true"]);
}

#[test]
fn the_report_is_where_crash_collectors_look() {
    if !real::installed(&["gdb"]) || !real::may_trace() {
        return;
    }
    let folder = real::folder();
    let program = compile::program(&["report_json.c"]);
    for (bug, says) in [("double free", "testudo: double free at 0x"), ("overflow", "testudo: buffer overflow at 0x")] {
        let mut command = Command::new("gdb");
        command
            .args(["-batch", "-nx", "-ex"])
            .arg(format!("set environment LD_PRELOAD {}", support::libtestudo().display()))
            .args(["-ex", "run", "-ex", "x/s *(char **)&__abort_msg + 4", "--args"])
            .arg(&program)
            .arg(bug)
            .env("HOME", folder.path())
            .env_remove("TESTUDO_OPTIONS");
        let ended = real::to_the_end(&mut command);
        let shown = ended.out();
        let line = shown.lines().find(|line| line.contains("0x") && line.contains(":\t\""));
        assert!(line.is_some_and(|line| line.contains(says)), "{ended:?}");
    }
}

#[test]
fn the_process_number_can_be_in_the_name() {
    let folder = real::folder();
    let path = format!("{}/report-%p.json", folder.path().display());
    let (_, process) = commit("double free", &path, folder.path());
    assert!(folder.path().join(format!("report-{process}.json")).is_file());
}

#[test]
fn a_file_that_cannot_be_written_keeps_no_process_alive() {
    let folder = real::folder();
    let link = folder.path().join("link");
    let victim = folder.path().join("victim");
    symlink(&victim, &link).expect("a link");
    for path in [link.to_str().expect("text"), "/nowhere/at/all", "/proc/version"] {
        assert_eq!(commit("double free", path, folder.path()).0, Some(libc::SIGABRT), "{path}");
    }
    assert!(!victim.exists(), "links are not followed");
}

#[test]
fn a_file_that_cannot_be_written_is_named_with_the_reason_after_the_report() {
    let folder = real::folder();
    let program = compile::program(&["report_json.c"]);
    for (path, why) in [("/nowhere/at/%p", "there is no such folder"), ("/dev/full", "no space is left on the device")]
    {
        let options = format!("report_path={path}");
        let ended = real::to_the_end(real::command(&program, folder.path(), Some(&options)).arg("double free"));
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
        let said = ended.err();
        assert!(said.starts_with("testudo: double free at 0x") && said.contains("\n  found here:\n"), "{ended:?}");
        let line = format!("\ntestudo: the report cannot be appended to the file: {why}: {path}\n");
        assert!(said.ends_with(&line), "{ended:?}");
    }
    // Where there is no report, none is missed.
    let mut command = real::command(&program, folder.path(), Some("report_path=/nowhere/at/all"));
    assert_eq!(real::to_the_end(command.arg("none")).err(), "");
}

#[test]
fn a_name_that_cannot_be_is_refused_before_the_program_begins() {
    let folder = real::folder();
    for wrong in ["relative", "", "/with:colon"] {
        assert_eq!(commit("double free", wrong, folder.path()).0, None, "{wrong}");
    }
}
