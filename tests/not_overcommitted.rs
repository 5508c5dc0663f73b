//! What testudo does where the system promises no more memory than there is (`vm.overcommit_memory` is 2).
//!
//! That is set for the whole machine, so this is a test binary of its own: whatever ran beside it would be refused memory
//! too.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use std::fs;

/// A file of the system's that holds something else until this is dropped.
struct Setting {
    file: &'static str,
    before: String,
}

impl Setting {
    /// `None` where this may not be set.
    fn set(file: &'static str, value: &str) -> Option<Self> {
        let before = fs::read_to_string(file).ok()?;
        fs::write(file, value).ok()?;
        Some(Self { file, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.file, &self.before) {
            eprintln!("{} could not be set back to {}: {error}", self.file, self.before);
        }
    }
}

/// For a moment only, and with four times the machine's memory to promise: what else runs there should not notice.
#[test]
fn where_memory_is_not_overcommitted_programs_work_and_too_much_is_refused() {
    let ratio = Setting::set("/proc/sys/vm/overcommit_ratio", "400");
    let mode = ratio.as_ref().and_then(|_| Setting::set("/proc/sys/vm/overcommit_memory", "2"));
    if mode.is_none() {
        return real::say_skipped("the system's overcommit mode may not be set");
    }
    for profile in ["profile=default", "profile=strict", "profile=fast"] {
        real::keeps_the_limit("c/limit_commit.c", &[], profile, |command| command);
    }
}
