//! The example that parses untrusted files: it works, and memory bombs do not end it.

mod support;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Builds the example and returns its path.
fn example() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| support::root().join("target"), PathBuf::from);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--example", "untrusted_input"])
        .current_dir(support::root())
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the example does not build");
    target.join("release/examples/untrusted_input")
}

#[test]
#[expect(clippy::zombie_processes, reason = "wait4 waits for it, and says how much memory it took")]
fn memory_bombs_are_refused_and_the_files_after_them_are_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = [
        ("good", "3 ha\n1 bye\n2 ha\n"),
        ("bomb", "999999999999 boom\n"),
        ("slow_bomb", "100000 boom\n4000000 boom\n"),
        ("nonsense", "1 fine\nha 3\n"),
        ("good_again", "300000 ha\n"),
    ];
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents).expect("a file is written");
    }
    let mut child = Command::new(example())
        .current_dir(folder.path())
        .args(files.map(|(name, _)| name))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example runs");
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
    let mut status = 0;
    // SAFETY: zeroes are a valid rusage; the child is ours, and nobody else waits for it.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert!(libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) > 0);
        usage
    };
    assert_eq!(status, 0, "{said}");
    assert_eq!(
        said,
        "good: 19 bytes, 2 different lines\n\
         bomb: refused: it unpacks to more than a file may take\n\
         slow_bomb: refused: it unpacks to more than a file may take\n\
         nonsense: refused: line 2 is not a count and a text\n\
         good_again: 900000 bytes, 1 different lines\n"
    );
    // KiB: one file's limit, and what a small process takes.
    assert!(usage.ru_maxrss < 48 << 10, "{} KiB resident at most", usage.ru_maxrss);
}
