//! What was worked out before: rules by address, and where the allocator's own code lies. Threads share it without a lock.

use super::rule::{PACKED_BITS, Rule};
use crate::os::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::ops::Range;

/// Zeroes are a valid one that knows nothing. A rule and the address that it is for are one word, so racing threads may lose a rule,
/// but never mix two up: the word's place says twelve bits of the scrambled address, the word the others.
pub(crate) struct Rules {
    words: [AtomicU64; RULES],
    /// End and start of the library that is the allocator; the end is zero as long as nobody asked.
    own: [AtomicUsize; 2],
}

/// 32 KiB, of which only what is used is ever touched: a walk costs a tenth when every rule is found here.
const RULES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 12;

/// Addresses of code have no more bits.
const ADDRESS_BITS: u32 = PLACE_BITS + 64 - PACKED_BITS;

/// The place of an address, and what else tells it from others, in the upper bits. `None` where no code lies.
pub(crate) fn place_of(pc: usize) -> Option<(usize, u64)> {
    let pc = pc as u64;
    // Spreads the bits over the upper ones, and makes no two addresses the same.
    let scrambled = pc.wrapping_mul(0x9e37_79b9_7f4a_7c15) & ((1 << ADDRESS_BITS) - 1);
    let place = scrambled >> (ADDRESS_BITS - PLACE_BITS);
    (pc >> ADDRESS_BITS == 0).then_some((place as usize, scrambled << PACKED_BITS))
}

impl Rules {
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "heaps are made in zeroed memory, but a model's atomics are not numbers")
    )]
    pub(crate) fn new() -> Self {
        Self { words: [const { AtomicU64::new(0) }; RULES], own: [const { AtomicUsize::new(0) }; 2] }
    }

    pub(crate) fn get(&self, pc: usize) -> Option<Rule> {
        let (place, tag) = place_of(pc)?;
        let packed = self.words.get(place)?.load(Ordering::Relaxed) ^ tag;
        // A packed rule is never zero, so an empty word is none even where the tag is zero.
        (packed != 0 && packed >> PACKED_BITS == 0).then(|| Rule::unpack(packed))
    }

    pub(crate) fn put(&self, pc: usize, rule: &Rule) {
        if let (Some(packed), Some((place, tag))) = (rule.pack(), place_of(pc))
            && let Some(word) = self.words.get(place)
        {
            word.store(tag | packed, Ordering::Relaxed);
        }
    }

    /// The addresses of the allocator's own code, found out by `find` the first time: never empty at zero.
    pub(crate) fn own(&self, find: impl FnOnce() -> Range<usize>) -> Range<usize> {
        let [end, start] = &self.own;
        match end.load(Ordering::Acquire) {
            0 => {
                let own = find();
                start.store(own.start, Ordering::Relaxed);
                end.store(own.end, Ordering::Release);
                own
            }
            end => start.load(Ordering::Relaxed)..end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::{Base, Place};
    use super::{RULES, Rule, Rules};
    use proptest::prelude::*;

    fn rule(words: i32) -> Rule {
        Rule {
            base: Base::StackPointer,
            offset: words * 8,
            indirect: false,
            return_address: Place::AtFrame(-8),
            frame_pointer: Place::Same,
            signal: false,
        }
    }

    proptest! {
        #[test]
        fn an_address_finds_its_own_rule_or_none(addresses in prop::collection::vec(0..1_usize << 47, 1..200)) {
            let rules = Rules::new();
            for (number, &pc) in addresses.iter().enumerate() {
                rules.put(pc, &rule(number as i32 + 1));
                prop_assert_eq!(rules.get(pc), Some(rule(number as i32 + 1)));
            }
            for &pc in &addresses {
                let last = addresses.iter().rposition(|&other| other == pc).expect("it is there");
                prop_assert!(rules.get(pc).is_none_or(|found| found == rule(last as i32 + 1)));
            }
        }
    }

    #[test]
    fn addresses_that_share_a_place_are_told_apart() {
        let rules = Rules::new();
        // More addresses than places, so that all share theirs with others.
        for pc in 0x40_0000..0x40_0000 + 4 * RULES {
            assert_eq!(rules.get(pc), None);
            rules.put(pc, &rule(1 + (pc & 0xff) as i32));
            assert_eq!(rules.get(pc), Some(rule(1 + (pc & 0xff) as i32)));
        }
    }

    #[test]
    fn where_no_code_lies_nothing_is_known() {
        let rules = Rules::new();
        for pc in [0, usize::MAX, 1 << 47] {
            rules.put(pc, &rule(7));
        }
        assert_eq!([usize::MAX, 1 << 47, (1 << 47) - 1].map(|pc| rules.get(pc)), [None; 3]);
    }
}
