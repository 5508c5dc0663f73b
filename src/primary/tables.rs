//! The tables of a region: state bytes, free bits and slab descriptors, in a mapping of their own.
//!
//! What tells of a region's first slots lies on one page. Most classes of most programs never need more, and each page of a
//! table costs a page fault, and each part of a mapping that is made accessible a system call. So state bytes grow from
//! there upwards and descriptors downwards, and free bits beyond the first have a table elsewhere: when slabs are given back it
//! goes back, too.
//!
//! ```text
//!  guard | free bits of other slots → … guard … ← slab descriptors : free bits of the first slots : state bytes → … | guard
//! ```

use super::region::{Region, Tables};
use super::slab::Slab;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil, page_floor};
use crate::size_class::MIN_ALIGN;

/// Words of free bits that lie in front of the state bytes.
const FIRST_WORDS: u32 = 64;
const FIRST_BYTES: usize = FIRST_WORDS as usize * size_of::<u64>();

/// Slab descriptors that fit the page on which the state bytes begin. Where a slab has the fewest state bytes, 256, the rest of the
/// page is full with fewer slabs.
const FIRST_SLABS: usize = 16;

/// Where on a page the state bytes begin: on a cache line.
const STATES_OFFSET: usize = FIRST_SLABS * size_of::<Slab>() + FIRST_BYTES;

const _: () = assert!(STATES_OFFSET.is_multiple_of(64));

impl Tables {
    /// The word with the free bits of 64 slots.
    pub(crate) const fn free_word(self, number: u32) -> usize {
        match number.checked_sub(FIRST_WORDS) {
            Some(other) => self.free_bits + other as usize * size_of::<u64>(),
            None => self.states - FIRST_BYTES + number as usize * size_of::<u64>(),
        }
    }

    /// The descriptor of a slab.
    pub(crate) const fn descriptor(self, slab: u32) -> usize {
        self.states - FIRST_BYTES - (slab as usize + 1) * size_of::<Slab>()
    }

    /// Where the free bits begin and end that can go back when their slabs do, for so many slots from `first` on: whole words.
    pub(crate) fn other_free_bits(self, first: u32, end: u32) -> (usize, usize) {
        (self.free_word(first.div_ceil(64).max(FIRST_WORDS)), self.free_word((end / 64).max(FIRST_WORDS)))
    }
}

/// Bytes of address space for the tables of one region.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    free_bits: usize,
    descriptors: usize,
    states: usize,
}

impl Layout {
    pub(crate) const fn of(region_bytes: usize) -> Self {
        // A slab has at least 64 KiB.
        let descriptors = (region_bytes >> 16) * size_of::<Slab>();
        Self {
            // Those of the first slots lie elsewhere: there is room for the word of the header behind the last slot.
            free_bits: page_ceil(region_bytes / MIN_ALIGN / 8),
            descriptors: page_ceil(descriptors.saturating_sub(FIRST_SLABS * size_of::<Slab>())),
            states: page_ceil(STATES_OFFSET + region_bytes / MIN_ALIGN + 1),
        }
    }

    /// With a guard page behind the free bits and one behind the states.
    pub(crate) const fn total(self) -> usize {
        self.free_bits + self.descriptors + self.states + 2 * PAGE
    }

    /// The tables that lie from `start`, a page, on.
    pub(crate) const fn at(self, start: usize) -> Tables {
        let states = start + self.free_bits + PAGE + self.descriptors + STATES_OFFSET;
        Tables { states, free_bits: start }
    }
}

/// How much of a region is in use: its first so many slots and slabs, guards between slabs included.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) slots: u32,
    pub(crate) slabs: u32,
}

impl Extent {
    /// From the last descriptor to the state byte behind those of its slots: the header behind the last slot has a state.
    pub(crate) fn descriptors_and_states(self, region: &Region) -> (usize, usize) {
        let states = region.tables().states;
        (region.tables().descriptor(self.slabs) + size_of::<Slab>(), states + region.state_bytes(self.slots) + 1)
    }

    /// The free bits that lie elsewhere. The last word may be one in part.
    pub(crate) fn other_free_bits(self, region: &Region) -> (usize, usize) {
        let tables = region.tables();
        (tables.free_bits, tables.free_word(self.slots.div_ceil(64).max(FIRST_WORDS)))
    }
}

/// Makes those parts of the tables accessible which `wanted` needs and `before` did not.
///
/// # Errors
/// When the system refuses. What was made accessible stays so.
pub(crate) fn commit(region: &Region, before: Extent, wanted: Extent) -> Result<(), OutOfMemory> {
    let (low, high) = wanted.descriptors_and_states(region);
    if before.slots == 0 {
        commit_pages(page_floor(low), page_ceil(high))?;
    } else {
        let (old_low, old_high) = before.descriptors_and_states(region);
        commit_pages(page_floor(low), page_floor(old_low))?;
        commit_pages(page_ceil(old_high), page_ceil(high))?;
    }
    commit_pages(page_ceil(before.other_free_bits(region).1), page_ceil(wanted.other_free_bits(region).1))
}

fn commit_pages(start: usize, end: usize) -> Result<(), OutOfMemory> {
    if start < end { mapping::commit(start, end - start) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::Layout;
    use crate::os::mapping::{PAGE, page_floor};
    use crate::primary::slab::Slab;

    /// Slots of 16 bytes in slabs of 64 KiB from the first byte of a region to the last.
    #[test]
    fn tables_have_room_for_the_most_slots_and_slabs_that_a_region_could_have_and_little_more() {
        const START: usize = 0x40_0000;
        for region_bytes in [256 << 10, 512 << 10, 1 << 20, 16 << 20, 2 << 30, 16 << 30_usize] {
            let (slots, slabs) = (region_bytes / 16, region_bytes >> 16);
            let layout = Layout::of(region_bytes);
            let tables = layout.at(START);
            // The words of the header behind the last slot, and of no slot at all for the smallest region.
            let bits_end = tables.free_word((slots / 64).max(64) as u32) + 8;
            assert!((START..=bits_end).contains(&tables.free_bits));
            let low = tables.descriptor(slabs as u32 - 1);
            assert!(bits_end + PAGE <= page_floor(low), "{region_bytes:#x}");
            let end = START + layout.total();
            assert!(tables.states + slots + 1 + PAGE <= end, "{region_bytes:#x}");
            assert!(layout.total() <= slots + slots / 8 + slabs * size_of::<Slab>() + 8 * PAGE, "{region_bytes:#x}");
        }
    }
}
