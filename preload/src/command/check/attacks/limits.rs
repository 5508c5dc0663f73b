//! What an overflow cannot reach, what cannot be foreseen, and what ends in NULL.

use super::{Attack, Group, Must};
use crate::check::calls::{calloc, fill, free, malloc, poke, realloc, reallocarray};
use crate::check::trial::{Trial, say};

pub static METADATA: Group = Group {
    title: "overflow towards metadata",
    attacks: &[
        Attack::new("run-upwards", "a write that runs upwards ends at a guard", Must::Fault, upwards)
            .if_options(|options| options.guard_pages),
        Attack::new("run-downwards", "a write that runs downwards ends at a guard", Must::Fault, downwards)
            .if_options(|options| options.guard_pages),
    ],
};

pub static PLACEMENT: Group = Group {
    title: "addresses",
    attacks: &[
        Attack::new("address-small", "a small chunk's differs from run to run", Must::Differ, address_small)
            .if_options(unforeseeable),
        Attack::new("address-large", "a large chunk's differs from run to run", Must::Differ, address_large)
            .if_options(unforeseeable),
        Attack::new("order", "order of small chunks differs from run to run", Must::Differ, order)
            .if_options(unforeseeable),
    ],
};

pub static ARITHMETIC: Group = Group {
    title: "sizes that overflow",
    attacks: &[
        Attack::new("calloc-overflow", "calloc: NULL and ENOMEM", Must::Hold, calloc_overflow),
        Attack::new("reallocarray-overflow", "reallocarray: NULL and ENOMEM", Must::Hold, reallocarray_overflow),
        Attack::new("malloc-overflow", "malloc and realloc: NULL and ENOMEM", Must::Hold, malloc_overflow),
    ],
};

pub static BOMB: Group = Group {
    title: "memory bomb",
    attacks: &[
        Attack::new("heap-limit", "heap_limit_mb: NULL and ENOMEM", Must::Hold, heap_limit).with("heap_limit_mb=64"),
        Attack::new("allocation-limit", "max_alloc_mb: NULL and ENOMEM", Must::Hold, allocation_limit)
            .with("max_alloc_mb=16"),
    ],
};

const fn unforeseeable(options: &hardened_heap::Options) -> bool {
    options.randomize && options.seed == 0
}

/// A run of slabs may be long: it ends at a guard all the same.
fn upwards(trial: Trial) {
    let chunk = malloc(4000);
    trial.stopped_while(|| {
        for page in 0.. {
            poke(chunk + page * 4096, b'A');
        }
    });
    fill(chunk, b'A', 4000);
    free(chunk);
}

fn downwards(trial: Trial) {
    let chunk = malloc(4000);
    trial.stopped_while(|| {
        for page in 0.. {
            poke(chunk - page * 4096, b'A');
        }
    });
    fill(chunk, b'A', 4000);
    free(chunk);
}

fn address_small(_: Trial) {
    say(&format!("{:#x}", malloc(100)));
}

fn address_large(_: Trial) {
    say(&format!("{:#x}", malloc(1 << 20)));
}

/// Relative to the lowest, so that a random base alone does not make the difference.
fn order(_: Trial) {
    let chunks: Vec<usize> = (0..64).map(|_| malloc(1000)).collect();
    let lowest = chunks.iter().min().copied().unwrap_or(0);
    let places: Vec<u8> = chunks.iter().flat_map(|chunk| (chunk - lowest).to_le_bytes()).collect();
    say(&format!("{:08x}", crc32fast::hash(&places)));
}

fn refused(chunk: usize) -> bool {
    chunk == 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOMEM)
}

fn calloc_overflow(trial: Trial) {
    if trial.is_bug() {
        trial.claim(refused(calloc(1 << 33, 1 << 33)));
    } else {
        trial.claim(calloc(3, 33) != 0);
    }
}

fn reallocarray_overflow(trial: Trial) {
    let chunk = malloc(10);
    if trial.is_bug() {
        trial.claim(refused(reallocarray(chunk, (1 << 63) + 1, 2)));
        free(chunk);
    } else {
        trial.claim(reallocarray(chunk, 30, 2) != 0);
    }
}

fn malloc_overflow(trial: Trial) {
    let chunk = malloc(10);
    if trial.is_bug() {
        trial.claim(refused(malloc(usize::MAX)) && refused(malloc(usize::MAX - 40)));
        trial.claim(refused(realloc(chunk, usize::MAX)));
    }
    free(chunk);
}

/// Pieces of 100 KiB until there are no more.
fn heap_limit(trial: Trial) {
    const PIECE: usize = 100 << 10;
    if trial.is_bug() {
        let given = (0..10_000).take_while(|_| malloc(PIECE) != 0).count();
        trial.claim(given * PIECE <= 64 << 20 && refused(malloc(PIECE)));
    } else {
        trial.claim((0..200).all(|_| malloc(PIECE) != 0));
    }
}

fn allocation_limit(trial: Trial) {
    if trial.is_bug() {
        trial.claim(refused(malloc((16 << 20) + 1)));
    } else {
        trial.claim(malloc(15 << 20) != 0);
    }
}
