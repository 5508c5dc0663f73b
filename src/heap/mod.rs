//! The heap: one request, told from top to bottom.
//!
//! * [`allocate`]: pick → seal → hand out; [`free`]: verify → quarantine → recycle; [`reallocate`].
//! * [`locate`]: from an address to what is known about it, for everything that is not the fast path; [`demand`]: what the ways of
//!   giving back demand of it.
//! * [`fault`]: an access that faulted, explained.
//! * [`profile`]: chunks that the heap profile records.
//! * [`core`]: the value that a heap is; [`registry`]: its thread caches; [`decay`]: how free memory finds its way back to the system.
//! * [`process`]: the heap of the process, thread by thread; [`private`]: heaps as values, [`allocator_api`] for
//!   collections in them; [`fork`]: how they all get through a fork.

pub(crate) mod allocate;
#[cfg(feature = "allocator-api2")]
mod allocator_api;
pub(crate) mod check;
pub(crate) mod core;
pub(crate) mod decay;
pub(crate) mod demand;
pub(crate) mod fault;
mod fork;
pub(crate) mod free;
pub(crate) mod locate;
pub(crate) mod neighbours;
pub(crate) mod private;
pub(crate) mod process;
mod profile;
mod profile_signal;
pub(crate) mod reallocate;
mod registry;
pub(crate) mod statistics;
