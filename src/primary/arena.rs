//! The arena: the heap's address space, cut into regions, and the tables about them.
//!
//! As much is reserved as makes regions roomy and their places random, and what is granted is taken:
//! under `ulimit -v` or valgrind regions are smaller, and a class may own several.

use super::region::{Region, ZERO_SIZED};
use super::slab::slots_log2;
use super::tables::{Extent, Layout};
use crate::os::environment;
use crate::os::lock::Lock;
use crate::os::mapping::{self, OutOfMemory, PAGE};
use crate::place::reserve_somewhere;
use crate::random::Random;
use crate::size_class::{ClassId, MIN_ALIGN};

/// The most regions that there are.
pub(crate) const REGIONS: usize = 512;

/// Regions of a small arena: more than there are classes, each of which needs one of its own.
const FEWEST_REGIONS: usize = 128;

/// The smallest region, in bytes: room for a slab of chunks of less than a page, wherever it begins.
const SMALLEST_REGION: usize = 256 << 10;

/// The largest region of those that have no room to begin just anywhere in their first quarter.
const SMALL_REGION: usize = 1 << 20;

/// The smallest arena that a process-wide heap starts with, in bytes.
const SMALLEST_ARENA: usize = 32 << 20;

/// Address space of the heap, its regions, and where their tables lie. Zeroes are a valid arena of nothing.
pub(crate) struct Arena {
    base: usize,
    bytes: usize,
    region_shift: u32,
    tables: usize,
    tables_bytes: usize,
    randomize: bool,
    regions: [Region; REGIONS],
    /// How many regions are in use.
    used: Lock<usize>,
}

impl Arena {
    /// Reserves at most `wanted` bytes (a power of two), less where the process may not have so much.
    ///
    /// # Errors
    /// When not even the smallest arena is to be had.
    pub(crate) fn reserve(&mut self, wanted: usize, randomize: bool, random: &mut Random) -> Result<(), OutOfMemory> {
        let allowed = environment::address_space_limit() / 2;
        let mut bytes = wanted;
        while bytes > allowed && bytes > SMALLEST_ARENA {
            bytes /= 2;
        }
        loop {
            match self.try_reserve(bytes, random) {
                Ok(()) => {
                    self.randomize = randomize;
                    return Ok(());
                }
                Err(refused) if bytes <= SMALLEST_ARENA => return Err(refused),
                Err(_) => bytes /= 2,
            }
        }
    }

    fn try_reserve(&mut self, bytes: usize, random: &mut Random) -> Result<(), OutOfMemory> {
        let region_bytes = (bytes / FEWEST_REGIONS).clamp(SMALLEST_REGION, SMALL_REGION).max(bytes / REGIONS);
        let tables_bytes = Layout::of(region_bytes).total() * (bytes / region_bytes) + PAGE;
        let base = reserve_somewhere(bytes, random)?;
        let tables = match reserve_somewhere(tables_bytes, random) {
            Ok(tables) => tables,
            Err(refused) => {
                mapping::unmap(base, bytes);
                return Err(refused);
            }
        };
        // One touched byte must not make 2 MiB resident, nor a purge be undone by promotion.
        mapping::advise_no_huge(base, bytes);
        mapping::advise_no_huge(tables, tables_bytes);
        self.base = base;
        self.bytes = bytes;
        self.region_shift = region_bytes.ilog2();
        self.tables = tables;
        self.tables_bytes = tables_bytes;
        Ok(())
    }

    /// Names the address space in `/proc/PID/maps`.
    pub(crate) fn name(&self) {
        mapping::name(self.base, self.bytes, c"testudo:slots");
        mapping::name(self.tables, self.tables_bytes, c"testudo:tables");
    }

    /// Gives everything back. Nothing of the heap may be used afterwards.
    pub(crate) fn unmap(&self) {
        mapping::unmap(self.base, self.bytes);
        mapping::unmap(self.tables, self.tables_bytes);
    }

    /// The region that an address lies in.
    #[inline(always)]
    pub(crate) fn region_of(&self, address: usize) -> Option<&Region> {
        let distance = address.wrapping_sub(self.base);
        if distance >= self.bytes {
            return None;
        }
        let number = distance >> self.region_shift;
        // SAFETY: `bytes` is at most REGIONS regions.
        Some(unsafe { self.regions.get_unchecked(number) })
    }

    /// The region of an address that the allocator itself handed out.
    #[inline(always)]
    pub(crate) fn own_region(&self, address: usize) -> &Region {
        &self.regions[(address.wrapping_sub(self.base) >> self.region_shift) & (REGIONS - 1)]
    }

    /// A region by number.
    #[inline(always)]
    pub(crate) fn region(&self, number: usize) -> &Region {
        &self.regions[number & (REGIONS - 1)]
    }

    /// The number of a region of this arena.
    pub(crate) fn number_of(&self, region: &Region) -> usize {
        (core::ptr::from_ref(region).addr() - self.regions.as_ptr().addr()) / size_of::<Region>()
    }

    /// The regions that are in use, with their numbers.
    pub(crate) fn regions(&self) -> impl Iterator<Item = (usize, &Region)> {
        self.regions.iter().enumerate().filter(|(_, region)| region.slots() != 0)
    }

    /// Bytes of one region.
    pub(crate) const fn region_bytes(&self) -> usize {
        1 << self.region_shift
    }

    /// Whether regions are large enough for slabs of this class: for two, because a mapping is as good as a slot of a page or more;
    /// but for small chunks the smallest region is, if only for one.
    pub(crate) const fn fits(&self, class: ClassId) -> bool {
        let slabs = if class.capacity() < PAGE { 1 } else { 2 };
        (class.stride() << slots_log2(class)) * slabs + 8 * PAGE <= self.region_bytes()
    }

    /// Whether no region is left.
    pub(crate) fn is_full(&self) -> bool {
        *self.used.lock() == self.bytes >> self.region_shift
    }

    /// Opens an unused region, chosen at random, for a class; returns its number.
    ///
    /// # Errors
    /// When all are in use.
    pub(crate) fn open_region(&self, class: Option<ClassId>, random: &mut Random) -> Result<usize, OutOfMemory> {
        let count = self.bytes >> self.region_shift;
        let mut used = self.used.lock();
        if *used == count {
            return Err(OutOfMemory);
        }
        let mut number = if self.randomize { random.below(count as u32) as usize } else { *used };
        while self.region(number).slots() != 0 {
            number = (number + 1) % count;
        }
        *used += 1;
        self.describe(number, class, random);
        Ok(number)
    }

    /// Lays the slots of a region out. They begin behind at least one inaccessible page, at a random page
    /// of the region's first quarter and a random place in that page.
    fn describe(&self, number: usize, class: Option<ClassId>, random: &mut Random) {
        let region_bytes = self.region_bytes();
        let stride = class.map_or(MIN_ALIGN, ClassId::stride);
        let (pages, steps) = if self.randomize {
            let spread = (region_bytes / 4 / PAGE).min(1 << 20) as u32;
            let spread = if region_bytes <= SMALL_REGION { 4 } else { spread };
            (random.below(spread) as usize, random.below((PAGE / MIN_ALIGN) as u32) as usize)
        } else {
            (0, 1)
        };
        let start = (1 + pages) * PAGE + steps * MIN_ALIGN;
        // A page for the header behind the last slot, and one that stays inaccessible.
        let room = region_bytes - start - 2 * PAGE;
        let slots = (room / stride) as u32;
        let slots = match class {
            Some(class) => slots & !((1 << slots_log2(class)) - 1),
            None => slots,
        };
        let layout = Layout::of(region_bytes);
        let tables = layout.at(self.tables + PAGE + number * layout.total());
        let class = class.map_or(ZERO_SIZED, |class| class.index() as u8);
        let first = self.base + (number << self.region_shift) + start + MIN_ALIGN;
        self.region(number).open(class, stride, first, slots, tables);
    }

    /// Calls `visit` with the start and length in bytes of each part of a region's tables that is accessible.
    pub(crate) fn for_each_table(&self, mut visit: impl FnMut(usize, usize)) {
        for (_, region) in self.regions() {
            let Some(class) = region.size_class() else { continue };
            let frontier = region.frontier();
            if frontier == 0 {
                continue;
            }
            let extent = Extent { slots: frontier, slabs: frontier >> slots_log2(class) };
            for (start, end) in [extent.descriptors_and_states(region), extent.other_free_bits(region)] {
                if start < end {
                    visit(start, end - start);
                }
            }
        }
    }

    /// The lock, for fork handlers.
    pub(crate) fn lock(&self) -> &Lock<usize> {
        &self.used
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, SMALLEST_ARENA};
    use crate::os::mapping::{PAGE, page_floor};
    use crate::primary::region::SlotIndex;
    use crate::primary::slab::{Slab, slots_log2};
    use crate::random::Random;
    use crate::size_class::ClassId;

    fn arena(bytes: usize, random: &mut Random) -> Box<Arena> {
        let layout = std::alloc::Layout::new::<Arena>();
        // SAFETY: zeroes are a valid arena of nothing.
        let mut arena = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Arena>()) };
        arena.reserve(bytes, true, random).expect("address space");
        arena
    }

    /// With 256 KiB, 512 KiB, 1 MiB, 16 MiB and 2 GiB for a region.
    const SIZES: [usize; 5] = [32 << 20, 64 << 20, 512 << 20, 8 << 30, 1 << 40];

    #[test]
    fn tables_hold_an_entry_for_every_slot_and_have_a_guard_page_between_them() {
        let mut random = Random::from_number(3);
        for bytes in SIZES {
            let arena = arena(bytes, &mut random);
            let mut tables = Vec::new();
            let classes: Vec<ClassId> = ClassId::all().filter(|class| arena.fits(*class)).collect();
            for &class in classes.iter().cycle().take(arena.bytes >> arena.region_shift) {
                let region = arena.region(arena.open_region(Some(class), &mut random).expect("a region is left"));
                let (slots, log) = (region.slots(), slots_log2(class));
                // Descriptors, the first free bits and state bytes lie side by side, from the guard behind the last slab to the
                // state of the header behind the last slot.
                let of = region.tables();
                let low = of.descriptor(slots >> log);
                let first_word = of.free_word(0);
                assert_eq!(of.descriptor(0) + size_of::<Slab>(), first_word);
                assert_eq!(of.free_word(63) + 8, region.state(SlotIndex(0)).as_ptr().addr());
                tables.push((low, region.state(SlotIndex(slots)).as_ptr().addr() + 1 - low));
                if slots > 64 * 64 {
                    let (start, end) = (of.free_word(64), of.free_word((slots - 1) / 64) + 8);
                    assert_eq!(end - start, (slots as usize).div_ceil(64) * 8 - 512);
                    tables.push((start, end - start));
                }
            }
            tables.sort_unstable();
            assert!(tables[0].0 >= arena.tables + PAGE);
            for pair in tables.windows(2) {
                assert!(pair[0].0 + pair[0].1 + PAGE <= pair[1].0, "regions of {} bytes", arena.region_bytes());
            }
            let &(last, length) = tables.last().expect("tables");
            assert!(last + length + PAGE <= arena.tables + arena.tables_bytes);
            // All that is a tenth of the slots, and not much more; guards are much of it where regions are small.
            assert!(arena.tables_bytes < bytes / if bytes < 512 << 20 { 6 } else { 8 });
            arena.unmap();
        }
    }

    /// What a class costs that has a few chunks.
    #[test]
    fn what_is_known_about_the_first_slab_of_a_class_lies_on_one_page() {
        let mut random = Random::from_number(3);
        let arena = arena(1 << 40, &mut random);
        for class in ClassId::all().filter(|class| class.stride() >= 32) {
            let region = arena.region(arena.open_region(Some(class), &mut random).expect("a region is left"));
            let slots = 1 << slots_log2(class);
            let page = page_floor(region.tables().descriptor(1));
            let last_state = region.state(SlotIndex(slots)).as_ptr().addr();
            for address in [last_state, region.tables().free_word(0), region.tables().free_word((slots - 1) / 64)] {
                assert_eq!(page_floor(address), page, "{class:?}");
            }
            assert!(region.state(SlotIndex(0)).as_ptr().addr().is_multiple_of(64), "threads share no cache line");
        }
    }

    /// Under `ulimit -v` no size is refused because others came first.
    #[test]
    fn every_class_that_fits_has_a_region_in_an_arena_of_any_size_and_some_are_left() {
        let mut random = Random::from_number(3);
        for bytes in (SMALLEST_ARENA.ilog2()..40).map(|log| 1 << log) {
            let arena = arena(bytes, &mut random);
            for class in ClassId::all().filter(|class| class.capacity() < PAGE || arena.fits(*class)) {
                assert!(arena.fits(class), "{bytes:#x} {class:?}");
                assert!(arena.open_region(Some(class), &mut random).is_ok(), "{bytes:#x} {class:?}");
            }
            let mut left = 0;
            while !arena.is_full() {
                assert!(arena.open_region(ClassId::new(0), &mut random).is_ok());
                left += 1;
            }
            assert!(left >= 32, "{left} regions are left of {bytes:#x} bytes");
            assert!(arena.open_region(ClassId::new(0), &mut random).is_err());
            arena.unmap();
        }
    }

    /// Where two slabs do not fit a class has mappings of its own instead, unless its chunks are so small that one will do.
    #[test]
    fn classes_that_fit_have_room_for_two_slabs_or_small_ones_for_one_wherever_a_region_begins() {
        let mut random = Random::from_number(3);
        for bytes in SIZES {
            let arena = arena(bytes, &mut random);
            for class in ClassId::all() {
                let two_slabs = class.stride() << slots_log2(class) << 1;
                let two_fit = two_slabs + (32 << 10) <= arena.region_bytes();
                assert_eq!(arena.fits(class), two_fit || class.capacity() < PAGE);
                if arena.fits(class) {
                    for _ in 0..if bytes < 512 << 20 { 1 } else { 4 } {
                        let number = arena.open_region(Some(class), &mut random).expect("a region is left");
                        let slots = if two_fit { 2 } else { 1 } << slots_log2(class);
                        assert!(arena.region(number).slots() >= slots, "{bytes:#x} {class:?}");
                    }
                }
            }
            arena.unmap();
        }
    }

    #[test]
    fn slots_begin_anywhere_in_the_first_quarter_of_a_region() {
        let mut random = Random::from_number(3);
        let arena = arena(8 << 30, &mut random);
        let class = ClassId::for_size(8);
        let region_bytes = arena.region_bytes();
        let places: Vec<usize> = (0..512)
            .map(|_| {
                let number = arena.open_region(class, &mut random).expect("a region is left");
                arena.region(number).chunk(SlotIndex(0), 16) - (arena.base + number * region_bytes)
            })
            .collect();
        assert!(places.iter().all(|place| (PAGE..region_bytes / 4 + 4 * PAGE).contains(place)));
        // Some in each quarter of the quarter, and of the page.
        for quarter in 0..4 {
            let count = |bytes: usize| places.iter().filter(|place| *place % bytes / (bytes / 4) == quarter).count();
            assert!(count(region_bytes / 4) > 64 && count(PAGE) > 64, "{quarter}");
        }
        arena.unmap();
    }
}
