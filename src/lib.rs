//! A hardened memory allocator for Linux.
//!
//! A size-class primary and an mmap secondary with checksummed chunk headers, randomised slot
//! placement, guard pages and a delayed-free quarantine. It ends the process on double free, invalid
//! free, overflow, write after free and mismatched deallocation, with a report that says what
//! happened. What it guarantees, and which test proves it, is in `SECURITY.md`.
//!
//! ```text
//!  C, C++ programs                       Rust programs
//!  preload/  (malloc, operator new, …)   global (GlobalAlloc) · heap::private (Heap)
//!             \                           /
//!              heap   one request, told from top to bottom: pick → seal → hand out; verify → quarantine → recycle
//!             /        |                  \
//!    thread_cache   quarantine         guarded: allocate, free, inspect → table, queue, surroundings · heap_profile
//!             \        |                  \
//!    primary: arena → region → slab → slot   secondary: one mapping per chunk, guards on both sides; freed, resize → layout, table
//!             \        |                    /
//!    chunk: header, checksum, canary, contents, vectors · size_class · protections · budget · sampling, byte_sampling · random, place · options · stats · violation · text · report (report_json, abort_message) · trace
//!                      os: mapping, lock, futex, atomic, thread_local, entropy, environment, cgroup, file, prefetch, process, report_copy
//! ```
//!
//! Imports point down this picture. Checks return a [`Violation`]; only `report` aborts.
#![cfg_attr(not(test), no_std)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("testudo runs on 64-bit Linux only");

mod abort_message;
mod budget;
mod byte_sampling;
pub mod c_api;
mod chunk;
mod global;
mod guarded;
mod heap;
mod heap_profile;
pub mod options;
mod os;
mod place;
mod primary;
mod protections;
mod quarantine;
mod random;
mod report;
mod report_json;
mod sampling;
mod secondary;
mod size_class;
mod stats;
mod text;
mod thread_cache;
mod trace;
mod violation;

pub use global::Testudo;
pub use heap::core::CreateError;
pub use heap::private::{AllocateError, Heap};
pub use heap_profile::HeapProfileError;
pub use options::{FilePath, Options, Profile};
pub use stats::{ClassStats, Mappings, Stats, Totals};
pub use violation::{Chunk, Kind, Operation, Violation};
