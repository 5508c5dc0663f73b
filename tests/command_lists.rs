//! Lists, completions and man pages: all made from the definitions that the program itself works from.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use std::fs;
use std::process::Command;

use testudo::Profile;
use testudo::options::TABLE;

fn testudo(args: &[&str]) -> real::Ended {
    let folder = real::folder();
    let command = support::libtestudo().with_file_name("testudo");
    let ended = real::to_the_end(real::command(&command, folder.path(), None).args(args));
    assert!(ended.status.success(), "{args:?}: {ended:?}");
    assert_eq!(ended.err(), "", "{args:?}");
    ended
}

/// Whether `filter` is true of what the command printed.
fn jq(args: &[&str], filter: &str) {
    if !real::installed(&["jq"]) {
        return;
    }
    let folder = real::folder();
    let file = folder.path().join("printed.json");
    fs::write(&file, testudo(args).stdout).expect("a file");
    let program = real::find("jq").expect("jq was looked for");
    let ended = real::to_the_end(Command::new(program).args(["-e", filter]).arg(&file));
    assert!(ended.status.success(), "{filter}: {ended:?}");
}

#[test]
fn options_lists_every_option_with_its_meaning() {
    let text = testudo(&["options"]).out();
    for row in TABLE {
        assert!(text.contains(row.name) && text.contains(row.help), "{}: {text}", row.name);
    }
    for (profile, _) in Profile::ALL {
        assert!(text.contains(profile), "{text}");
    }
}

#[test]
fn options_as_json_has_every_option() {
    jq(&["options", "--json"], &format!("length == {} and all(.[]; .name and .meaning and .values)", TABLE.len()));
}

#[test]
fn the_readme_lists_the_options_as_they_are() {
    let readme = fs::read_to_string(support::root().join("README.md")).expect("the README");
    let table = testudo(&["options", "--markdown"]).out();
    assert!(
        readme.contains(&table),
        "the README's list of options is not this one, from `testudo options --markdown`:\n{table}"
    );
}

#[test]
fn version_says_what_a_bug_report_needs() {
    let text = testudo(&["version"]).out();
    for part in
        [env!("CARGO_PKG_VERSION"), "libtestudo.so", "Linux ", "CRC32", "vm.max_map_count", "overcommit", "huge pages"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    jq(
        &["version", "--json"],
        &format!(
            ".command == \"{}\" and .library_version == .command and .max_map_count > 1000",
            env!("CARGO_PKG_VERSION")
        ),
    );
}

#[test]
fn completions_know_every_subcommand_and_are_right_for_their_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = testudo(&["completions", shell]).out();
        for word in ["run", "check", "heap-profile", "options", "version", "install", "strict"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let folder = real::folder();
    let file = folder.path().join("completion");
    fs::write(&file, testudo(&["completions", "bash"]).stdout).expect("a file");
    // `testudo ch` is completed to `check`.
    let script = format!(
        "source {} && COMP_WORDS=(testudo ch) COMP_CWORD=1 && _testudo testudo ch testudo && echo \"${{COMPREPLY[*]}}\"",
        file.display()
    );
    let ended = real::to_the_end(Command::new("/bin/bash").args(["-c", &script]));
    assert_eq!(ended.out(), "check\n", "{ended:?}");
}

#[test]
fn man_pages_are_made_for_every_subcommand_and_for_the_library() {
    let folder = real::folder();
    testudo(&["generate", folder.path().to_str().expect("text")]);
    let page = |name: &str| fs::read_to_string(folder.path().join("man").join(name)).expect("a man page");
    let subcommands = ["run", "check", "heap-profile", "options", "version", "completions", "install"];
    let pages = subcommands.map(|name| format!("testudo-{name}"));
    for name in pages.iter().map(String::as_str).chain(["testudo"]) {
        let text = page(&format!("{name}.1"));
        assert!(text.contains(".TH") && text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{name}: {text}");
        // Where the options and the library's functions stand, which none of these pages has.
        let (_, also) = text.split_once(".SH \"SEE ALSO\"").unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(also.contains("libtestudo") && text.contains(env!("CARGO_PKG_VERSION")), "{name}: {text}");
    }
    let library = page("libtestudo.7");
    for row in TABLE {
        let help = row.help.replace('-', "\\-");
        assert!(library.contains(row.name) && library.contains(&help), "{}: {library}", row.name);
    }
    // Every function that the header declares.
    let header = fs::read_to_string(support::root().join("preload/include/testudo.h")).expect("the header");
    let functions: Vec<&str> = header
        .lines()
        .filter(|line| line.ends_with(");") && !line.starts_with([' ', '/']))
        .filter_map(|line| line.split('(').next()?.rsplit([' ', '*']).next())
        .collect();
    assert!(functions.len() >= 8, "{functions:?}");
    for function in functions {
        assert!(library.contains(function), "{function}: {library}");
    }
    assert!(!folder.path().join("man/testudo-attack.1").exists(), "a hidden subcommand has a page");
}

#[test]
fn a_wrong_command_line_is_answered_with_status_2() {
    let folder = real::folder();
    let command = support::libtestudo().with_file_name("testudo");
    for args in [&["rum"][..], &["run"], &["check", "--profile", "none"], &["check", "--repeat", "0"]] {
        let ended = real::to_the_end(real::command(&command, folder.path(), None).args(args));
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {ended:?}");
    }
}

/// A list that is not there must not look like one that was printed.
#[test]
fn what_cannot_be_printed_is_an_error_in_one_line() {
    let folder = real::folder();
    let command = support::libtestudo().with_file_name("testudo");
    let lists: [&[&str]; 7] = [
        &["options"],
        &["options", "--json"],
        &["version"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
        &["check", "--profile", "fast"],
    ];
    for args in lists {
        let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let mut command = real::command(&command, folder.path(), None);
        let output = command.args(args).stdout(full).output().expect("the command runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("testudo: standard output: No space left") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let folder = real::folder();
    let command = support::libtestudo().with_file_name("testudo");
    for args in [&["options"][..], &["--help"], &["check", "--profile", "fast"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = real::command(&command, folder.path(), None);
        let output = command.args(args).stdout(writer).output().expect("the command runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}
