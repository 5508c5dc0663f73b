//! Use after free.

use super::{Attack, Group, Must};
use crate::check::calls::{fill, free, malloc, peek, poke};
use crate::check::trial::{Trial, settle};

const LARGE: usize = 1 << 20;
const SECRET: u8 = b'S';

pub static GROUP: Group = Group {
    title: "use after free",
    attacks: &[
        Attack::new("write-after-free", "write to a small chunk, noticed at reuse", Must::Stop, write)
            .if_options(|options| options.write_after_free),
        Attack::new("write-after-free-exit", "write to a small chunk, noticed at exit", Must::Stop, write_then_exit)
            .if_options(|options| options.write_after_free && options.check_at_exit),
        Attack::new("read-after-free", "read of a small chunk shows nothing", Must::Hold, read)
            .if_options(|options| options.zero_on_free),
        Attack::new("reuse", "a freed chunk is not handed out at once", Must::Hold, reuse)
            .if_options(|options| options.quarantine_kb > 0),
        Attack::new("write-after-free-large", "write to a large chunk, at the access", Must::Fault, large_write),
        Attack::new("read-after-free-large", "read of a large chunk, at the access", Must::Fault, large_read),
    ],
};

fn write(trial: Trial) {
    settle(trial, 100);
    let chunk = malloc(100);
    free(chunk);
    trial.commit(|| poke(chunk + 40, b'A'));
    // More than the quarantine and every ready slot: the chunk comes back.
    let mut window = [0; 64];
    for round in 0..100_000 {
        free(std::mem::replace(&mut window[round % 64], malloc(100)));
    }
    trial.must_be_over();
    window.into_iter().for_each(free);
}

fn write_then_exit(trial: Trial) {
    let chunk = malloc(100);
    free(chunk);
    trial.commit(|| poke(chunk + 40, b'A'));
}

/// A fault is as good as contents that say nothing. The twin reads before it frees.
fn read(trial: Trial) {
    settle(trial, 1000);
    let chunk = malloc(1000);
    fill(chunk, SECRET, 1000);
    if !trial.is_bug() {
        trial.claim((0..1000).all(|offset| peek(chunk + offset) == SECRET));
    }
    free(chunk);
    trial.commit(|| trial.claim((0..1000).all(|offset| peek(chunk + offset) != SECRET)));
}

fn reuse(trial: Trial) {
    settle(trial, 100);
    let chunk = malloc(100);
    free(chunk);
    let next = malloc(100);
    trial.claim(next != chunk || !trial.is_bug());
    free(next);
}

fn large_write(trial: Trial) {
    let chunk = malloc(LARGE);
    fill(chunk, SECRET, LARGE);
    free(chunk);
    trial.stopped_while(|| poke(chunk + 5000, b'A'));
}

fn large_read(trial: Trial) {
    let chunk = malloc(LARGE);
    fill(chunk, SECRET, LARGE);
    free(chunk);
    trial.stopped_while(|| {
        peek(chunk + 5000);
    });
}
