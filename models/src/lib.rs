//! Model checks: every order in which threads can take their steps, and every value that the memory model lets them see,
//! for each hand-over between threads in testudo.
//!
//! | module | what runs |
//! |---|---|
//! | [`guarded`] | a model of the entry of a guarded slot in `src/guarded` |
//! | [`locks`] | the lock of `src/os/lock.rs` itself, on a model of futex |
//! | [`regions`] | the publication of `src/primary/region.rs` itself |
//! | [`slots`] | a model of the state byte's way through `src/heap/free.rs` and `src/heap/allocate.rs` |
//! | [`shared`] | models of what is handed over under a lock: the process-wide heap, thread caches, large chunks; with the lock itself |
//! | [`trace`] | the rules of `src/trace/rules.rs` itself, and a model of how a trace's number is handed over |
//!
//! The files under test are compiled into this package with loom's atomics in place of the CPU's: `os::atomic` and
//! `os::futex` here stand in for those of `src/os`. Each claim is a function that `tests/models.rs` runs; next to claims
//! that rest on one instruction (a fence, an order) stands its opposite without it, which must be seen to fail.

pub mod guarded;
pub mod locks;
mod os;
mod primary;
pub mod regions;
pub mod shared;
pub mod slots;
pub mod trace;

#[allow(dead_code, reason = "the models use a part of it")]
#[path = "../../src/size_class.rs"]
mod size_class;
