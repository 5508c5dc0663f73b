//! How well an attacker can foretell where chunks come to lie, measured by being that attacker: what most often followed
//! in half of the processes is the guess for the other half.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::peers::Allocator;
use crate::places::Places;

/// Size of the chunks, chunks in a row, freed slots awaited: of one process.
const SIZE: usize = 48;
const CHUNKS: usize = 4096;
const LOOPS: usize = 4096;

/// `NOBODY` of programs/place.c.
const NOBODY: i64 = i64::MIN;

/// A question that an attacker asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Where does the next chunk lie, the last ones known?
    Next,
    /// The how-many-eth allocation from a chunk's own lies directly after it?
    After,
    /// After how many allocations is a freed slot handed out again?
    Return,
}

/// The answer, in bits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Bits {
    /// -log2 of the share of right guesses.
    pub guess: f64,
    /// Whether there was no right guess at all, so that `guess` is only what so many tries can show.
    pub at_least: bool,
    /// Shannon entropy of what was seen, given what the attacker knew.
    pub shannon: f64,
}

impl std::fmt::Display for Bits {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}{:.2} ({:.1})", if self.at_least { "≥ " } else { "" }, self.guess.abs(), self.shannon.abs())
    }
}

/// What was seen in one process: for each question pairs of what the attacker knew and what came.
#[derive(Clone, Debug, Default)]
struct Seen {
    next: Vec<(i64, i64)>,
    after: Vec<(i64, i64)>,
    returns: Vec<(i64, i64)>,
}

/// Everything that was seen under one allocator in one kind of heap.
pub struct Sample(Vec<Seen>);

impl Sample {
    /// Runs so many processes. In an aged heap many chunks of the same size came and half of them went before.
    pub fn take(places: &Places, allocator: &Allocator, processes: usize, aged: bool) -> Result<Self, String> {
        (0..processes).map(|_| observe(places, allocator, aged)).collect::<Result<_, _>>().map(Self)
    }

    /// What an attacker lacks.
    pub fn bits(&self, question: Question) -> Bits {
        let pairs = |which: usize| {
            let halves = self.0.iter().enumerate().filter(move |(number, _)| which > 1 || number % 2 == which);
            halves.flat_map(move |(_, seen)| match question {
                Question::Next => seen.next.iter().copied(),
                Question::After => seen.after.iter().copied(),
                Question::Return => seen.returns.iter().copied(),
            })
        };
        bits(pairs(0), pairs(1), pairs(2))
    }
}

/// Learns from the first, tries on the second; the entropy is of all.
fn bits(
    learn: impl Iterator<Item = (i64, i64)>,
    test: impl Iterator<Item = (i64, i64)>,
    all: impl Iterator<Item = (i64, i64)>,
) -> Bits {
    let learned = count(learn);
    let guesses: HashMap<i64, i64> = learned
        .iter()
        .filter_map(|(known, outcomes)| {
            // Ties go to the smaller one, so that the same samples give the same figure.
            let possible = outcomes.iter().filter(|(outcome, _)| **outcome != NOBODY);
            let best = possible.max_by_key(|(outcome, times)| (**times, -**outcome))?;
            Some((*known, *best.0))
        })
        .collect();
    let (mut right, mut tries) = (0_u64, 0_u64);
    for (known, outcome) in test {
        tries += 1;
        right += u64::from(guesses.get(&known) == Some(&outcome));
    }
    let mut total = 0;
    let mut sum = 0.0;
    for outcomes in count(all).values() {
        let here: u64 = outcomes.values().sum();
        total += here;
        sum -= outcomes.values().map(|times| *times as f64 * (*times as f64 / here as f64).log2()).sum::<f64>();
    }
    Bits {
        guess: (tries.max(1) as f64 / right.max(1) as f64).log2(),
        at_least: right == 0,
        shannon: sum / total.max(1) as f64,
    }
}

fn count(pairs: impl Iterator<Item = (i64, i64)>) -> HashMap<i64, HashMap<i64, u64>> {
    let mut counts: HashMap<i64, HashMap<i64, u64>> = HashMap::new();
    for (known, outcome) in pairs {
        *counts.entry(known).or_default().entry(outcome).or_default() += 1;
    }
    counts
}

fn observe(places: &Places, allocator: &Allocator, aged: bool) -> Result<Seen, String> {
    let mut command = Command::new(places.program("place"));
    command
        .args([SIZE, CHUNKS, LOOPS, usize::from(aged)].map(|number| number.to_string()))
        .env_clear()
        .stdin(Stdio::null())
        .envs(allocator.library.iter().map(|library| ("LD_PRELOAD", library)))
        .envs(allocator.variable.iter().map(|(name, value)| (*name, value)));
    let output = command.output().map_err(|error| error.to_string())?;
    let numbers: Vec<i64> =
        output.stdout.chunks_exact(8).filter_map(|bytes| Some(i64::from_le_bytes(bytes.try_into().ok()?))).collect();
    let told = numbers.split_first().and_then(|(stride, rest)| {
        let (steps, rest) = rest.split_at_checked(CHUNKS - 1)?;
        Some((*stride, steps, rest.split_at_checked(CHUNKS)?))
    });
    let (Some((stride, steps, (after, returns))), true) = (told, output.status.success()) else {
        return Err(format!("{}: {}", allocator.name, String::from_utf8_lossy(&output.stderr)));
    };
    Ok(Seen {
        next: with_what_was_known(stride, steps),
        after: after.iter().map(|offset| (0, *offset)).collect(),
        returns: returns.iter().map(|delay| (0, *delay)).collect(),
    })
}

/// Each step with what the last ones tell: the last step, if it was a short one, and how often it had come in a row,
/// which tells how far a run or a group has got.
fn with_what_was_known(stride: i64, steps: &[i64]) -> Vec<(i64, i64)> {
    const SHORT: i64 = 4;
    const LONGEST: i64 = 64;
    let mut repeated = 0;
    let mut before_last = None;
    steps
        .windows(2)
        .map(|pair| {
            let (last, next) = (pair[0], pair[1]);
            repeated = if before_last == Some(last) { (repeated + 1).min(LONGEST) } else { 0 };
            before_last = Some(last);
            ((last / stride).clamp(-SHORT - 1, SHORT + 1) * 1000 + repeated, next)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{NOBODY, bits, with_what_was_known};

    fn of(outcomes: &[i64]) -> super::Bits {
        let pairs = || outcomes.iter().map(|outcome| (0, *outcome));
        bits(pairs(), pairs(), pairs())
    }

    #[test]
    fn what_always_happens_takes_no_bits_and_four_equal_chances_take_two() {
        assert_eq!((of(&[5; 100]).guess, of(&[5; 100]).shannon), (0.0, 0.0));
        let four = of(&[1, 2, 3, 4].repeat(100));
        assert!((four.guess - 2.0).abs() < 1e-9 && (four.shannon - 2.0).abs() < 1e-9, "{four:?}");
    }

    #[test]
    fn guessing_that_nobody_lies_there_is_no_success() {
        let mostly_nobody = [NOBODY, NOBODY, NOBODY, 1];
        assert!((of(&mostly_nobody).guess - 2.0).abs() < 1e-9);
    }

    #[test]
    fn what_never_happened_before_is_not_guessed() {
        let all = || [(0, 1), (0, 2)].into_iter();
        let found = bits([(0, 1)].into_iter(), [(0, 2)].into_iter(), all());
        assert!(found.at_least);
    }

    #[test]
    fn the_length_of_runs_is_learned() {
        // Runs of four neighbours, each begun somewhere else.
        let steps: Vec<i64> = (0..4000).map(|step| if step % 4 == 3 { 1000 + step } else { 16 }).collect();
        let known = with_what_was_known(16, &steps);
        let found = bits(known.iter().copied(), known.iter().copied(), known.iter().copied());
        // Three of four are foreseen, and which three.
        assert!((found.guess - (4.0_f64 / 3.0).log2()).abs() < 0.01, "{found:?}");
        let third = known.iter().zip(&steps[1..]).filter(|((known, _), _)| *known == 1002);
        assert!(third.clone().count() > 900 && third.clone().all(|(_, step)| *step != 16));
    }
}
