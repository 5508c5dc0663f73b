//! Slabs: groups of slots of one class that are opened, filled and given back together.

use crate::size_class::ClassId;

/// A slab, named by its region and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlabId(u32);

/// No slab.
const NOBODY: u32 = u32::MAX;

/// Slabs of a region are numbered with so many bits.
pub(crate) const SLAB_BITS: u32 = 21;

impl SlabId {
    pub(crate) const fn new(region: usize, slab: u32) -> Self {
        Self((region as u32) << SLAB_BITS | slab)
    }

    pub(crate) const fn region(self) -> usize {
        (self.0 >> SLAB_BITS) as usize
    }

    pub(crate) const fn number(self) -> u32 {
        self.0 & ((1 << SLAB_BITS) - 1)
    }
}

/// Logarithm of the number of slots in a slab of this class: about 64 KiB, at least 16 slots.
pub(crate) const fn slots_log2(class: ClassId) -> u32 {
    let log = (64_u32 << 10).ilog2().saturating_sub(class.stride().ilog2());
    if log < 4 {
        4
    } else if log > 12 {
        12
    } else {
        log
    }
}

/// Which list a slab is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    /// On no list: all its slots are out. Also the state of fresh descriptors (zero).
    Full = 0,
    /// Among the open slabs that slots are taken from.
    Open = 1,
    /// Some slots free, waiting to be opened.
    Partial = 2,
    /// All slots free, memory still there.
    Empty = 3,
    /// All slots free, no memory behind it.
    Released = 4,
    /// Never used: the guard between two runs.
    Guard = 5,
}

/// What is known about a slab. Belongs to the holder of its class lock.
#[repr(C)]
pub(crate) struct Slab {
    /// Free slots.
    pub(crate) free: u16,
    pub(crate) place: Place,
    /// Whether its inner pages fault on access while it is released.
    pub(crate) inaccessible: bool,
    previous: u32,
    next: u32,
    /// The epoch in which one of its slots was last given back; zero when it has been trimmed since.
    pub(crate) changed_in: u32,
}

/// A list of slabs, oldest first. The links lie in the descriptors.
pub(crate) struct List {
    first: u32,
    last: u32,
    length: u32,
}

/// Gives access to descriptors by name.
pub(crate) trait Slabs {
    /// The descriptor of a slab.
    fn slab(&mut self, id: SlabId) -> &mut Slab;
}

impl List {
    pub(crate) const fn new() -> Self {
        Self { first: NOBODY, last: NOBODY, length: 0 }
    }

    pub(crate) const fn length(&self) -> u32 {
        self.length
    }

    pub(crate) const fn oldest(&self) -> Option<SlabId> {
        if self.first == NOBODY { None } else { Some(SlabId(self.first)) }
    }

    pub(crate) const fn newest(&self) -> Option<SlabId> {
        if self.last == NOBODY { None } else { Some(SlabId(self.last)) }
    }

    pub(crate) fn push(&mut self, slabs: &mut impl Slabs, id: SlabId, place: Place) {
        let slab = slabs.slab(id);
        slab.place = place;
        slab.previous = self.last;
        slab.next = NOBODY;
        match self.newest() {
            Some(last) => slabs.slab(last).next = id.0,
            None => self.first = id.0,
        }
        self.last = id.0;
        self.length += 1;
    }

    pub(crate) fn remove(&mut self, slabs: &mut impl Slabs, id: SlabId) {
        let slab = slabs.slab(id);
        let (previous, next) = (slab.previous, slab.next);
        slab.place = Place::Full;
        if previous == NOBODY {
            self.first = next;
        } else {
            slabs.slab(SlabId(previous)).next = next;
        }
        if next == NOBODY {
            self.last = previous;
        } else {
            slabs.slab(SlabId(next)).previous = previous;
        }
        self.length -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{List, Place, Slab, SlabId, Slabs, slots_log2};
    use crate::size_class::ClassId;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    struct Table(Vec<Slab>);

    impl Slabs for Table {
        fn slab(&mut self, id: SlabId) -> &mut Slab {
            &mut self.0[id.number() as usize]
        }
    }

    fn table() -> Table {
        let slab = || Slab { free: 0, place: Place::Full, inaccessible: false, previous: 0, next: 0, changed_in: 0 };
        Table((0..32).map(|_| slab()).collect())
    }

    #[test]
    fn a_slab_is_named_by_region_and_number() {
        let id = SlabId::new(511, 0x1f_fffe);
        assert_eq!((id.region(), id.number()), (511, 0x1f_fffe));
    }

    #[test]
    fn slabs_have_at_least_sixteen_slots_and_fit_a_counter() {
        for class in ClassId::all() {
            let (log, stride) = (slots_log2(class), class.stride());
            assert!((16..=4096).contains(&(1_u32 << log)));
            assert!(stride << log >= 64 << 10, "about 64 KiB: {stride} bytes");
            assert!(log == 4 || stride << (log - 1) < 64 << 10, "and not twice that: {stride} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_list_keeps_order_like_a_deque(steps: Vec<(bool, u8)>) {
            let mut table = table();
            let mut list = List::new();
            let mut model = VecDeque::new();
            for (push, which) in steps {
                let id = SlabId::new(0, u32::from(which % 32));
                if push && !model.contains(&id) {
                    list.push(&mut table, id, Place::Partial);
                    model.push_back(id);
                } else if !push && model.contains(&id) {
                    list.remove(&mut table, id);
                    model.retain(|other| *other != id);
                }
                prop_assert_eq!(list.oldest(), model.front().copied());
                prop_assert_eq!(list.newest(), model.back().copied());
                prop_assert_eq!(list.length() as usize, model.len());
            }
        }
    }
}
