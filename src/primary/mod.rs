//! The primary: one region of address space per size class, cut into slabs, cut into slots.
//!
//! * [`arena`] reserves the address space and hands regions to classes at random.
//! * [`region`] is the geometry: address to slot number and state, without reading the heap.
//! * [`tables`] says where what is known about slots lies, out of band.
//! * [`slab`] describes groups of slots; [`class`] decides which slots are handed out next,
//!   [`release`] which memory goes back to the system, [`huge_pages`] which is huge.
//! * [`zero_sized`] hands out the inaccessible addresses of `malloc(0)`.
//!
//! All that is written here about slots lies out of band, in a mapping of its own with guard pages;
//! of the heap itself only the headers of fresh slots are written.

pub(crate) mod arena;
pub(crate) mod class;
mod huge_pages;
pub(crate) mod region;
mod release;
pub(crate) mod slab;
pub(crate) mod tables;
#[cfg(test)]
mod tests;
pub(crate) mod zero_sized;
