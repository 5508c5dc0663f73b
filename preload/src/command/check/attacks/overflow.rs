//! Writes past the end and before the start of chunks.

use super::{Attack, Group, Must};
use crate::check::calls::{fill, free, malloc, peek, poke, realloc};
use crate::check::trial::{Trial, moot, settle};

/// Leaves bytes between the chunk's end and the next header; and none.
const WITH_SLACK: usize = 100;
const WITHOUT_SLACK: usize = 24;
const LARGE_SIZE: usize = 1 << 20;
const PAGE: usize = 4096;

pub static SMALL: Group = Group {
    title: "overflow of a small chunk",
    attacks: &[
        Attack::new("overflow-nul", "by one NUL", Must::Stop, by_one_nul).if_options(|options| options.canary),
        Attack::new("overflow-byte", "by one letter", Must::Stop, by_one_letter).if_options(|options| options.canary),
        Attack::new("overflow-no-slack", "by one NUL, no slack", Must::Stop, without_slack)
            .if_options(|options| options.canary),
        Attack::new("overflow-realloc", "noticed by realloc", Must::Stop, noticed_by_realloc)
            .if_options(|options| options.canary),
        Attack::new("overflow-neighbour", "noticed when a neighbour is freed", Must::Stop, behind_a_neighbour)
            .if_options(|options| options.canary && options.neighbours),
        Attack::new("overflow-exit", "never freed, noticed at exit", Must::Stop, at_exit)
            .if_options(|options| options.canary && options.check_at_exit),
    ],
};

pub static UNDERFLOW: Group = Group {
    title: "underflow",
    attacks: &[
        Attack::new("underflow", "by one byte, small chunk", Must::Stop, by_one_before),
        Attack::new("underflow-loop", "by a loop that goes too far", Must::Stop, by_a_loop),
        Attack::new("underflow-large", "by 16 bytes, large chunk", Must::Stop, of_a_large_chunk)
            .if_options(|options| options.canary),
        Attack::new("underflow-exit", "never freed, noticed at exit", Must::Stop, before_at_exit)
            .if_options(|options| options.check_at_exit),
    ],
};

pub static LARGE: Group = Group {
    title: "overflow of a large chunk",
    attacks: &[
        Attack::new("overflow-large", "write, at the access", Must::Fault, large_write),
        Attack::new("overread-large", "read, at the access", Must::Fault, large_read),
    ],
};

fn past_the_end(trial: Trial, size: usize, byte: u8) {
    settle(trial, size);
    let chunk = malloc(size);
    fill(chunk, b'S', size);
    trial.commit(|| poke(chunk + size, byte));
    free(chunk);
    trial.must_be_over();
}

fn by_one_nul(trial: Trial) {
    past_the_end(trial, WITH_SLACK, 0);
}

fn by_one_letter(trial: Trial) {
    past_the_end(trial, WITH_SLACK, b'A');
}

fn without_slack(trial: Trial) {
    past_the_end(trial, WITHOUT_SLACK, 0);
}

fn noticed_by_realloc(trial: Trial) {
    let chunk = malloc(WITH_SLACK);
    trial.commit(|| poke(chunk + WITH_SLACK, 0));
    let moved = realloc(chunk, 10 * WITH_SLACK);
    trial.must_be_over();
    free(moved);
}

/// Two chunks one directly behind the other, lower first.
fn neighbours(size: usize) -> (usize, usize) {
    let mut chunks: Vec<usize> = (0..256).map(|_| malloc(size)).collect();
    chunks.sort_unstable();
    let gap = |pair: &[usize]| pair[1] - pair[0];
    let stride = chunks.windows(2).map(gap).min().unwrap_or_else(|| moot());
    if stride < 2 * size {
        return chunks.windows(2).find(|pair| gap(pair) == stride).map_or_else(|| moot(), |pair| (pair[0], pair[1]));
    }
    // Chunks that have pages of their own have no neighbours: any two will do, and the write itself is the end. Not where the chunk
    // is one of the few that start with their page and are followed by a canary: that is looked at when the chunk itself is freed.
    let ends_with_its_page = |pair: &&[usize]| (pair[0] + size).is_multiple_of(PAGE);
    match chunks.windows(2).find(ends_with_its_page) {
        Some(pair) if stride >= PAGE => (pair[0], pair[1]),
        _ => moot(),
    }
}

fn behind_a_neighbour(trial: Trial) {
    let (lower, upper) = neighbours(WITH_SLACK);
    trial.commit(|| poke(lower + WITH_SLACK, 0));
    free(upper);
    trial.must_be_over();
}

/// The judge takes an orderly end for a miss.
fn at_exit(trial: Trial) {
    let chunk = malloc(WITH_SLACK);
    trial.commit(|| poke(chunk + WITH_SLACK, 0));
}

fn by_one_before(trial: Trial) {
    settle(trial, 40);
    let chunk = malloc(40);
    // Not what stands there by chance, which would change nothing.
    trial.commit(|| poke(chunk - 1, !peek(chunk - 1)));
    free(chunk);
    trial.must_be_over();
}

fn by_a_loop(trial: Trial) {
    let chunk = malloc(WITH_SLACK);
    trial.commit(|| {
        for distance in 1..=24 {
            poke(chunk - distance, 0);
        }
    });
    free(chunk);
    trial.must_be_over();
}

fn of_a_large_chunk(trial: Trial) {
    let chunk = malloc(300_000);
    trial.commit(|| fill(chunk - 16, 0, 16));
    free(chunk);
    trial.must_be_over();
}

fn before_at_exit(trial: Trial) {
    let chunk = malloc(40);
    // Not what stands there by chance, which would change nothing.
    trial.commit(|| poke(chunk - 1, !peek(chunk - 1)));
}

fn large_write(trial: Trial) {
    let chunk = malloc(LARGE_SIZE);
    fill(chunk, b'S', LARGE_SIZE);
    trial.stopped_while(|| poke(chunk + LARGE_SIZE, 0));
    free(chunk);
}

fn large_read(trial: Trial) {
    let chunk = malloc(LARGE_SIZE);
    trial.stopped_while(|| {
        peek(chunk + LARGE_SIZE);
    });
    free(chunk);
}
