//! `primary::region` as it is: what a thread may rely on when it meets an address.

use crate::os::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::primary::region::{Region, Tables, state};
use crate::size_class::ClassId;
use loom::sync::Arc;
use loom::thread;

/// Where the chunk of slot 0 is.
const FIRST: usize = 0x1000_0010;

struct World {
    region: Region,
    state: AtomicU8,
    /// Through which the program hands the chunk to another thread.
    mailbox: AtomicUsize,
}

fn world() -> Arc<World> {
    let world = Arc::new(World {
        region: Region::unused(),
        state: AtomicU8::new(state::UNSEALED),
        mailbox: AtomicUsize::new(0),
    });
    // Makes the atomics while there is one thread.
    world.region.slots();
    world.region.state_at(0);
    world.region.index_of(&world.state);
    world.region.size_class();
    world.region.tables();
    world.state.load(Ordering::Relaxed);
    world.mailbox.load(Ordering::Relaxed);
    world
}

fn class() -> ClassId {
    ClassId::new(3).expect("in range")
}

/// What the holder of the class lock does before a slot leaves it.
fn open(world: &World) {
    let states = std::ptr::from_ref(&world.state).expose_provenance();
    let tables = Tables { states, free_bits: 0 };
    world.region.open(class().index() as u8, class().stride(), FIRST, 1, tables);
    world.region.set_frontier(1);
}

/// A chunk that the program hands over reaches the other thread with its region.
pub fn a_chunk_handed_over_is_found() {
    loom::model(|| {
        let world = world();
        let giver = world.clone();
        let giver = thread::spawn(move || {
            open(&giver);
            giver.state.store(state::LIVE, Ordering::Release);
            giver.mailbox.store(FIRST, Ordering::Release);
        });
        let address = world.mailbox.load(Ordering::Acquire);
        if address != 0 {
            let state = world.region.state_at(address).expect("the region is known");
            assert_eq!(state.load(Ordering::Relaxed), state::LIVE);
            assert_eq!(world.region.own_class(), class());
        }
        giver.join().expect("the thread ends");
    });
}

/// A thread that frees an address which nobody gave it, while the region is being opened, finds the slot or finds
/// nothing, and touches no table that is not there (a table at zero would end the model).
pub fn a_guessed_address_finds_all_or_nothing() {
    loom::model(|| {
        let world = world();
        let opener = world.clone();
        let opener = thread::spawn(move || open(&opener));
        if let Some(state) = world.region.state_at(FIRST) {
            assert_eq!(world.region.index_of(state).0, 0);
            assert_eq!(state.load(Ordering::Relaxed), state::UNSEALED);
            assert_eq!(world.region.size_class(), Some(class()));
        }
        if let Some(slot) = world.region.slot_around(FIRST + 3, class().stride()) {
            assert_eq!(slot.index.0, 0);
        }
        opener.join().expect("the thread ends");
    });
}
