//! The product's own lowest layer, as far as it is needed.

#[path = "../../../src/os/cpu.rs"]
pub(crate) mod cpu;
#[path = "../../../src/os/entropy.rs"]
pub(crate) mod entropy;
#[path = "../../../src/os/process.rs"]
pub(crate) mod process;
#[path = "../../../src/os/thread_local.rs"]
pub(crate) mod thread_local;
