//! The state byte of a slot while two threads free the same chunk in the same instant.
//!
//! What is modelled, line by line: `Core::free_usual` looks at the byte (relaxed) and goes on if it says live;
//! `Core::wipe` turns it to the mark of the thread's cache, by a plain store or, in `strict`, a compare-and-exchange;
//! `Core::turn` has a fence, which every slot in quarantine passes; `Core::is_untouched` looks for the cache's own mark
//! (relaxed) before the slot is handed out, and so does `Class::give_back` before it goes to the slab.

//!
//! The plain store is only used on x86-64, so the memory model in question there is that CPU's and not the language's: each
//! thread's stores go through a buffer, in order, and the thread itself sees them before others do (Sewell et al.,
//! "x86-TSO", 2010). Loom knows no such buffers; this state space is small enough to be walked whole by hand.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, Ordering};
use loom::thread;
use std::collections::HashSet;

const LIVE: u8 = 1;
/// Marks of the two threads' caches.
const MARKS: [u8; 2] = [8, 9];

/// `strict`, caches that share a mark, and every CPU that is not x86-64: one of the two frees is accepted, the other is
/// reported at once.
pub fn by_exchange_one_free_wins() {
    let free = |state: &AtomicU8, mark| {
        state.load(Ordering::Relaxed) == LIVE
            && state.compare_exchange(LIVE, mark, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    loom::model(move || {
        let state = Arc::new(AtomicU8::new(LIVE));
        let other = state.clone();
        let other = thread::spawn(move || free(&other, MARKS[1]));
        let accepted = free(&state, MARKS[0]);
        assert_ne!(accepted, other.join().expect("the thread ends"));
    });
}

/// What a thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Next {
    /// `free_usual`: is it live?
    Look,
    /// `wipe`: the mark.
    Mark,
    /// `turn`: the fence.
    Turn,
    /// `is_untouched`: is the mark still there?
    Check,
    /// `seal_for_program`: live again.
    HandOut,
    End,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    memory: u8,
    /// Stores that their thread has made and others do not see yet, oldest first.
    buffers: [Vec<u8>; 2],
    next: [Next; 2],
    /// Whether the thread has seen the chunk live, and whether its slot has passed the quarantine since.
    looked: [bool; 2],
    passed: [bool; 2],
    handed_out: u8,
    reported: u8,
}

impl World {
    fn load(&self, thread: usize) -> u8 {
        self.buffers[thread].last().copied().unwrap_or(self.memory)
    }

    /// The world after the thread's next step; `None` while it must wait.
    fn after(&self, thread: usize, fence: bool) -> Option<Self> {
        let mut world = self.clone();
        let seen = world.load(thread);
        world.next[thread] = match self.next[thread] {
            Next::Look if seen != LIVE => {
                world.reported += 1;
                Next::End
            }
            // The chunk is another's by now, and this is a stale free of it: not claimed to be caught.
            Next::Look if world.handed_out > 0 => Next::End,
            Next::Look => {
                world.looked[thread] = true;
                Next::Mark
            }
            Next::Mark => {
                world.buffers[thread].push(MARKS[thread]);
                Next::Turn
            }
            Next::Turn if fence && !world.buffers[thread].is_empty() => return None,
            Next::Turn => {
                world.passed[thread] = true;
                Next::Check
            }
            // The other was held up between its look and its turn for as long as the slot was in this quarantine:
            // SECURITY.md's stale free again.
            Next::Check if (0..2).any(|other| world.looked[other] && !world.passed[other]) => Next::End,
            Next::Check if seen == MARKS[thread] => Next::HandOut,
            Next::Check => {
                world.reported += 1;
                Next::End
            }
            Next::HandOut => {
                world.handed_out += 1;
                world.buffers[thread].push(LIVE);
                Next::End
            }
            Next::End => return None,
        };
        Some(world)
    }

    /// The world after the oldest store in the thread's buffer has become visible.
    fn drained(&self, thread: usize) -> Option<Self> {
        let mut world = self.clone();
        world.memory = *world.buffers[thread].first()?;
        world.buffers[thread].remove(0);
        Some(world)
    }
}

/// Walks every world that two racing frees can come to, and returns how many that are.
fn race(fence: bool) -> usize {
    let first = World {
        memory: LIVE,
        buffers: [Vec::new(), Vec::new()],
        next: [Next::Look; 2],
        looked: [false; 2],
        passed: [false; 2],
        handed_out: 0,
        reported: 0,
    };
    let (mut known, mut todo) = (HashSet::from([first.clone()]), vec![first]);
    let mut reported = false;
    while let Some(world) = todo.pop() {
        assert!(world.handed_out <= 1, "handed out twice: {world:?}");
        reported |= world.reported > 0;
        for thread in 0..2 {
            let following = world.after(thread, fence).into_iter().chain(world.drained(thread));
            todo.extend(following.filter(|world| known.insert(world.clone())));
        }
    }
    assert!(reported, "the race is never noticed");
    known.len()
}

/// `default`: two threads that both saw the chunk live, and neither of which was held up for a whole quarantine, never
/// hand the slot out twice.
pub fn by_store_and_fence_the_slot_goes_out_once() {
    assert!(race(true) > 50);
}

/// The same without the fence, which must fail: each thread may see its own mark in its store buffer.
pub fn by_store_alone_it_may_go_out_twice() {
    race(false);
}

/// `Core::seal_for_program` against `Core::check_neighbours`: who sees a slot live sees its header.
pub fn a_live_slot_has_its_header() {
    header(Ordering::Release);
}

/// The same with a relaxed store, which must fail.
pub fn without_release_a_live_slot_may_have_an_old_header() {
    header(Ordering::Relaxed);
}

fn header(order: Ordering) {
    const MARK: u8 = MARKS[0];
    loom::model(move || {
        let shared = Arc::new((AtomicU8::new(MARK), AtomicU8::new(0)));
        let owner = shared.clone();
        let owner = thread::spawn(move || {
            let (state, header) = &*owner;
            header.store(1, Ordering::Relaxed);
            state.store(LIVE, order);
        });
        let (state, header) = &*shared;
        if state.load(Ordering::Acquire) == LIVE {
            assert_eq!(header.load(Ordering::Relaxed), 1, "an old header");
        }
        owner.join().expect("the thread ends");
    });
}
