//! What is known about large chunks: a hash table keyed by address, out of band, in a mapping of its own
//! between guard pages.

use crate::chunk::header::Origin;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};

/// A large chunk and its mapping. All zero is "no entry".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Address of the chunk; the key.
    pub(crate) chunk: usize,
    /// Requested size in bytes.
    pub(crate) size: usize,
    /// The whole mapping, guards included.
    pub(crate) map_start: usize,
    pub(crate) map_bytes: usize,
    /// The accessible part of it.
    pub(crate) data_start: usize,
    pub(crate) data_bytes: usize,
    pub(crate) origin: Origin,
    pub(crate) align_log2: u8,
    pub(crate) live: bool,
    /// Freed, and moved here then: an address that the program never had, so that nothing of it can dangle.
    pub(crate) unknown: bool,
}

impl Entry {
    /// End of the accessible part.
    pub(crate) const fn data_end(&self) -> usize {
        self.data_start + self.data_bytes
    }

    /// End of the mapping.
    pub(crate) const fn map_end(&self) -> usize {
        self.map_start + self.map_bytes
    }
}

#[derive(Clone, Copy)]
#[repr(C, u8)]
enum Place {
    /// What zeroed memory is.
    Empty = 0,
    Used(Entry) = 1,
}

/// The table.
pub(crate) struct Table {
    /// Address of the first place; zero before the first insertion.
    places: usize,
    /// A power of two, or zero.
    capacity: usize,
    used: usize,
}

impl Table {
    pub(crate) const fn new() -> Self {
        Self { places: 0, capacity: 0, used: 0 }
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) const fn len(&self) -> usize {
        self.used
    }

    fn place(&mut self, index: usize) -> &mut Place {
        let address = self.places + (index & (self.capacity - 1)) * size_of::<Place>();
        // SAFETY: `capacity` places are mapped at `places`; zeroed memory is `Place::Empty`.
        unsafe { &mut *core::ptr::with_exposed_provenance_mut(address) }
    }

    const fn home(chunk: usize) -> usize {
        // Fibonacci hashing: the low bits of addresses are all alike.
        (chunk as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 20
    }

    fn position(&mut self, chunk: usize) -> Option<usize> {
        if self.capacity == 0 {
            return None;
        }
        let mut index = Self::home(chunk);
        loop {
            match self.place(index) {
                Place::Empty => return None,
                Place::Used(entry) if entry.chunk == chunk => return Some(index),
                _ => index = index.wrapping_add(1),
            }
        }
    }

    /// The entry of the chunk at exactly this address.
    pub(crate) fn get(&mut self, chunk: usize) -> Option<&mut Entry> {
        let index = self.position(chunk)?;
        match self.place(index) {
            Place::Used(entry) => Some(entry),
            _ => None,
        }
    }

    /// Adds an entry whose address is not in the table.
    ///
    /// # Errors
    /// When the table is full and can't grow; then nothing has changed. Never when an entry was removed since the
    /// lock was taken: its place is free again.
    pub(crate) fn insert(&mut self, entry: Entry) -> Result<(), OutOfMemory> {
        if self.used * 4 >= self.capacity * 3 {
            self.rebuild()?;
        }
        let mut index = Self::home(entry.chunk);
        while matches!(self.place(index), Place::Used(_)) {
            index = index.wrapping_add(1);
        }
        *self.place(index) = Place::Used(entry);
        self.used += 1;
        Ok(())
    }

    /// Takes an entry out. Those behind it that are not at home move up, so that no mark of the removal stays: such
    /// marks would fill the table, and a chunk that is entered anew could find no room at a moment when there is no
    /// memory for a larger one.
    pub(crate) fn remove(&mut self, chunk: usize) -> Option<Entry> {
        let mut hole = self.position(chunk)?;
        let Place::Used(removed) = *self.place(hole) else { return None };
        let mut index = hole.wrapping_add(1);
        while let Place::Used(entry) = *self.place(index) {
            let from_home = index.wrapping_sub(Self::home(entry.chunk)) & (self.capacity - 1);
            let from_hole = index.wrapping_sub(hole) & (self.capacity - 1);
            if from_home >= from_hole {
                *self.place(hole) = Place::Used(entry);
                hole = index;
            }
            index = index.wrapping_add(1);
        }
        *self.place(hole) = Place::Empty;
        self.used -= 1;
        Some(removed)
    }

    /// Moves to a table with room: twice as many places as are in use at the least.
    fn rebuild(&mut self) -> Result<(), OutOfMemory> {
        let capacity = (self.used * 2).next_power_of_two().max(32);
        let bytes = page_ceil(capacity * size_of::<Place>());
        let start = mapping::reserve(0, bytes + 2 * PAGE)?;
        if let Err(refused) = mapping::commit(start + PAGE, bytes) {
            mapping::unmap(start, bytes + 2 * PAGE);
            return Err(refused);
        }
        let mut bigger = Self { places: start + PAGE, capacity, used: 0 };
        for index in 0..self.capacity {
            if let Place::Used(entry) = *self.place(index) {
                bigger.insert(entry)?;
            }
        }
        self.unmap();
        *self = bigger;
        Ok(())
    }

    /// Calls `visit` with every entry.
    pub(crate) fn for_each<E>(&mut self, mut visit: impl FnMut(&Entry) -> Result<(), E>) -> Result<(), E> {
        for index in 0..self.capacity {
            if let Place::Used(entry) = *self.place(index) {
                visit(&entry)?;
            }
        }
        Ok(())
    }

    /// Where the table lies and how many bytes it has.
    pub(crate) const fn extent(&self) -> (usize, usize) {
        (self.places, page_ceil(self.capacity * size_of::<Place>()))
    }

    /// Gives the table's memory back.
    pub(crate) fn unmap(&self) {
        if self.capacity != 0 {
            mapping::unmap(self.places - PAGE, self.extent().1 + 2 * PAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Table};
    use crate::chunk::header::Origin;
    use crate::os::interference::{Call, held_after, refusing};
    use crate::os::mapping::{PAGE, is_accessible};
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn entry(chunk: usize, size: usize) -> Entry {
        let origin = Origin::Malloc;
        Entry {
            chunk,
            size,
            map_start: 0,
            map_bytes: 0,
            data_start: 0,
            data_bytes: 0,
            origin,
            align_log2: 4,
            live: true,
            unknown: false,
        }
    }

    proptest! {
        #[test]
        fn the_table_behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), 0_usize..200), 0..2000)) {
            let mut table = Table::new();
            let mut model = HashMap::new();
            for (number, (add, which)) in steps.into_iter().enumerate() {
                let chunk = 0x7000_0000_0000 + which * 4096;
                if add && !model.contains_key(&chunk) {
                    table.insert(entry(chunk, number)).expect("memory");
                    model.insert(chunk, number);
                } else {
                    prop_assert_eq!(table.remove(chunk).map(|entry| entry.size), model.remove(&chunk));
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (chunk, number) in &model {
                prop_assert_eq!(table.get(*chunk).map(|entry| entry.size), Some(*number));
            }
            table.unmap();
        }
    }

    /// A resized chunk that has moved is entered anew; that it finds no room would lose it.
    #[test]
    fn what_was_removed_can_be_entered_again_without_more_memory() {
        let mut table = Table::new();
        for number in 0..24 {
            table.insert(entry(0x7000_0000_0000 + number * 4096, number)).expect("memory");
        }
        let places = (table.places, table.capacity);
        for number in 0..10_000 {
            table.remove(0x7000_0000_0000 + number * 4096).expect("it is there");
            table.insert(entry(0x7000_0000_0000 + (number + 24) * 4096, number)).expect("its place is free");
            assert_eq!((table.places, table.capacity), places, "the table was not rebuilt");
        }
        table.unmap();
    }

    fn fill(table: &mut Table, numbers: core::ops::Range<usize>) {
        for number in numbers {
            table.insert(entry(0x7000_0000_0000 + number * 4096, number)).expect("memory");
        }
    }

    /// Of each size that the table has had, only the last is kept; and what is in front of it and behind it cannot be written to.
    #[test]
    fn a_table_that_is_outgrown_is_given_back_with_its_guard_pages() {
        let mut table = Table::new();
        let held = held_after(|| fill(&mut table, 0..10_000));
        let (places, bytes) = table.extent();
        assert_eq!(held, core::slice::from_ref(&(places - PAGE..places + bytes + PAGE)));
        assert!(!is_accessible(places - 1) && is_accessible(places));
        assert!(is_accessible(places + bytes - 1) && !is_accessible(places + bytes));
        table.unmap();
    }

    #[test]
    fn a_table_that_is_given_back_leaves_nothing_and_an_empty_one_has_nothing_to_give() {
        assert_eq!(held_after(|| Table::new().unmap()), []);
        let held = held_after(|| {
            let mut table = Table::new();
            fill(&mut table, 0..100);
            table.unmap();
        });
        assert_eq!(held, []);
    }

    #[test]
    fn a_larger_table_that_is_refused_memory_is_given_back_and_the_old_one_stays() {
        let mut table = Table::new();
        fill(&mut table, 0..24);
        let before = (table.extent(), table.len());
        let held = held_after(|| {
            let refused = refusing(&[(Call::Protect, 1)], || table.insert(entry(0x7000_0000_0000 - 4096, 24)));
            assert!(refused.is_err());
        });
        assert_eq!((table.extent(), table.len(), held), (before.0, before.1, vec![]));
        fill(&mut table, 24..25);
        table.unmap();
    }

    /// It keeps a quarter of its places free, so that a search ends soon, and takes no more than four times what it needs.
    #[test]
    fn a_table_has_as_many_places_as_it_needs() {
        let mut table = Table::new();
        for number in 0..5_000 {
            fill(&mut table, number..number + 1);
            let needed = table.len() * 4 / 3;
            assert!(
                (needed..=(needed * 4).max(32)).contains(&table.capacity),
                "{} places for {}",
                table.capacity,
                table.len()
            );
        }
        table.unmap();
    }
}
