//! Atomics by way of one module, so that `models/` can run the code that is built on them under a model checker, which
//! brings its own.

pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
