//! Unpacks files that nobody vouches for, each in a heap of its own with limits, and survives memory bombs.
//!
//! ```sh
//! printf '3 ha\n1 bye\n' > packed
//! cargo run --example untrusted_input -- packed
//! ```
//!
//! A line of a packed file is a count and a text, and stands for so many lines of that text. So a line of a few bytes
//! can ask for any amount of memory. What is unpacked lives in a private heap: when its limit is reached, unpacking
//! ends with an error, the heap is dropped with everything in it, and the next file gets a fresh one.

use allocator_api2::collections::TryReserveError;
use allocator_api2::vec::Vec as HeapVec;
use hashbrown::HashMap;
use std::fmt;
use std::hash::RandomState;
use testudo::{Heap, Options};

/// What one file may take.
const LIMITS: Options = Options { heap_limit_mb: 16, max_alloc_mb: 8, ..Options::DEFAULT };

fn main() {
    for path in std::env::args_os().skip(1) {
        let outcome = std::fs::read(&path).map_err(|error| error.to_string()).and_then(|packed| {
            let heap = Heap::new(LIMITS).map_err(|error| error.to_string())?;
            let found = summary(&heap, &packed).map_err(|refused| refused.to_string());
            // The parser may have been tricked into writing where it should not: then its answer is worth nothing.
            heap.check().map_err(|violation| violation.to_string())?;
            found
        });
        match outcome {
            Ok(found) => println!("{}: {found}", path.display()),
            Err(why) => println!("{}: refused: {why}", path.display()),
        }
    }
}

/// Why a file was not unpacked.
#[derive(Debug)]
enum Refused {
    /// The line with this number is not a count and a text.
    Malformed(usize),
    /// It wants more memory than a file may have.
    TooLarge,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(line) => write!(out, "line {line} is not a count and a text"),
            Self::TooLarge => out.write_str("it unpacks to more than a file may take"),
        }
    }
}

impl From<TryReserveError> for Refused {
    fn from(_: TryReserveError) -> Self {
        Self::TooLarge
    }
}

impl From<hashbrown::TryReserveError> for Refused {
    fn from(_: hashbrown::TryReserveError) -> Self {
        Self::TooLarge
    }
}

/// Unpacks a file and says what is in it.
fn summary(heap: &Heap, packed: &[u8]) -> Result<String, Refused> {
    let text = unpack(heap, packed)?;
    let mut seen = HashMap::with_hasher_in(RandomState::new(), heap);
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        // Room first: a collection that finds none when it must have it ends the process.
        seen.try_reserve(1)?;
        *seen.entry(line).or_insert(0_u64) += 1;
    }
    Ok(format!("{} bytes, {} different lines", text.len(), seen.len()))
}

fn unpack<'a>(heap: &'a Heap, packed: &[u8]) -> Result<HeapVec<u8, &'a Heap>, Refused> {
    let mut text = HeapVec::new_in(heap);
    for (number, line) in packed.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let (count, part) = count_and_text(line).ok_or(Refused::Malformed(number + 1))?;
        for _ in 0..count {
            text.try_reserve(part.len() + 1)?;
            text.extend_from_slice(part);
            text.push(b'\n');
        }
    }
    Ok(text)
}

fn count_and_text(line: &[u8]) -> Option<(usize, &[u8])> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    let (count, text) = line.split_at(space);
    Some((std::str::from_utf8(count).ok()?.parse().ok()?, text.get(1..)?))
}
