//! The order in which slots are used: those that were freed longest ago first, a little shuffled.

use crate::random::Random;

/// Numbers of slots that wait to be used, in places that belong to the caller.
pub(super) struct Queue {
    head: u32,
    length: u32,
    /// Whether the one at the head is the next.
    chosen: bool,
}

/// The next slot is one of this share of those that wait, and one of so many.
const SHARE: u32 = 8;
const MOST: u32 = 32;

impl Queue {
    pub(super) const EMPTY: Self = Self { head: 0, length: 0, chosen: false };

    /// Puts a slot at the end. The caller has a place for every slot there is.
    pub(super) fn push(&mut self, places: &mut [u16], slot: u16) {
        let count = places.len() as u32;
        if self.length >= count {
            return;
        }
        if let Some(place) = places.get_mut(((self.head + self.length) % count) as usize) {
            *place = slot;
            self.length += 1;
        }
    }

    /// Takes one of the slots that have waited longest. Which one is random, so that an address does not come back after
    /// a number of frees that can be counted.
    pub(super) fn pop(&mut self, places: &mut [u16], random: &mut Random) -> Option<u16> {
        if !self.chosen {
            self.choose(places, random);
        }
        if self.length == 0 {
            return None;
        }
        let slot = *places.get(self.head as usize)?;
        self.head = (self.head + 1) % places.len() as u32;
        self.length -= 1;
        self.choose(places, random);
        Some(slot)
    }

    /// The slot that comes next, where that is certain: what is known about it can be fetched ahead.
    pub(super) fn next(&self, places: &[u16]) -> Option<u16> {
        if self.chosen { places.get(self.head as usize).copied() } else { None }
    }

    /// Chooses the slot that comes next, and puts it at the head.
    fn choose(&mut self, places: &mut [u16], random: &mut Random) {
        self.chosen = self.length > 0;
        if self.chosen {
            let among = (self.length / SHARE).clamp(1, MOST);
            let other = (self.head + random.below(among)) % places.len() as u32;
            places.swap(self.head as usize, other as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::random::Random;

    #[test]
    fn every_slot_comes_back_once_and_late_and_not_always_in_the_same_order() {
        let mut random = Random::from_number(1);
        let mut places = [0; 64];
        let mut queue = Queue::EMPTY;
        for slot in 0..64 {
            queue.push(&mut places, slot);
        }
        let mut last_seen = [0_u32; 64];
        let mut delays = std::collections::BTreeSet::new();
        for round in 1..20_000_u32 {
            let next = queue.next(&places);
            let slot = queue.pop(&mut places, &mut random).expect("a slot");
            assert!(round == 1 && next.is_none() || next == Some(slot), "{next:?} was announced, not {slot}");
            let delay = round - core::mem::replace(&mut last_seen[usize::from(slot)], round);
            if round > 64 {
                delays.insert(delay);
                assert!(delay >= 56, "a slot came back after {delay}");
            }
            queue.push(&mut places, slot);
        }
        assert!(delays.len() > 10, "{delays:?}");
        let mut rest: Vec<_> = core::iter::from_fn(|| queue.pop(&mut places, &mut random)).collect();
        rest.sort_unstable();
        assert_eq!(rest, (0..64).collect::<Vec<_>>());
        assert_eq!(queue.next(&places), None, "of none that waits");
    }

    #[test]
    fn the_next_slot_is_any_of_an_eighth_of_those_that_wait_and_of_32_at_most() {
        for (waiting, among) in [(1_u16, 1), (15, 1), (16, 2), (68, 8), (255, 31), (256, 32), (1000, 32)] {
            let firsts: std::collections::BTreeSet<u16> = (0..500)
                .map(|seed| {
                    let (mut places, mut queue) = (vec![0; waiting.into()], Queue::EMPTY);
                    (0..waiting).for_each(|slot| queue.push(&mut places, slot));
                    queue.pop(&mut places, &mut Random::from_number(seed)).expect("a slot")
                })
                .collect();
            assert!(firsts.iter().copied().eq(0..among), "of {waiting}: {firsts:?}");
        }
    }
}
