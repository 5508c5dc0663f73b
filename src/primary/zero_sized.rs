//! Chunks of no bytes: `malloc(0)`, `operator new(0)`.
//!
//! Bug: a program asks for `n * size` bytes with `n` zero and then writes to the first element. So
//! each such chunk is an address of its own in a region that is never accessible: the first access faults. All that is
//! known about it lies in its state byte. An address comes back late: after all others
//! of at least 4,096.

use super::arena::Arena;
use super::region::{Region, SlotIndex};
use crate::chunk::header::Origin;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil, page_floor};
use crate::random::Random;
use core::sync::atomic::{AtomicU8, Ordering};

/// A live state byte is this plus the origin.
const LIVE: u8 = 0x10;
const FREED: u8 = 0x20;

/// The addresses of zero-sized chunks.
pub(crate) struct ZeroSized {
    region: Option<usize>,
    /// State bytes that are mapped.
    committed: u32,
    live: u32,
    cursor: u32,
}

/// What a zero-sized address turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Live(Origin),
    Freed,
    Nothing,
}

impl ZeroSized {
    pub(crate) const fn new() -> Self {
        Self { region: None, committed: 0, live: 0, cursor: 0 }
    }

    /// An address for a chunk of no bytes.
    ///
    /// # Errors
    /// When there is no region left, or no memory for the state bytes.
    pub(crate) fn take(&mut self, arena: &Arena, random: &mut Random, origin: Origin) -> Result<usize, OutOfMemory> {
        let number = match self.region {
            Some(number) => number,
            None => {
                let number = arena.open_region(None, random)?;
                self.region = Some(number);
                number
            }
        };
        let region = arena.region(number);
        // Some addresses are passed over, so that the next one is not known.
        self.cursor += random.below(8);
        loop {
            if self.cursor >= self.committed {
                if self.live < self.committed / 2 {
                    self.cursor = random.below(8);
                } else {
                    self.commit(region)?;
                }
            }
            let state = region.state(SlotIndex(self.cursor));
            let index = SlotIndex(self.cursor);
            self.cursor += 1;
            if state.load(Ordering::Relaxed) & LIVE == 0 {
                state.store(LIVE | origin as u8, Ordering::Relaxed);
                self.live += 1;
                return Ok(region.chunk(index, crate::size_class::MIN_ALIGN));
            }
        }
    }

    fn commit(&mut self, region: &Region) -> Result<(), OutOfMemory> {
        let next = self.committed + PAGE as u32;
        if next > region.slots() {
            return Err(OutOfMemory);
        }
        let start = page_floor(region.state(SlotIndex(self.committed)).as_ptr().addr());
        let end = page_ceil(region.state(SlotIndex(next - 1)).as_ptr().addr() + 1);
        mapping::commit(start, end - start)?;
        self.committed = next;
        self.cursor = self.cursor.max(next - PAGE as u32);
        Ok(())
    }

    fn state<'a>(&self, region: &'a Region, address: usize) -> Option<&'a AtomicU8> {
        let stride = crate::size_class::MIN_ALIGN;
        let distance = address.checked_sub(region.chunk(SlotIndex(0), stride))?;
        let index = u32::try_from(distance / stride).ok()?;
        (distance % stride == 0 && index < self.committed).then(|| region.state(SlotIndex(index)))
    }

    /// What stands at an address of this region.
    pub(crate) fn find(&self, region: &Region, address: usize) -> Found {
        match self.state(region, address).map_or(0, |state| state.load(Ordering::Relaxed)) {
            FREED => Found::Freed,
            state if state & LIVE != 0 => Origin::from_bits(u32::from(state & 7)).map_or(Found::Nothing, Found::Live),
            _ => Found::Nothing,
        }
    }

    /// Takes a live address back; `false` when it is not live any more.
    pub(crate) fn give_back(&mut self, region: &Region, address: usize) -> bool {
        let live = matches!(self.find(region, address), Found::Live(_));
        if live && let Some(state) = self.state(region, address) {
            state.store(FREED, Ordering::Relaxed);
            self.live -= 1;
        }
        live
    }

    /// Bytes of state bytes that are accessible.
    pub(crate) const fn committed(&self) -> usize {
        self.committed as usize
    }

    /// How many are live.
    pub(crate) const fn live(&self) -> u32 {
        self.live
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::Arena;
    use super::{Found, ZeroSized};
    use crate::chunk::header::Origin;
    use crate::os::mapping::{PAGE, is_accessible};
    use crate::random::Random;
    use std::collections::BTreeSet;

    struct Zero(Box<Arena>, ZeroSized, Random);

    impl Zero {
        fn new() -> Self {
            let layout = std::alloc::Layout::new::<Arena>();
            // SAFETY: zeroes are a valid arena of nothing.
            let mut arena = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Arena>()) };
            let mut random = Random::from_kernel().expect("entropy");
            arena.reserve(1 << 30, true, &mut random).expect("address space");
            Self(arena, ZeroSized::new(), random)
        }

        fn take(&mut self, origin: Origin) -> usize {
            self.1.take(&self.0, &mut self.2, origin).expect("an address")
        }

        fn find(&self, address: usize) -> Found {
            self.1.find(self.0.own_region(address), address)
        }

        fn give_back(&mut self, address: usize) -> bool {
            self.1.give_back(self.0.own_region(address), address)
        }
    }

    impl Drop for Zero {
        fn drop(&mut self) {
            self.0.unmap();
        }
    }

    #[test]
    fn each_chunk_of_no_bytes_has_an_inaccessible_address_of_its_own_and_is_given_back_once() {
        let mut zero = Zero::new();
        let mut live = BTreeSet::new();
        for number in 0..10_000 {
            let origin = if number % 2 == 0 { Origin::Malloc } else { Origin::New };
            let address = zero.take(origin);
            assert!(address.is_multiple_of(16) && live.insert(address), "handed out twice");
            assert_eq!(zero.find(address), Found::Live(origin));
            assert_eq!(zero.find(address + 8), Found::Nothing);
            assert_eq!(zero.1.live() as usize, live.len());
        }
        assert!(!live.iter().any(|&address| is_accessible(address)));
        assert!(zero.1.committed() >= live.len(), "a state byte each");
        for &address in &live {
            assert!(zero.give_back(address));
            assert_eq!(zero.find(address), Found::Freed);
            assert!(!zero.give_back(address), "a second free");
        }
        assert_eq!(zero.1.live(), 0);
    }

    #[test]
    fn addresses_that_nobody_was_given_are_no_chunks() {
        let mut zero = Zero::new();
        let taken: BTreeSet<usize> = (0..300).map(|_| zero.take(Origin::Malloc)).collect();
        let (first, last) = (*taken.first().expect("some"), *taken.last().expect("some"));
        for address in (first - 1000..last + 100_000).step_by(8) {
            assert_eq!(zero.find(address) == Found::Live(Origin::Malloc), taken.contains(&address));
            assert!(zero.find(address) != Found::Freed);
            assert!(taken.contains(&address) || !zero.give_back(address));
        }
    }

    #[test]
    fn when_all_addresses_are_taken_the_next_request_is_refused_and_what_comes_back_can_be_had() {
        let mut zero = Zero::new();
        let mut taken = Vec::new();
        while let Ok(address) = zero.1.take(&zero.0, &mut zero.2, Origin::Malloc) {
            taken.push(address);
        }
        assert!(taken.len() > 1000, "{}", taken.len());
        assert_eq!(zero.1.live() as usize, taken.len());
        for &address in &taken {
            assert!(zero.give_back(address));
        }
        let again: Vec<usize> = (0..100).map(|_| zero.take(Origin::New)).collect();
        assert!(again.iter().all(|&address| zero.find(address) == Found::Live(Origin::New)));
    }

    /// An attacker who knows one address knows neither the next nor how many lie between; a freed one comes back after all
    /// others.
    #[test]
    fn some_addresses_are_passed_over_and_a_freed_one_comes_back_late() {
        let mut zero = Zero::new();
        let taken: Vec<usize> = (0..64).map(|_| zero.take(Origin::Malloc)).collect();
        let steps: BTreeSet<usize> = taken.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.len() >= 4 && steps.iter().all(|step| (16..=8 * 16).contains(step)), "{steps:?}");
        let freed = taken[10];
        assert!(zero.give_back(freed));
        let back = (1..20_000).find(|_| {
            let address = zero.take(Origin::Malloc);
            let same = address == freed;
            assert!(same || zero.give_back(address));
            same
        });
        assert!(back.is_none_or(|after| after > 400), "{back:?}");
        assert!(zero.1.committed() <= 2 * PAGE, "addresses are used again, and the table does not grow for ever");
    }
}
