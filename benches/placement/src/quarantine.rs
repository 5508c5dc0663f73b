//! In which order freed slots come back: the candidates.

use crate::random::Random;
use crate::settings::Return;

/// Places of a class, as in the product.
pub(crate) const PLACES: usize = 32;

/// The freed slots of one class in one thread.
pub(crate) struct Quarantine {
    slots: [usize; PLACES],
    /// Places that may be used.
    most: usize,
    /// The ring: places in use, and the next one to exchange.
    length: usize,
    hand: usize,
    /// Where the places of random replacement begin, and how many are in use.
    replaced: usize,
    replacing: usize,
}

impl Quarantine {
    pub(crate) fn new(returns: Return, most: usize) -> Self {
        let ring = match returns {
            Return::AtOnce | Return::Replacement => 0,
            Return::Ring | Return::Varying => most,
            Return::Both => most / 2,
        };
        Self { slots: [0; PLACES], most, length: 0, hand: 0, replaced: ring, replacing: 0 }
    }

    /// Puts a slot in; those that have no place any more leave.
    #[inline(always)]
    pub(crate) fn push(&mut self, returns: Return, chunk: usize, random: &mut Random, mut leave: impl FnMut(usize)) {
        match returns {
            Return::AtOnce => leave(chunk),
            Return::Ring => {
                if let Some(old) = self.turn_ring(chunk, self.replaced) {
                    leave(old);
                }
            }
            Return::Varying => self.turn_varying(chunk, random, leave),
            Return::Replacement => {
                if let Some(old) = self.replace(chunk, random) {
                    leave(old);
                }
            }
            Return::Both => {
                if let Some(old) = self.turn_ring(chunk, self.replaced)
                    && let Some(older) = self.replace(old, random)
                {
                    leave(older);
                }
            }
        }
    }

    #[inline(always)]
    fn turn_ring(&mut self, chunk: usize, places: usize) -> Option<usize> {
        if self.length < places {
            self.slots[self.length & (PLACES - 1)] = chunk;
            self.length += 1;
            return None;
        }
        if self.hand >= self.length {
            self.hand = 0;
        }
        let old = core::mem::replace(&mut self.slots[self.hand & (PLACES - 1)], chunk);
        self.hand += 1;
        Some(old)
    }

    /// At each turn the ring gets another length, between three quarters and all of the places.
    fn turn_varying(&mut self, chunk: usize, random: &mut Random, mut leave: impl FnMut(usize)) {
        if self.hand < self.length {
            leave(core::mem::replace(&mut self.slots[self.hand & (PLACES - 1)], chunk));
            self.hand += 1;
            return;
        }
        if self.length < self.replaced {
            self.slots[self.length & (PLACES - 1)] = chunk;
            self.length += 1;
            self.hand = self.length;
            return;
        }
        // `replaced` is the limit of this turn.
        self.replaced = self.most - random.below(self.most as u32 / 4 + 1) as usize;
        while self.length > self.replaced {
            leave(self.slots[0]);
            self.slots.copy_within(1..self.length, 0);
            self.length -= 1;
        }
        leave(core::mem::replace(&mut self.slots[0], chunk));
        self.hand = 1;
    }

    #[inline(always)]
    fn replace(&mut self, chunk: usize, random: &mut Random) -> Option<usize> {
        let places = self.most - self.replaced;
        if self.replacing < places {
            self.slots[(self.replaced + self.replacing) & (PLACES - 1)] = chunk;
            self.replacing += 1;
            return None;
        }
        let which = self.replaced + random.below(places as u32) as usize;
        Some(core::mem::replace(&mut self.slots[which & (PLACES - 1)], chunk))
    }
}
