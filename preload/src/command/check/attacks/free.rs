//! Chunks freed twice, and frees of what is no chunk.

use super::{Attack, Group, Must};
use crate::check::calls::{free, header, malloc, malloc_trim, malloc_usable_size, realloc, set_header};
use crate::check::trial::{Trial, give_up, settle};
use std::sync::Barrier;
use std::thread;

pub static DOUBLE: Group = Group {
    title: "double free",
    attacks: &[
        Attack::new("double-free", "at once", Must::Stop, at_once),
        Attack::new("double-free-large", "of a large chunk", Must::Stop, large),
        Attack::new("double-free-interleaved", "with another free between", Must::Stop, interleaved),
        Attack::new("double-free-thread", "again in another thread", Must::Stop, in_another_thread),
        Attack::new("double-free-late", "after thousands of other frees", Must::Stop, after_other_frees),
        Attack::new("double-free-trim", "after malloc_trim", Must::Stop, after_trim),
        Attack::new("double-free-restored", "with the old header put back", Must::Stop, restored),
        Attack::new("double-free-race", "by two threads at once: before reuse", Must::Stop, race_then_traffic),
        Attack::new("double-free-race-at-once", "by two threads at once: at once", Must::Stop, race)
            .if_options(|options| options.atomic_free),
    ],
};

pub static INVALID: Group = Group {
    title: "what is no chunk",
    attacks: &[
        Attack::new("free-interior", "free inside a chunk", Must::Stop, interior),
        Attack::new("free-misaligned", "free of an odd address", Must::Stop, misaligned),
        Attack::new("free-stack", "free of the stack", Must::Stop, stack),
        Attack::new("free-global", "free of a global", Must::Stop, global),
        Attack::new("free-mapping", "free of the program's own mapping", Must::Stop, mapping),
        Attack::new("free-gone", "free in a slab that was given back", Must::Stop, gone),
        Attack::new("realloc-interior", "realloc inside a chunk", Must::Stop, realloc_interior),
        Attack::new("realloc-freed", "realloc of a freed chunk", Must::Stop, realloc_freed),
        Attack::new("usable-size-freed", "malloc_usable_size of a freed chunk", Must::Stop, usable_size_freed),
    ],
};

fn at_once(trial: Trial) {
    settle(trial, 24);
    let chunk = malloc(24);
    free(chunk);
    trial.stopped_while(|| free(chunk));
}

fn large(trial: Trial) {
    let chunk = malloc(300_000);
    free(chunk);
    trial.stopped_while(|| free(chunk));
}

fn interleaved(trial: Trial) {
    let (first, second) = (malloc(100), malloc(100));
    free(first);
    free(second);
    trial.stopped_while(|| free(first));
}

fn in_another_thread(trial: Trial) {
    let chunk = malloc(24);
    free(chunk);
    trial.stopped_while(|| {
        let _ = thread::spawn(move || free(chunk)).join();
    });
}

fn after_other_frees(trial: Trial) {
    let others: Vec<usize> = (0..3000).map(|index| malloc(400 + index % 300)).collect();
    let chunk = malloc(24);
    free(chunk);
    others.into_iter().for_each(free);
    trial.stopped_while(|| free(chunk));
}

fn after_trim(trial: Trial) {
    let chunks: Vec<usize> = (0..4000).map(|_| malloc(1000)).collect();
    let chunk = chunks[chunks.len() / 2];
    chunks.into_iter().for_each(free);
    malloc_trim(0);
    trial.stopped_while(|| free(chunk));
}

fn restored(trial: Trial) {
    settle(trial, 40);
    let chunk = malloc(40);
    let live = trial.spy(|| header(chunk));
    free(chunk);
    trial.stopped_while(|| {
        set_header(chunk, live.unwrap_or_default());
        free(chunk);
    });
}

fn race_then_traffic(trial: Trial) {
    by_two_threads(trial, 20_000);
}

fn race(trial: Trial) {
    by_two_threads(trial, 0);
}

/// Both free the same chunk in the same instant; then both go on as a program would.
fn by_two_threads(trial: Trial, rounds: usize) {
    settle(trial, 40);
    let chunk = malloc(40);
    let racer = |frees: bool, (start, freed): (&Barrier, &Barrier)| {
        start.wait();
        if frees {
            free(chunk);
        }
        // Were one to go on alone, it could be given the chunk again, and the other's late free would be no second one.
        freed.wait();
        let mut window = [0; 32];
        for round in 0..rounds {
            free(std::mem::replace(&mut window[round % 32], malloc(40)));
        }
        window.into_iter().for_each(free);
    };
    let meetings = (&Barrier::new(2), &Barrier::new(2));
    let both = || {
        thread::scope(|scope| {
            scope.spawn(|| racer(trial.is_bug(), meetings));
            racer(true, meetings);
        });
    };
    if trial.is_bug() { trial.stopped_while(both) } else { both() }
}

fn interior(trial: Trial) {
    let chunk = malloc(100);
    trial.stopped_while(|| free(chunk + 16));
    free(chunk);
}

fn misaligned(trial: Trial) {
    let chunk = malloc(100);
    trial.stopped_while(|| free(chunk + 1));
    free(chunk);
}

fn stack(trial: Trial) {
    let place = [0_u64; 8];
    let address = std::hint::black_box(&place).as_ptr().expose_provenance();
    trial.stopped_while(|| free(address.next_multiple_of(16)));
}

fn global(trial: Trial) {
    static PLACE: [u64; 8] = [1; 8];
    let address = std::hint::black_box(&PLACE).as_ptr().expose_provenance();
    trial.stopped_while(|| free(address.next_multiple_of(16)));
}

fn mapping(trial: Trial) {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping wherever the kernel likes.
    let mapping =
        unsafe { libc::mmap(std::ptr::null_mut(), 65_536, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if mapping == libc::MAP_FAILED {
        give_up("no mapping");
    }
    trial.stopped_while(|| free(mapping.expose_provenance() + 4096));
}

fn gone(trial: Trial) {
    let chunks: Vec<usize> = (0..300).map(|_| malloc(20_000)).collect();
    let address = chunks[chunks.len() / 2] + 48;
    chunks.into_iter().for_each(free);
    malloc_trim(0);
    trial.stopped_while(|| free(address));
}

fn realloc_interior(trial: Trial) {
    let chunk = malloc(100);
    trial.stopped_while(|| {
        realloc(chunk + 16, 200);
    });
    free(chunk);
}

fn realloc_freed(trial: Trial) {
    let chunk = malloc(100);
    free(chunk);
    trial.stopped_while(|| {
        realloc(chunk, 200);
    });
}

fn usable_size_freed(trial: Trial) {
    let chunk = malloc(100);
    free(chunk);
    trial.stopped_while(|| {
        malloc_usable_size(chunk);
    });
}
