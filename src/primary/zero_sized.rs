//! Chunks of no bytes: `malloc(0)`, `operator new(0)`.
//!
//! Bug: a program asks for `n * size` bytes with `n` zero and then writes to the first element. So
//! each such chunk is an address of its own in a region that is never accessible: the first access faults. All that is
//! known about it lies in its state byte. An address comes back late: after all others
//! of at least 4,096, as long as half of them are free.
//!
//! In a small arena regions are small, and there are several. Only when there is no other left are they filled to the last
//! address.

use super::arena::Arena;
use super::region::{Region, SlotIndex};
use crate::chunk::header::Origin;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil, page_floor};
use crate::random::Random;
use core::sync::atomic::{AtomicU8, Ordering};

/// A live state byte is this plus the origin.
const LIVE: u8 = 0x10;
const FREED: u8 = 0x20;

/// The most regions that are taken: they are no use to size classes.
const MOST: usize = 16;

/// A region and what is known of it.
#[derive(Clone, Copy)]
struct Place {
    number: usize,
    /// State bytes that are mapped.
    committed: u32,
    live: u32,
    cursor: u32,
}

/// The addresses of zero-sized chunks.
pub(crate) struct ZeroSized {
    places: [Place; MOST],
    count: usize,
    /// Which of them the last address was taken from.
    current: usize,
}

/// What a zero-sized address turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Live(Origin),
    Freed,
    Nothing,
}

impl Place {
    const fn new(number: usize) -> Self {
        Self { number, committed: 0, live: 0, cursor: 0 }
    }

    /// An address; `None` when half of them are live and no more are to be had, or, where it is `crowded`, when all are.
    fn take(&mut self, region: &Region, random: &mut Random, origin: Origin, crowded: bool) -> Option<usize> {
        // Some addresses are passed over, so that the next one is not known.
        self.cursor += random.below(8);
        loop {
            if self.cursor >= self.committed {
                if self.live < self.committed / 2 {
                    self.cursor = random.below(8);
                } else if self.commit(region).is_err() {
                    if !crowded || self.live == self.committed {
                        self.cursor = self.committed;
                        return None;
                    }
                    self.cursor = 0;
                }
            }
            let state = region.state(SlotIndex(self.cursor));
            let index = SlotIndex(self.cursor);
            self.cursor += 1;
            if state.load(Ordering::Relaxed) & LIVE == 0 {
                state.store(LIVE | origin as u8, Ordering::Relaxed);
                self.live += 1;
                return Some(region.chunk(index, crate::size_class::MIN_ALIGN));
            }
        }
    }

    fn commit(&mut self, region: &Region) -> Result<(), OutOfMemory> {
        let next = region.slots().min(self.committed + PAGE as u32);
        if next == self.committed {
            return Err(OutOfMemory);
        }
        let start = page_floor(region.state(SlotIndex(self.committed)).as_ptr().addr());
        let end = page_ceil(region.state(SlotIndex(next - 1)).as_ptr().addr() + 1);
        mapping::commit(start, end - start)?;
        self.cursor = self.cursor.clamp(self.committed, next - 1);
        self.committed = next;
        Ok(())
    }

    fn state<'a>(&self, region: &'a Region, address: usize) -> Option<&'a AtomicU8> {
        let stride = crate::size_class::MIN_ALIGN;
        let distance = address.checked_sub(region.chunk(SlotIndex(0), stride))?;
        let index = u32::try_from(distance / stride).ok()?;
        (distance % stride == 0 && index < self.committed).then(|| region.state(SlotIndex(index)))
    }

    fn find(&self, region: &Region, address: usize) -> Found {
        match self.state(region, address).map_or(0, |state| state.load(Ordering::Relaxed)) {
            FREED => Found::Freed,
            state if state & LIVE != 0 => Origin::from_bits(u32::from(state & 7)).map_or(Found::Nothing, Found::Live),
            _ => Found::Nothing,
        }
    }
}

impl ZeroSized {
    pub(crate) const fn new() -> Self {
        Self { places: [Place::new(0); MOST], count: 0, current: 0 }
    }

    /// An address for a chunk of no bytes.
    ///
    /// # Errors
    /// When there is no region left, or no memory for the state bytes.
    pub(crate) fn take(&mut self, arena: &Arena, random: &mut Random, origin: Origin) -> Result<usize, OutOfMemory> {
        if let Some(address) = self.take_at(self.current, arena, random, origin, false) {
            return Ok(address);
        }
        self.take_elsewhere(arena, random, origin)
    }

    fn take_at(
        &mut self,
        which: usize,
        arena: &Arena,
        random: &mut Random,
        origin: Origin,
        crowded: bool,
    ) -> Option<usize> {
        let place = self.places.get_mut(..self.count)?.get_mut(which)?;
        let address = place.take(arena.region(place.number), random, origin, crowded)?;
        self.current = which;
        Some(address)
    }

    /// From another region that is not crowded, from a new one, or from any that has an address left.
    #[cold]
    fn take_elsewhere(&mut self, arena: &Arena, random: &mut Random, origin: Origin) -> Result<usize, OutOfMemory> {
        for which in 0..self.count {
            if let Some(address) = self.take_at(which, arena, random, origin, false) {
                return Ok(address);
            }
        }
        if let Some(place) = self.places.get_mut(self.count)
            && let Ok(number) = arena.open_region(None, random)
        {
            *place = Place::new(number);
            self.count += 1;
            if let Some(address) = self.take_at(self.count - 1, arena, random, origin, false) {
                return Ok(address);
            }
        }
        // In turn, so that none of them is searched over and over for the one address that came back.
        let (last, count) = (self.current, self.count);
        let mut others = (1..=count).map(|step| (last + step) % count);
        others.find_map(|which| self.take_at(which, arena, random, origin, true)).ok_or(OutOfMemory)
    }

    fn opened(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().take(self.count)
    }

    /// What stands at an address of this region.
    pub(crate) fn find(&self, arena: &Arena, region: &Region, address: usize) -> Found {
        let number = arena.number_of(region);
        let place = self.opened().find(|place| place.number == number);
        place.map_or(Found::Nothing, |place| place.find(region, address))
    }

    /// Takes a live address back; `false` when it is not live any more.
    pub(crate) fn give_back(&mut self, arena: &Arena, region: &Region, address: usize) -> bool {
        let number = arena.number_of(region);
        let mut places = self.places.iter_mut().take(self.count);
        let Some(place) = places.find(|place| place.number == number) else { return false };
        let live = matches!(place.find(region, address), Found::Live(_));
        if live && let Some(state) = place.state(region, address) {
            state.store(FREED, Ordering::Relaxed);
            place.live -= 1;
        }
        live
    }

    /// Bytes of state bytes that are accessible.
    pub(crate) fn committed(&self) -> usize {
        self.opened().map(|place| place.committed as usize).sum()
    }

    /// How many are live.
    pub(crate) fn live(&self) -> usize {
        self.opened().map(|place| place.live as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::Arena;
    use super::{Found, MOST, ZeroSized};
    use crate::chunk::header::Origin;
    use crate::os::interference::{ALL, Call, refusing};
    use crate::os::mapping::{PAGE, is_accessible};
    use crate::random::Random;
    use std::collections::BTreeSet;

    struct Zero(Box<Arena>, ZeroSized, Random);

    impl Zero {
        fn new() -> Self {
            Self::within(1 << 30)
        }

        fn within(bytes: usize) -> Self {
            let layout = std::alloc::Layout::new::<Arena>();
            // SAFETY: zeroes are a valid arena of nothing.
            let mut arena = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Arena>()) };
            let mut random = Random::from_kernel().expect("entropy");
            arena.reserve(bytes, true, &mut random).expect("address space");
            Self(arena, ZeroSized::new(), random)
        }

        fn take(&mut self, origin: Origin) -> usize {
            self.1.take(&self.0, &mut self.2, origin).expect("an address")
        }

        fn find(&self, address: usize) -> Found {
            self.1.find(&self.0, self.0.own_region(address), address)
        }

        fn give_back(&mut self, address: usize) -> bool {
            self.1.give_back(&self.0, self.0.own_region(address), address)
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
            assert_eq!(zero.1.live(), live.len());
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
        let mut zero = Zero::within(32 << 20);
        let mut taken = Vec::new();
        while let Ok(address) = zero.1.take(&zero.0, &mut zero.2, Origin::Malloc) {
            taken.push(address);
        }
        assert!(taken.len() > 1000, "{}", taken.len());
        assert_eq!((zero.1.live(), zero.1.committed()), (taken.len(), taken.len()), "to the last one");
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "each was handed out once");
        // However few are free, what comes back can be had.
        for &address in taken.iter().step_by(97).take(500) {
            assert!(zero.give_back(address) && !zero.give_back(address));
            assert_eq!(zero.take(Origin::Malloc), address, "the only one");
        }
        for &address in &taken {
            assert!(zero.give_back(address));
            assert_eq!(zero.find(address), Found::Freed);
        }
        let again: Vec<usize> = (0..100).map(|_| zero.take(Origin::New)).collect();
        assert!(again.iter().all(|&address| zero.find(address) == Found::Live(Origin::New)));
    }

    /// Regions of a small arena are small.
    #[test]
    fn another_region_is_taken_when_half_of_the_addresses_of_one_are_live() {
        let mut zero = Zero::within(64 << 20);
        let mut live = vec![zero.take(Origin::Malloc)];
        let slots = zero.0.own_region(live[0]).slots() as usize;
        live.extend((1..slots * 2).map(|_| zero.take(Origin::New)));
        assert!((3..=5).contains(&zero.1.count), "{} regions", zero.1.count);
        // A lap that was begun is finished.
        assert!(zero.1.opened().all(|place| place.live < place.committed / 4 * 3), "a crowded one");
        assert_eq!(live.iter().collect::<BTreeSet<_>>().len(), live.len(), "handed out twice");
        assert!(live.iter().skip(1).all(|&address| zero.find(address) == Found::Live(Origin::New)));
        for &address in &live {
            assert_eq!(zero.find(address + 8), Found::Nothing);
            assert!(zero.give_back(address) && !zero.give_back(address));
        }
        assert_eq!(zero.1.live(), 0);
    }

    #[test]
    fn where_memory_for_more_is_refused_the_addresses_that_there_are_are_used() {
        let mut zero = Zero::new();
        let first = zero.take(Origin::Malloc);
        refusing(&[(Call::Protect, ALL)], || {
            let taken: Vec<usize> = (1..PAGE).map(|_| zero.take(Origin::Malloc)).collect();
            assert!(!taken.contains(&first));
            assert!(zero.1.take(&zero.0, &mut zero.2, Origin::Malloc).is_err());
        });
        zero.take(Origin::Malloc);
    }

    #[test]
    fn no_more_regions_are_taken_than_classes_can_spare() {
        let mut zero = Zero::within(32 << 20);
        while zero.1.take(&zero.0, &mut zero.2, Origin::Malloc).is_ok() {}
        assert_eq!(zero.1.count, MOST);
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
