//! The delayed-free quarantine of small chunks: per thread and class, a ring.
//!
//! Attack: use after free. A freed slot must not come back at once (the next allocation of its size
//! would overlay it), nor after a number of frees that an attacker can count. A ring gives the minimum delay and
//! keeps the order in which memory comes back, which the program's later walk needs; its length
//! changes at every turn, which makes the delay unpredictable. Cost: one exchange of array elements.
//!
//! The ring is only the delay: that a chunk was freed is known from its state byte, so no flood of
//! frees makes a double free pass.

use crate::primary::region::OwnedSlot;
use crate::random::Random;

/// Places in a ring.
pub(crate) const PLACES: usize = 32;

/// The most slots that leave at one turn: those that the ring shrinks by, and one for the new slot.
pub(crate) const MOST_AT_ONCE: usize = PLACES / 4 + 1;

/// Slots of one class that were freed by one thread: a ring, oldest first, or, where order is worth nothing, a
/// random-replacement array.
pub(crate) struct Ring {
    /// Next place to exchange; the oldest chunk is there when the ring is full.
    hand: u16,
    /// Places in use.
    length: u16,
    /// Places that may be used at this turn.
    limit: u16,
    /// Places that may be used at most, for the class.
    most: u8,
    /// Whether the slot that leaves is chosen at random: for slots so long that no prefetcher minds.
    scattered: bool,
}

/// Places of a ring; they lie apart, so that a ring that is not used costs no memory.
pub(crate) type RingSlots = [OwnedSlot; PLACES];

/// What became of a chunk that was put into a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It took the place of this one, which leaves the quarantine.
    Exchanged(OwnedSlot),
    /// The ring must be asked again, in [`Ring::turn`].
    AtTurn,
}

impl Ring {
    pub(crate) const fn new(most: u8, scattered: bool) -> Self {
        Self { hand: 0, length: 0, limit: 0, most, scattered }
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
    pub(crate) fn exchange(&mut self, slots: &mut RingSlots, slot: OwnedSlot) -> Pushed {
        if self.hand >= self.length {
            return Pushed::AtTurn;
        }
        // The mask changes nothing: `hand` is below `length`. It spares a bounds check.
        let place = &mut slots[usize::from(self.hand) & (PLACES - 1)];
        self.hand += 1;
        Pushed::Exchanged(core::mem::replace(place, slot))
    }

    /// Puts a chunk in when [`Self::exchange`] could not. The ring grows by one place if it may and
    /// `room` allows it; otherwise a new turn begins, of another length: chunks that have no place in it leave
    /// through `leave`, and so does one for the new chunk.
    ///
    /// Returns by how many places the ring has grown or, negative, shrunk.
    #[cold]
    pub(crate) fn turn(
        &mut self,
        slots: &mut RingSlots,
        slot: OwnedSlot,
        room: bool,
        random: &mut Random,
        mut leave: impl FnMut(OwnedSlot),
    ) -> i32 {
        if self.length < self.limit
            && room
            && let Some(place) = slots.get_mut(usize::from(self.length))
        {
            *place = slot;
            self.length += 1;
            // Stay at the end until the ring is as long as it may be.
            self.hand = self.length;
            return 1;
        }
        if self.scattered && self.length > 0 {
            return self.replace_at_random(slots, slot, random, leave);
        }
        // Three quarters to all of the places: the delay changes by a quarter from turn to turn.
        let spread = u32::from(self.most) / 4 + 1;
        self.limit = u16::from(self.most) - random.below(spread) as u16;
        let before = self.length;
        // The oldest leave; they stand at the front when the hand is at the end.
        let surplus = usize::from(before.saturating_sub(self.limit));
        for &oldest in slots.iter().take(surplus) {
            leave(oldest);
        }
        slots.copy_within(surplus..usize::from(before), 0);
        self.length -= surplus as u16;
        self.shuffle_oldest(slots, random);
        self.hand = 0;
        let mut grown = i32::from(self.length) - i32::from(before);
        match self.exchange(slots, slot) {
            Pushed::Exchanged(old) => leave(old),
            Pushed::AtTurn if self.limit > 0 && room => {
                // Empty until now.
                slots[0] = slot;
                self.length = 1;
                self.hand = 1;
                grown += 1;
            }
            Pushed::AtTurn => leave(slot),
        }
        grown
    }

    /// Lets some of the oldest slots change places, so that the order of their return is not that of their coming. Only
    /// the oldest, which have waited long enough; only a few, because the program's later walk needs most of the order.
    fn shuffle_oldest(&self, slots: &mut RingSlots, random: &mut Random) {
        const OLDEST: u16 = PLACES as u16 / 4;
        if self.length < OLDEST {
            return;
        }
        // One draw has bits for both pairs: three for each place.
        let draw = random.u32() as usize;
        for pair in [draw, draw >> 6] {
            slots.swap(pair & 7, (pair >> 3) & 7);
        }
    }

    /// Exchanges a slot for any one in the array. The hand stays at the end, so that every slot comes here.
    fn replace_at_random(
        &mut self,
        slots: &mut RingSlots,
        slot: OwnedSlot,
        random: &mut Random,
        mut leave: impl FnMut(OwnedSlot),
    ) -> i32 {
        self.limit = u16::from(self.most);
        self.hand = self.length;
        let which = random.below(u32::from(self.length)) as usize;
        if let Some(place) = slots.get_mut(which) {
            leave(core::mem::replace(place, slot));
        }
        0
    }

    /// Empties the ring through `leave`; returns how many chunks left.
    pub(crate) fn drain(&mut self, slots: &RingSlots, mut leave: impl FnMut(OwnedSlot)) -> i32 {
        let length = self.length;
        for &slot in slots.iter().take(usize::from(length)) {
            leave(slot);
        }
        self.length = 0;
        self.hand = 0;
        self.limit = 0;
        i32::from(length)
    }

    /// Whether slots leave in no order.
    pub(crate) const fn is_scattered(&self) -> bool {
        self.scattered
    }

    /// Chunks held back.
    pub(crate) const fn length(&self) -> u16 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::{PLACES, Pushed, Ring, RingSlots};
    use crate::primary::region::OwnedSlot;
    use crate::random::Random;
    use proptest::prelude::*;

    /// A slot whose chunk has this number.
    fn slot(chunk: usize) -> OwnedSlot {
        OwnedSlot::numbered(chunk)
    }

    fn push((ring, slots): &mut (Ring, RingSlots), chunk: usize, room: bool, random: &mut Random) -> (Vec<usize>, i32) {
        let mut left = Vec::new();
        let grown = match ring.exchange(slots, slot(chunk)) {
            Pushed::Exchanged(old) => {
                left.push(old.chunk);
                0
            }
            Pushed::AtTurn => ring.turn(slots, slot(chunk), room, random, |old| left.push(old.chunk)),
        };
        (left, grown)
    }

    proptest! {
        #[test]
        fn no_chunk_is_lost_or_doubled_and_growth_is_counted(most in 0_u8..=32, scattered: bool, seed: u64, rooms: Vec<bool>) {
            let mut random = Random::from_number(seed);
            let mut ring = (Ring::new(most, scattered), [OwnedSlot::NONE; PLACES]);
            let (mut inside, mut length) = (std::collections::BTreeSet::new(), 0);
            for (number, room) in rooms.into_iter().enumerate() {
                inside.insert(number + 1);
                let (left, grown) = push(&mut ring, number + 1, room, &mut random);
                for chunk in left {
                    prop_assert!(inside.remove(&chunk));
                }
                length += grown;
                prop_assert_eq!(i32::from(ring.0.length()), length);
                prop_assert_eq!(inside.len(), usize::from(ring.0.length()));
                prop_assert!(ring.0.length() <= u16::from(most));
            }
            let mut rest = Vec::new();
            ring.0.drain(&ring.1, |slot| rest.push(slot.chunk));
            rest.sort_unstable();
            prop_assert_eq!(rest, inside.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_chunk_stays_for_at_least_half_the_places_once_the_ring_is_full(seed: u64) {
            let mut random = Random::from_number(seed);
            let mut ring = (Ring::new(32, false), [OwnedSlot::NONE; PLACES]);
            for number in 1..5000 {
                for old in push(&mut ring, number, true, &mut random).0 {
                    prop_assert!(number - old >= 16 || number < 64, "{old} left at {number}");
                }
            }
        }
    }

    #[test]
    fn a_scattered_ring_has_delays_of_all_lengths() {
        let mut random = Random::from_number(2);
        let mut ring = (Ring::new(8, true), [OwnedSlot::NONE; PLACES]);
        let mut delays = std::collections::BTreeSet::new();
        for number in 1..5000 {
            for old in push(&mut ring, number, true, &mut random).0 {
                delays.insert(number - old);
            }
        }
        assert!((1..20).all(|delay| delays.contains(&delay)), "{delays:?}");
    }

    #[test]
    fn the_delay_varies() {
        let mut random = Random::from_number(1);
        let mut ring = (Ring::new(32, false), [OwnedSlot::NONE; PLACES]);
        let mut delays = std::collections::BTreeSet::new();
        for number in 1..5000 {
            for old in push(&mut ring, number, true, &mut random).0 {
                delays.insert(number - old);
            }
        }
        assert!(delays.len() >= 8, "{delays:?}");
    }
}
