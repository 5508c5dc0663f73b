//! The entry of a guarded slot, while a chunk in it is given back twice and the slot is used again.
//!
//! What is modelled, line by line: `Guarded::hold` looks at the state (acquire), reads what the entry says (relaxed), takes it by
//! compare-and-exchange, and reads again; `Guarded::free` and `Guarded::allocate` change it from there.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use loom::thread;

const LIVE: u8 = 1;
const FREED: u8 = 2;
const OPENING: u8 = 3;
const HELD: u8 = 4;
const CLOSING: u8 = 5;

/// Addresses of two chunks that have the slot one after the other.
const FIRST: usize = 100;
const SECOND: usize = 200;

struct Entry {
    state: AtomicU8,
    chunk: AtomicUsize,
    size: AtomicUsize,
}

/// So that a size which belongs to another address is seen.
fn size_of(chunk: usize) -> usize {
    chunk + 1
}

impl Entry {
    fn with_first() -> Arc<Self> {
        let (state, chunk) = (AtomicU8::new(LIVE), AtomicUsize::new(FIRST));
        Arc::new(Self { state, chunk, size: AtomicUsize::new(size_of(FIRST)) })
    }

    fn hold(&self, address: usize, again: bool) -> bool {
        loop {
            let seen = self.state.load(Ordering::Acquire);
            let chunk = self.chunk.load(Ordering::Relaxed);
            match seen {
                LIVE if chunk == address => {
                    if self.state.compare_exchange(seen, HELD, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                        if !again || self.chunk.load(Ordering::Relaxed) == address {
                            return true;
                        }
                        self.state.store(LIVE, Ordering::Release);
                    }
                }
                LIVE | FREED => return false,
                _ => thread::yield_now(),
            }
        }
    }

    fn free(&self, address: usize, again: bool) -> bool {
        if !self.hold(address, again) {
            return false;
        }
        assert_eq!(self.chunk.load(Ordering::Relaxed), address, "another chunk was taken");
        assert_eq!(self.size.load(Ordering::Relaxed), size_of(address), "the size is another chunk's");
        self.state.store(CLOSING, Ordering::Relaxed);
        self.state.store(FREED, Ordering::Release);
        true
    }

    fn allocate(&self, chunk: usize) {
        self.state.store(OPENING, Ordering::Relaxed);
        self.size.store(size_of(chunk), Ordering::Relaxed);
        self.chunk.store(chunk, Ordering::Relaxed);
        self.state.store(LIVE, Ordering::Release);
    }
}

fn free_twice_and_use_again(again: bool) {
    loom::model(move || {
        let entry = Entry::with_first();
        let other = entry.clone();
        let other = thread::spawn(move || other.free(FIRST, again));
        let own = entry.free(FIRST, again);
        if own {
            entry.allocate(SECOND);
        }
        assert_ne!(own, other.join().expect("the thread ends"), "given back twice, or never");
    });
}

/// Of two frees one is accepted, and it takes the chunk that it was meant for, also when the slot is used again meanwhile.
pub fn a_guarded_chunk_is_freed_once() {
    free_twice_and_use_again(true);
}

/// Without the second look, the later free may take the next chunk in the slot.
pub fn without_a_second_look_the_next_chunk_is_taken() {
    free_twice_and_use_again(false);
}
