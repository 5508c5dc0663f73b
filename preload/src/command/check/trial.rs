//! What one try of an attack knows, and what it tells the process that judges it.

use std::io::Write;

/// An attack, or its correct twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// With the bug
    Bug,
    /// The same without it
    Twin,
}

/// One try.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    pub side: Side,
    /// The how-manieth it is.
    pub number: u32,
}

/// Exit status of an attack that was not stopped, whose bug showed no effect, and that could not be tried.
pub const MISSED: i32 = 5;
pub const MOOT: i32 = 3;
pub const GAVE_UP: i32 = 64;

/// What is said on standard output before and after the bug.
pub const AT_THE_BUG: &str = "at the bug";
pub const PAST_THE_BUG: &str = "past the bug";

impl Trial {
    pub fn is_bug(self) -> bool {
        self.side == Side::Bug
    }

    /// Commits a bug that must be stopped while it is committed; the twin goes on.
    pub fn stopped_while(self, bug: impl FnOnce()) {
        if self.is_bug() {
            say(AT_THE_BUG);
            bug();
            say(PAST_THE_BUG);
            exit(MISSED);
        }
    }

    /// Commits a bug that may go unnoticed until later.
    pub fn commit(self, bug: impl FnOnce()) {
        if self.is_bug() {
            say(AT_THE_BUG);
            bug();
            say(PAST_THE_BUG);
        }
    }

    /// Reads for an attack what the program must not look at; the twin does not.
    pub fn spy<T>(self, look: impl FnOnce() -> T) -> Option<T> {
        self.is_bug().then(|| {
            say(AT_THE_BUG);
            look()
        })
    }

    /// What has to notice is over: the bug was missed.
    pub fn must_be_over(self) {
        if self.is_bug() {
            exit(MISSED);
        }
    }

    /// Claims something that the attack itself looks at.
    pub fn claim(self, holds: bool) {
        if !holds {
            exit(MISSED);
        }
    }
}

/// One line for the judge, written at once and without allocating.
pub fn say(text: &str) {
    let mut line = [0_u8; 120];
    let mut rest = &mut line[..];
    let _ = writeln!(rest, "{text}");
    let left = rest.len();
    let length = line.len() - left;
    // SAFETY: the buffer is valid for `length` bytes.
    unsafe { libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), length) };
}

/// Ends here: without exit handlers, so that an audit at exit cannot make up for a check that came too late.
pub fn exit(status: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(status) }
}

/// The attack could have no effect in this try.
pub fn moot() -> ! {
    exit(MOOT)
}

/// The attack cannot be tried at all.
pub fn give_up(why: &str) -> ! {
    say(why);
    exit(GAVE_UP)
}

/// Allocates and frees a few chunks, so that no two tries begin alike.
pub fn settle(trial: Trial, size: usize) {
    use super::calls::{free, malloc};
    let chunks: Vec<usize> = (0..3 + trial.number % 20).map(|_| malloc(size)).collect();
    for chunk in chunks.into_iter().step_by(2) {
        free(chunk);
    }
}
