//! Memory given back by another function, with another size or alignment, than it came with.

use super::{Attack, Group, Must};
use crate::check::calls::{
    aligned_alloc, delete, delete_array, delete_sized, free, free_sized, malloc, new, new_aligned, new_array,
};
use crate::check::trial::{Trial, give_up};
use hardened_heap::{Options, Testudo};
use std::alloc::{GlobalAlloc, Layout};

const fn checks(options: &Options) -> bool {
    options.mismatch
}

pub static GROUP: Group = Group {
    title: "mismatched deallocation",
    attacks: &[
        Attack::new("malloc-delete", "malloc with delete", Must::Stop, malloc_delete).if_options(checks),
        Attack::new("new-free", "new with free", Must::Stop, new_free).if_options(checks),
        Attack::new("new-array-delete", "new[] with delete", Must::Stop, array_delete).if_options(checks),
        Attack::new("new-delete-array", "new with delete[]", Must::Stop, delete_as_array).if_options(checks),
        Attack::new("aligned-new-delete", "aligned new with delete", Must::Stop, aligned_new_delete).if_options(checks),
        Attack::new("aligned-alloc-delete", "aligned_alloc with delete", Must::Stop, aligned_alloc_delete)
            .if_options(checks),
        Attack::new("sized-delete", "wrong size to sized delete", Must::Stop, sized_delete).if_options(checks),
        Attack::new("free-sized", "wrong size to free_sized", Must::Stop, sized_free).if_options(checks),
        Attack::new("rust-size", "wrong size in a Rust Layout", Must::Stop, rust_size).if_options(checks),
        Attack::new("rust-alignment", "wrong alignment in a Rust Layout", Must::Stop, rust_alignment)
            .if_options(checks),
    ],
};

fn malloc_delete(trial: Trial) {
    let chunk = malloc(100);
    trial.stopped_while(|| delete(chunk));
    free(chunk);
}

fn new_free(trial: Trial) {
    let chunk = new(100);
    trial.stopped_while(|| free(chunk));
    delete(chunk);
}

fn array_delete(trial: Trial) {
    let chunk = new_array(100);
    trial.stopped_while(|| delete(chunk));
    delete_array(chunk);
}

fn delete_as_array(trial: Trial) {
    let chunk = new(100);
    trial.stopped_while(|| delete_array(chunk));
    delete(chunk);
}

fn aligned_new_delete(trial: Trial) {
    trial.stopped_while(|| delete(new_aligned(100, 64)));
    delete(new(100));
}

fn aligned_alloc_delete(trial: Trial) {
    let chunk = aligned_alloc(64, 128);
    trial.stopped_while(|| delete(chunk));
    free(chunk);
}

fn sized_delete(trial: Trial) {
    let chunk = new(100);
    trial.stopped_while(|| delete_sized(chunk, 90));
    delete_sized(chunk, 100);
}

fn sized_free(trial: Trial) {
    let chunk = malloc(100);
    trial.stopped_while(|| free_sized(chunk, 101));
    free_sized(chunk, 100);
}

/// The same allocator as a Rust program has it: linked in, with the same options.
static RUST: Testudo = Testudo::new();

fn rust(trial: Trial, wrong_size: usize, wrong_align: usize) {
    let layouts = (Layout::from_size_align(100, 16), Layout::from_size_align(wrong_size, wrong_align));
    let (Ok(right), Ok(wrong)) = layouts else { give_up("no such layout") };
    // SAFETY: not of zero size.
    let chunk = unsafe { RUST.alloc(right) };
    // SAFETY: none is claimed: the layout is wrong, and that is the attack.
    trial.stopped_while(|| unsafe { RUST.dealloc(chunk, wrong) });
    // SAFETY: the chunk and its layout.
    unsafe { RUST.dealloc(chunk, right) };
}

fn rust_size(trial: Trial) {
    rust(trial, 99, 16);
}

fn rust_alignment(trial: Trial) {
    rust(trial, 100, 64);
}
