//! An allocator for one experiment: everything but the order in which slots are handed out, and in which freed ones come
//! back, stays the same. It has testudo's size classes, slots, headers, state bytes, batches and quarantine places, seals
//! and verifies headers, zeroes freed slots and checks that they still are zero; it has no canaries, no large chunks of its
//! own (the C library serves those) and gives no memory back.
//!
//! It protects nothing: `TESTUDO_PLACEMENT=order=…:quarantine=…` chooses among candidates, to be measured by
//! `testudo-benches placement`.

mod cache;
mod interface;
mod lock;
mod order;
#[allow(dead_code, reason = "the experiment needs a part of it")]
mod os;
mod quarantine;
mod settings;
mod slots;

/// The product's own, so that both have the same.
#[allow(dead_code, reason = "the experiment needs a part of it")]
#[path = "../../../src/random.rs"]
mod random;
#[allow(dead_code, reason = "the experiment needs a part of it")]
#[path = "../../../src/size_class.rs"]
mod size_class;
