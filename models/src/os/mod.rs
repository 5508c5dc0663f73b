//! Stands in for `src/os`: loom's atomics and a model of futex under the real lock.

pub(crate) mod atomic;
pub(crate) mod forker;
pub(crate) mod futex;

#[allow(dead_code, reason = "the models use a part of it")]
#[path = "../../../src/os/lock.rs"]
pub(crate) mod lock;
