//! What chunks hold when they are handed out, chunks of no bytes, and forged headers.

use super::{Attack, Group, Must};
use crate::check::calls::{calloc, delete, fill, free, header, malloc, new, peek, poke, realloc, set_header};
use crate::check::trial::{Trial, moot, settle};

pub static UNINITIALISED: Group = Group {
    title: "uninitialised read",
    attacks: &[
        Attack::new("uninitialised", "malloc shows no old data", Must::Hold, fresh)
            .if_options(|options| options.zero_on_free),
        Attack::new("uninitialised-realloc", "what realloc adds shows no old data", Must::Hold, grown)
            .if_options(|options| options.zero_on_free),
        Attack::new("uninitialised-large", "a large chunk shows no old data", Must::Hold, large)
            .if_options(|options| options.zero_on_free),
        Attack::new("calloc", "calloc gives zeroes", Must::Hold, zeroed),
    ],
};

pub static ZERO_SIZED: Group = Group {
    title: "chunks of no bytes",
    attacks: &[
        Attack::new("zero-sized-read", "read through malloc(0), at the access", Must::Fault, read),
        Attack::new("zero-sized-write", "write through malloc(0), at the access", Must::Fault, write),
        Attack::new("zero-sized-new", "write through operator new(0), at the access", Must::Fault, write_new),
    ],
};

pub static FORGED: Group = Group {
    title: "forged header",
    attacks: &[
        Attack::new("header-bit", "one bit changed", Must::Stop, one_bit),
        Attack::new("header-copied", "copied from another chunk", Must::Stop, copied),
        Attack::new("header-difference", "by the difference of two others", Must::Stop, difference),
        Attack::new("header-guessed", "guessed", Must::Stop, guessed),
    ],
};

const SECRET: u8 = b'S';

fn leave_secrets(size: usize, count: usize) {
    let chunks: Vec<usize> = (0..count).map(|_| malloc(size)).collect();
    for chunk in chunks {
        fill(chunk, SECRET, size);
        free(chunk);
    }
}

/// Reads what was not written; the twin writes first.
fn shows_none(trial: Trial, chunk: usize, from: usize, to: usize) -> bool {
    if !trial.is_bug() {
        fill(chunk + from, b'A', to - from);
    }
    (from..to).all(|offset| peek(chunk + offset) != SECRET)
}

/// Many more than the quarantine holds, so that slots that held secrets come back.
fn fresh(trial: Trial) {
    settle(trial, 200);
    leave_secrets(200, 2000);
    for _ in 0..2000 {
        let chunk = malloc(200);
        trial.claim(shows_none(trial, chunk, 0, 200));
    }
}

fn grown(trial: Trial) {
    leave_secrets(400, 2000);
    for _ in 0..1000 {
        let chunk = realloc(malloc(100), 400);
        trial.claim(shows_none(trial, chunk, 100, 400));
    }
}

fn large(trial: Trial) {
    leave_secrets(400_000, 20);
    for _ in 0..20 {
        let chunk = malloc(400_000);
        trial.claim(shows_none(trial, chunk, 0, 400_000));
    }
}

fn zeroed(trial: Trial) {
    leave_secrets(200, 2000);
    for _ in 0..2000 {
        let chunk = calloc(10, 20);
        trial.claim((0..200).all(|offset| peek(chunk + offset) == 0));
    }
}

fn read(trial: Trial) {
    let chunk = malloc(0);
    trial.stopped_while(|| {
        peek(chunk);
    });
    free(chunk);
}

fn write(trial: Trial) {
    let chunk = malloc(0);
    trial.stopped_while(|| poke(chunk, b'A'));
    free(chunk);
}

fn write_new(trial: Trial) {
    let chunk = new(0);
    trial.stopped_while(|| poke(chunk, b'A'));
    delete(chunk);
}

/// Puts a header in front of a chunk of 40 bytes and frees it.
fn forge(trial: Trial, make: impl FnOnce(&[usize]) -> [u8; 8]) {
    settle(trial, 40);
    let chunks: Vec<usize> = (0..4).map(|_| malloc(40)).collect();
    let [victim, ..] = chunks[..] else { moot() };
    if let Some((forged, own)) = trial.spy(|| (make(&chunks), header(victim))) {
        if forged == own {
            moot();
        }
        trial.commit(|| set_header(victim, forged));
    }
    free(victim);
    trial.must_be_over();
}

fn one_bit(trial: Trial) {
    let bit = trial.number as usize % 64;
    forge(trial, |chunks| {
        let mut bytes = header(chunks[0]);
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
}

fn copied(trial: Trial) {
    forge(trial, |chunks| header(chunks[1]));
}

/// Were the checksum linear, the differences of two pairs of headers that differ alike would be the same.
fn difference(trial: Trial) {
    forge(trial, |chunks| {
        let (one, two, own) = (header(chunks[1]), header(chunks[2]), header(chunks[0]));
        std::array::from_fn(|index| own[index] ^ one[index] ^ two[index])
    });
}

fn guessed(trial: Trial) {
    let guess = u64::from(trial.number).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
    forge(trial, |_| guess.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_ne_bytes());
}
