//! The delayed-free quarantine of small chunks: per thread and class, a ring.
//!
//! Attack: use after free. A freed slot must not come back at once (the next allocation of its size
//! would overlay it), nor after a number of frees that an attacker can count. A ring gives the minimum delay and
//! keeps the order in which memory comes back, which the program's later walk needs; where a turn of it begins
//! is random, and some of the oldest change places, which makes the delay unpredictable. Cost: one exchange of array elements.
//!
//! The ring is only the delay: that a chunk was freed is known from its state byte, so no flood of
//! frees makes a double free pass.

use crate::primary::region::OwnedSlot;
use crate::random::Random;

/// Places in a ring.
pub(crate) const PLACES: usize = 32;

/// Slots of one class that were freed by one thread: a ring, oldest first, or, where order is worth nothing, a
/// random-replacement array. They lie in an array of their own ([`RingSlots`]), so that a ring that is not used costs no
/// memory.
///
/// Invariant, from [`Self::new`] on: `end` is `length` places, at most [`PLACES`], behind the first of the array, all places
/// in front of it hold slots, and `hand` points to one of them or to `end`.
pub(crate) struct Ring {
    /// Next place to exchange; the oldest chunk is there when the ring is full.
    hand: *mut OwnedSlot,
    end: *mut OwnedSlot,
    /// Places in use.
    length: u8,
    /// Places that may be used at most, for the class.
    most: u8,
    /// Whether the slot that leaves is chosen at random: for slots so long that no prefetcher minds.
    scattered: bool,
}

/// Places of a ring.
pub(crate) type RingSlots = [OwnedSlot; PLACES];

/// What became of a chunk that was put into a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It took the place of this one, which leaves the quarantine.
    Exchanged(OwnedSlot),
    /// The ring must be asked again, in [`Ring::turn`].
    AtTurn,
}

/// What became of it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The ring is longer by one place.
    Grown,
    /// This one leaves the quarantine.
    Left(OwnedSlot),
}

impl Ring {
    /// Nothing held back, and up to `most` slots later, in `places`.
    ///
    /// # Safety
    /// `places` outlives the value and is used by nobody else.
    pub(crate) unsafe fn new(places: *mut RingSlots, most: u8, scattered: bool) -> Self {
        let first = places.cast();
        Self { hand: first, end: first, length: 0, most: most.min(PLACES as u8), scattered }
    }

    fn first(&self) -> *mut OwnedSlot {
        self.end.wrapping_sub(usize::from(self.length))
    }

    /// The slots that are held back.
    fn slots(&mut self) -> &mut [OwnedSlot] {
        // SAFETY: the invariant; nobody else uses the places.
        unsafe { core::slice::from_raw_parts_mut(self.first(), usize::from(self.length)) }
    }

    /// Makes the ring so long, with the hand at its end; places that are new must be filled.
    fn set_length(&mut self, length: u8) {
        self.end = self.first().wrapping_add(usize::from(length));
        self.length = length;
        self.hand = self.end;
    }

    /// Adds a slot behind the others; the hand is then at the end. `false` when all places are in use.
    fn append(&mut self, slot: OwnedSlot) -> bool {
        if usize::from(self.length) >= PLACES {
            return false;
        }
        self.set_length(self.length + 1);
        // SAFETY: the last place in use: below the end of the array.
        unsafe { self.end.sub(1).write(slot) };
        true
    }

    /// How many chunks are in a ring that its thread may be using at this moment: stale at worst.
    ///
    /// # Safety
    /// `ring` points to a ring that stays mapped.
    pub(crate) unsafe fn peek_length(ring: *const Self) -> usize {
        // SAFETY: the caller's promise. No reference is made, and an aligned word of two bytes is read whole.
        usize::from(unsafe { (&raw const (*ring).length).read_volatile() })
    }

    /// Exchanges a freed chunk for the oldest one, unless the ring is at its turn or not full.
    #[inline(always)]
    pub(crate) fn exchange(&mut self, slot: OwnedSlot) -> Pushed {
        if self.hand == self.end {
            return Pushed::AtTurn;
        }
        // SAFETY: the invariant: a place in front of the end.
        unsafe {
            let old = self.hand.replace(slot);
            self.hand = self.hand.add(1);
            Pushed::Exchanged(old)
        }
    }

    /// Puts a slot in when [`Self::exchange`] could not. The ring grows by one place if it may and `room` allows it; otherwise
    /// a new turn begins, and the slot takes the place of another one or, where there is none, leaves at once.
    #[cold]
    pub(crate) fn turn(&mut self, slot: OwnedSlot, room: bool, random: &mut Random) -> Turned {
        if self.length < self.most && room && self.append(slot) {
            // The hand stays at the end until the ring is as long as it may be.
            return Turned::Grown;
        }
        if self.scattered {
            return Turned::Left(self.replace_at_random(slot, random));
        }
        // One draw has bits for all: three for each place of two pairs, and sixteen for where the turn begins.
        let draw = random.u32();
        self.shuffle_oldest(draw as usize);
        // Up to a quarter of the ring is passed over and waits for another turn.
        let passed_over = ((draw >> 16) * (u32::from(self.length / 4) + 1)) >> 16;
        self.hand = self.first().wrapping_add(passed_over as usize);
        match self.exchange(slot) {
            Pushed::Exchanged(old) => Turned::Left(old),
            Pushed::AtTurn => Turned::Left(slot),
        }
    }

    /// Lets some of the oldest slots change places, so that the order of their return is not that of their coming. Only
    /// the oldest quarter, which has waited long enough; only a few, because the program's later walk needs most of the order.
    fn shuffle_oldest(&mut self, draw: usize) {
        let quarter = usize::from(self.length / 4);
        if let Some(oldest) = self.slots().get_mut(..quarter)
            && quarter > 1
        {
            let place = |bits: usize| (bits & 7) * quarter / 8;
            for pair in [draw, draw >> 6] {
                oldest.swap(place(pair), place(pair >> 3));
            }
        }
    }

    /// Exchanges a slot for any one in the array. The hand stays at the end, so that every slot comes here.
    fn replace_at_random(&mut self, slot: OwnedSlot, random: &mut Random) -> OwnedSlot {
        let which = random.below(u32::from(self.length)) as usize;
        match self.slots().get_mut(which) {
            Some(place) => core::mem::replace(place, slot),
            None => slot,
        }
    }

    /// Empties the ring through `leave`; returns how many chunks left.
    pub(crate) fn drain(&mut self, mut leave: impl FnMut(OwnedSlot)) -> i32 {
        for &slot in self.slots().iter() {
            leave(slot);
        }
        let length = self.length;
        self.set_length(0);
        i32::from(length)
    }

    /// The slots that [`Self::exchange`] will let go before the next turn, in this order.
    pub(crate) fn leaving(&self) -> &[OwnedSlot] {
        let count = (self.end.addr() - self.hand.addr()) / size_of::<OwnedSlot>();
        // SAFETY: the invariant: the places from the hand to the end hold slots.
        unsafe { core::slice::from_raw_parts(self.hand, count) }
    }

    /// Whether slots leave in no order.
    pub(crate) const fn is_scattered(&self) -> bool {
        self.scattered
    }

    /// Chunks held back.
    pub(crate) const fn length(&self) -> usize {
        self.length as usize
    }
}

#[cfg(test)]
mod tests {
    use super::{PLACES, Pushed, Ring, Turned};
    use crate::primary::region::OwnedSlot;
    use crate::random::Random;
    use proptest::prelude::*;

    /// A slot whose chunk has this number.
    fn slot(chunk: usize) -> OwnedSlot {
        OwnedSlot::numbered(chunk)
    }

    /// A ring whose places are never freed.
    fn ring(most: u8, scattered: bool) -> Ring {
        // SAFETY: leaked, and used by nobody else.
        unsafe { Ring::new(Box::leak(Box::new([OwnedSlot::NONE; PLACES])), most, scattered) }
    }

    /// The slot that left, if one did, and by how much the ring grew.
    fn push(ring: &mut Ring, chunk: usize, room: bool, random: &mut Random) -> (Option<usize>, usize) {
        match ring.exchange(slot(chunk)) {
            Pushed::Exchanged(old) => (Some(old.chunk), 0),
            Pushed::AtTurn => match ring.turn(slot(chunk), room, random) {
                Turned::Grown => (None, 1),
                Turned::Left(old) => (Some(old.chunk), 0),
            },
        }
    }

    proptest! {
        #[test]
        fn no_chunk_is_lost_or_doubled_and_growth_is_counted(most in 0_u8..=32, scattered: bool, seed: u64, rooms: Vec<bool>) {
            let mut random = Random::from_number(seed);
            let mut ring = ring(most, scattered);
            let (mut inside, mut length) = (std::collections::BTreeSet::new(), 0);
            for (number, room) in rooms.into_iter().enumerate() {
                inside.insert(number + 1);
                let (left, grown) = push(&mut ring, number + 1, room, &mut random);
                if let Some(chunk) = left {
                    prop_assert!(inside.remove(&chunk));
                }
                length += grown;
                prop_assert_eq!(ring.length(), length);
                // SAFETY: a ring that lives.
                prop_assert_eq!(unsafe { Ring::peek_length(&raw const ring) }, length);
                prop_assert_eq!(inside.len(), ring.length());
                prop_assert!(ring.length() <= usize::from(most));
            }
            let mut rest = Vec::new();
            ring.drain(|slot| rest.push(slot.chunk));
            rest.sort_unstable();
            prop_assert_eq!(rest, inside.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_chunk_stays_for_at_least_half_the_places_once_the_ring_is_full(seed: u64) {
            let mut random = Random::from_number(seed);
            let mut ring = ring(32, false);
            for number in 1..5000 {
                if let Some(old) = push(&mut ring, number, true, &mut random).0 {
                    prop_assert!(number - old >= 16 || number < 64, "{old} left at {number}");
                }
            }
        }
    }

    /// A full ring that holds 0 to 31, oldest first.
    fn full() -> Ring {
        let mut ring = ring(32, false);
        for number in 0..PLACES {
            assert!(ring.append(slot(number)));
        }
        ring
    }

    /// How many places are passed over at a turn, and the oldest slots in the order in which they then lie.
    fn turned(random: &mut Random) -> (usize, Vec<usize>) {
        let mut ring = full();
        let Turned::Left(old) = ring.turn(slot(100), false, random) else { panic!("the ring may not grow") };
        let mut order: Vec<usize> = ring.slots().iter().map(|slot| slot.chunk).collect();
        let passed_over = order.iter().position(|&chunk| chunk == 100).expect("it was put in");
        order[passed_over] = old.chunk;
        assert!(order[8..].iter().copied().eq(8..PLACES), "only the oldest quarter changes places: {order:?}");
        assert!(order[..8].iter().all(|chunk| *chunk < 8), "{order:?}");
        order.truncate(8);
        (passed_over, order)
    }

    #[test]
    fn a_turn_passes_over_up_to_a_quarter_of_the_ring() {
        let mut random = Random::from_number(3);
        let passed: std::collections::BTreeSet<usize> = (0..2000).map(|_| turned(&mut random).0).collect();
        assert!(passed.into_iter().eq(0..=8));
    }

    #[test]
    fn any_two_pairs_of_the_oldest_quarter_may_change_places() {
        let mut random = Random::from_number(4);
        let orders: std::collections::BTreeSet<Vec<usize>> = (0..20_000).map(|_| turned(&mut random).1).collect();
        let moved = |order: &Vec<usize>| order.iter().enumerate().filter(|(place, chunk)| place != *chunk).count();
        // Of eight: 28 pairs; two pairs apart 210, and 112 rounds of three that two pairs with one in common make.
        assert_eq!(orders.iter().filter(|order| moved(order) == 0).count(), 1);
        assert_eq!(orders.iter().filter(|order| moved(order) == 2).count(), 28);
        assert_eq!(orders.iter().filter(|order| moved(order) == 3).count(), 112);
        assert_eq!(orders.iter().filter(|order| moved(order) == 4).count(), 210);
    }

    #[test]
    fn a_ring_knows_whether_slots_leave_in_no_order() {
        assert!(ring(8, true).is_scattered() && !ring(8, false).is_scattered());
    }

    #[test]
    fn a_scattered_ring_has_delays_of_all_lengths() {
        let mut random = Random::from_number(2);
        let mut ring = ring(8, true);
        let mut delays = std::collections::BTreeSet::new();
        for number in 1..5000 {
            if let Some(old) = push(&mut ring, number, true, &mut random).0 {
                delays.insert(number - old);
            }
        }
        assert!((1..20).all(|delay| delays.contains(&delay)), "{delays:?}");
    }

    #[test]
    fn the_delay_varies() {
        let mut random = Random::from_number(1);
        let mut ring = ring(32, false);
        let mut delays = std::collections::BTreeSet::new();
        for number in 1..5000 {
            if let Some(old) = push(&mut ring, number, true, &mut random).0 {
                delays.insert(number - old);
            }
        }
        assert!(delays.len() >= 8, "{delays:?}");
    }

    /// What leaves before the next turn is known at the turn: the heap profile chooses among it.
    #[test]
    fn the_slots_that_will_leave_before_the_next_turn_are_told_in_their_order() {
        let mut random = Random::from_number(3);
        let mut ring = ring(12, false);
        for number in 1..=12 {
            push(&mut ring, number, true, &mut random);
        }
        for turn in 0..100 {
            assert_eq!(ring.leaving(), []);
            push(&mut ring, 1000 * turn + 100, true, &mut random);
            let announced: Vec<usize> = ring.leaving().iter().map(|slot| slot.chunk).collect();
            assert!((9 - 1..12).contains(&announced.len()), "up to a quarter is passed over: {announced:?}");
            for (number, announced) in announced.into_iter().enumerate() {
                assert_eq!(ring.exchange(slot(1000 * turn + 101 + number)), Pushed::Exchanged(slot(announced)));
            }
        }
    }
}
