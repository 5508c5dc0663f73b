//! Runs the attacks of `tests/c` under the library and holds how they ended against the claim.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use super::{Profile, brief, compile, preloaded};

/// Sizes of chunks that share slabs with others.
pub const SMALL: &[usize] = &[8, 16, 24, 40, 100, 1000, 1024, 4096, 20_000];
/// Sizes from 256 KiB up, for which other promises hold.
pub const LARGE: &[usize] = &[262_144, 300_000];
/// All of them, and one that may be either.
pub const ALL: &[usize] = &[8, 16, 24, 40, 100, 1000, 1024, 4096, 20_000, 100_000, 262_144, 300_000];

/// How often every attack is tried at each size: executions, and repetitions in each. The keys of a
/// process last for a whole execution, so one is not enough.
const ATTACKS: (u32, u32) = (5, 20);
/// Of what no chance decides, neither where a chunk lies nor which keys there are.
const CERTAIN: (u32, u32) = (2, 5);
/// Programs that look at something themselves look at many chunks each time.
const OBSERVATIONS: (u32, u32) = (5, 4);
const TWINS: (u32, u32) = (2, 5);
/// A repetition in which the bug could have no effect proves nothing. One in so many may be such.
const MOOT_AT_MOST_ONE_IN: usize = 10;

/// How every repetition has to end.
#[derive(Clone, Copy, Debug)]
pub enum Must {
    /// By SIGABRT, after a report that begins with one of these.
    Abort(&'static [&'static str]),
    /// By SIGSEGV in the instruction that does the wrong.
    Fault,
    /// By either. A fault at the access is never too early.
    AbortOrFault(&'static [&'static str]),
    /// As if nothing were wrong: what is claimed, the program looks at itself.
    Pass,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exit(i32),
    Signal(i32),
}

/// What the driver says of one child.
#[derive(Debug)]
pub struct Child {
    pub size: usize,
    pub ended: Ended,
    /// Whether the bug lay ahead, was being committed, or lay behind.
    pub phase: String,
    /// The address of the chunk that the attack was on.
    pub subject: u64,
    pub value: u64,
    pub first_line: String,
}

/// Exit statuses of `driver.c`.
const MOOT: i32 = 3;
const BROKEN: i32 = 4;
const MISSED: i32 = 5;

const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;

impl Child {
    fn from_line(line: &str) -> Self {
        let mut words = line.splitn(7, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("the driver said {line:?}"));
        let number = |text: &str| -> u64 {
            let text = text.trim_start_matches("0x");
            u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("the driver said {line:?}"))
        };
        let decimal = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("the driver said {line:?}"));
        let size = decimal(word());
        let how = word();
        let code = decimal(word());
        let code = i32::try_from(code).expect("a small number");
        Child {
            size: usize::try_from(size).expect("a size"),
            ended: if how == "signal" { Ended::Signal(code) } else { Ended::Exit(code) },
            phase: word().to_owned(),
            subject: number(word()),
            value: decimal(word()),
            first_line: word().to_owned(),
        }
    }

    fn reported(&self, what: &[&str]) -> bool {
        self.ended == Ended::Signal(SIGABRT)
            && self.phase != "before"
            && what.iter().any(|what| {
                self.first_line
                    .strip_prefix("testudo: ")
                    .and_then(|rest| rest.strip_prefix(what))
                    .is_some_and(|rest| rest.starts_with(" at 0x"))
            })
    }

    fn faulted(&self) -> bool {
        self.ended == Ended::Signal(SIGSEGV) && self.phase == "at"
    }

    fn moot(&self) -> bool {
        self.ended == Ended::Exit(MOOT)
    }

    fn ended_as(&self, must: Must) -> bool {
        match must {
            Must::Abort(what) => self.reported(what),
            Must::Fault => self.faulted(),
            Must::AbortOrFault(what) => self.reported(what) || self.faulted(),
            Must::Pass => self.ended == Ended::Exit(0) && self.first_line.is_empty(),
        }
    }

    fn in_words(&self) -> String {
        let how = match self.ended {
            Ended::Exit(0) => "ran to its end".to_owned(),
            Ended::Exit(BROKEN) => "saw what must never be".to_owned(),
            Ended::Exit(MISSED) => "was not stopped".to_owned(),
            Ended::Exit(MOOT) => "could do no harm".to_owned(),
            Ended::Exit(status) => format!("ended with status {status}"),
            Ended::Signal(14) => "hung".to_owned(),
            Ended::Signal(signal) => format!("died of signal {signal}"),
        };
        format!("{how} ({} the bug), saying {:?}", self.phase, self.first_line)
    }
}

/// An attack or its twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Bug,
    Twin,
}

/// Runs one side of an attack of `source` once for each repetition and size.
///
/// # Panics
/// When the driver itself fails.
pub fn children(
    source: &str,
    attack: &str,
    side: Side,
    profile: Profile,
    (executions, repetitions): (u32, u32),
    sizes: &[usize],
) -> Vec<Child> {
    let program = compile::program(&[source, "driver.c"]);
    (0..executions)
        .flat_map(|seed| {
            let output = command(&program, attack, side, profile)
                .args([seed.to_string(), repetitions.to_string()])
                .args(sizes.iter().map(ToString::to_string))
                .output()
                .expect("the driver runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && said.is_empty(),
                "the driver of {attack} ended with {}: {said}",
                output.status
            );
            text.lines().map(Child::from_line).collect::<Vec<_>>()
        })
        .collect()
}

fn command(program: &Path, attack: &str, side: Side, profile: Profile) -> Command {
    let mut command = preloaded(program, profile);
    command.arg(attack).arg(if side == Side::Bug { "bug" } else { "twin" });
    command
}

/// Claims that every repetition of an attack, at each of `sizes`, ends as it must.
///
/// # Panics
/// When one does not, with the first few that did not and how to see one by hand.
pub fn claim(source: &str, attack: &str, profile: Profile, expected: &[(&[usize], Must)]) {
    claim_often(source, attack, profile, expected, ATTACKS);
}

/// The same for an attack in which no chance decides.
///
/// # Panics
/// As [`claim`].
pub fn claim_certain(source: &str, attack: &str, profile: Profile, expected: &[(&[usize], Must)]) {
    claim_often(source, attack, profile, expected, CERTAIN);
}

/// The same for a program that looks at something itself.
///
/// # Panics
/// As [`claim`].
pub fn claim_observed(source: &str, attack: &str, profile: Profile, expected: &[(&[usize], Must)]) {
    claim_often(source, attack, profile, expected, OBSERVATIONS);
}

/// Executions and repetitions in this run.
fn so_often((executions, repetitions): (u32, u32)) -> (u32, u32) {
    if brief() { (1, repetitions.min(10)) } else { (executions, repetitions) }
}

fn claim_often(source: &str, attack: &str, profile: Profile, expected: &[(&[usize], Must)], often: (u32, u32)) {
    for &(sizes, must) in expected {
        let all = children(source, attack, Side::Bug, profile, so_often(often), sizes);
        judge(source, attack, Side::Bug, profile, must, &all);
    }
}

/// Claims that an attack's twin, which is right, runs to its end without a word.
///
/// # Panics
/// When it does not.
pub fn claim_twin(source: &str, attack: &str, profile: Profile, expected: &[(&[usize], Must)]) {
    for &(sizes, _) in expected {
        let all = children(source, attack, Side::Twin, profile, so_often(TWINS), sizes);
        judge(source, attack, Side::Twin, profile, Must::Pass, &all);
    }
}

fn judge(source: &str, attack: &str, side: Side, profile: Profile, must: Must, all: &[Child]) {
    let mut sizes: Vec<usize> = all.iter().map(|child| child.size).collect();
    sizes.dedup();
    sizes.sort_unstable();
    sizes.dedup();
    let mut complaint = String::new();
    for size in sizes {
        let of_size: Vec<&Child> = all.iter().filter(|child| child.size == size).collect();
        let wrong: Vec<&&Child> = of_size.iter().filter(|child| !child.moot() && !child.ended_as(must)).collect();
        let moot = of_size.iter().filter(|child| child.moot()).count();
        if wrong.is_empty() && moot * MOOT_AT_MOST_ONE_IN <= of_size.len() {
            continue;
        }
        let _ = writeln!(
            complaint,
            "  {size} bytes: {} of {} not as it must be, {moot} proved nothing",
            wrong.len(),
            of_size.len()
        );
        for child in wrong.iter().take(2) {
            let _ = writeln!(complaint, "    it {}", child.in_words());
        }
    }
    assert!(
        complaint.is_empty(),
        "{attack} ({side:?}) of {source} in {profile:?} must end by {must:?}:\n{complaint}  \
         by hand: {:?} --once {attack} {} 1 SIZE",
        compile::program(&[source, "driver.c"]),
        if side == Side::Bug { "bug" } else { "twin" },
    );
}

/// Declares the claims of one attack program. Each entry becomes a module with one test for each
/// profile it holds in and one for the attack's correct twin:
///
/// `name: "attack", both, [sizes => must, …];` with `both`, or `strict` where only that profile
/// promises it, or `certain` for both where no chance decides, or `observed` for programs that look
/// at something themselves and have no twin; `fuzz`, `fuzz_certain` and `fuzz_observed` are the same for that profile.
macro_rules! claims {
    (of $source:literal; $($name:ident: $attack:literal, $where:ident, [$($sizes:expr => $must:expr),+];)+) => {
        $(mod $name {
            use super::*;
            const EXPECTED: &[(&[usize], Must)] = &[$(($sizes, $must)),+];
            claims!(@$where $source, $attack);
        })+
    };
    (@both $source:literal, $attack:literal) => {
        claims!(@test default_stops_it, claim, Default, $source, $attack);
        claims!(@test strict_stops_it, claim, Strict, $source, $attack);
        claims!(@test the_correct_twin_runs_in_default, claim_twin, Default, $source, $attack);
        claims!(@test the_correct_twin_runs_in_strict, claim_twin, Strict, $source, $attack);
    };
    (@certain $source:literal, $attack:literal) => {
        claims!(@test default_stops_it, claim_certain, Default, $source, $attack);
        claims!(@test strict_stops_it, claim_certain, Strict, $source, $attack);
        claims!(@test the_correct_twin_runs_in_default, claim_twin, Default, $source, $attack);
        claims!(@test the_correct_twin_runs_in_strict, claim_twin, Strict, $source, $attack);
    };
    (@strict $source:literal, $attack:literal) => {
        claims!(@test strict_stops_it, claim, Strict, $source, $attack);
        claims!(@test the_correct_twin_runs_in_strict, claim_twin, Strict, $source, $attack);
    };
    (@fuzz $source:literal, $attack:literal) => {
        claims!(@test fuzz_stops_it, claim, Fuzz, $source, $attack);
        claims!(@test the_correct_twin_runs_in_fuzz, claim_twin, Fuzz, $source, $attack);
    };
    (@fuzz_certain $source:literal, $attack:literal) => {
        claims!(@test fuzz_stops_it, claim_certain, Fuzz, $source, $attack);
        claims!(@test the_correct_twin_runs_in_fuzz, claim_twin, Fuzz, $source, $attack);
    };
    (@fuzz_observed $source:literal, $attack:literal) => {
        claims!(@test holds_in_fuzz, claim_observed, Fuzz, $source, $attack);
    };
    (@observed $source:literal, $attack:literal) => {
        claims!(@test holds_in_default, claim_observed, Default, $source, $attack);
        claims!(@test holds_in_strict, claim_observed, Strict, $source, $attack);
    };
    (@test $name:ident, $claim:ident, $profile:ident, $source:literal, $attack:literal) => {
        #[test]
        fn $name() {
            $crate::support::attack::$claim(
                $source,
                $attack,
                $crate::support::Profile::$profile,
                EXPECTED,
            );
        }
    };
}
pub(crate) use claims;
