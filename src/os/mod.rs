//! The platform behind one small interface: mappings, a lock, the thread-local slot, fork handlers,
//! entropy, files of the kernel and the process environment.
//!
//! Nothing here allocates, and nothing here knows what a chunk is.

pub(crate) mod atomic;
pub(crate) mod cgroup;
#[cfg(target_arch = "x86_64")]
mod cpu;
pub(crate) mod entropy;
pub(crate) mod environment;
pub(crate) mod file;
pub(crate) mod forker;
mod futex;
#[cfg(test)]
pub(crate) mod interference;
pub(crate) mod lock;
pub(crate) mod mapping;
pub(crate) mod prefetch;
pub(crate) mod process;
pub(crate) mod report_copy;
pub(crate) mod thread_local;
