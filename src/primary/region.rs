//! A region: the slots of one size class, and the exact way from an address to its slot.
//!
//! Attack: a pointer that is not the start of a chunk (interior, misaligned, foreign) is given back, and
//! data that an attacker wrote in front of it passes for a header. So geometry decides before
//! any byte of the heap is read: the slot number is an exact division, done as one multiplication by
//! the inverse of the stride and one rotation (Granlund and Montgomery, 1994), which leaves a
//! number too large whenever the division is not exact.

use crate::os::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::size_class::{ClassId, HEADER};

/// Number of a slot within its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotIndex(pub(crate) u32);

/// State byte of a slot, out of band: the truth about liveness.
///
/// Who may write it: the owner of the slot. Ownership passes with the byte: `UNSEALED`, `SEALED` and `FREE` slots belong to
/// the holder of the class lock, marked and `CHOSEN` ones to the thread cache that has them, `LIVE` and `RECORDED` ones to the
/// program, and so to whichever thread gives them back.
pub(crate) mod state {
    /// In a slab, no header written since its pages were mapped.
    pub(crate) const UNSEALED: u8 = 0;
    /// In the program's hands.
    pub(crate) const LIVE: u8 = 1;
    /// In a slab, freed before.
    pub(crate) const FREE: u8 = 2;
    /// In a slab, never handed out, but its header was written because the slot in front of it was.
    pub(crate) const SEALED: u8 = 4;
    /// In the program's hands, its header being rewritten by `realloc`.
    pub(crate) const RESIZING: u8 = 3;
    /// Owned by a thread cache, and to be recorded in the heap profile when it is handed out. Fast paths take it for a slot
    /// that is not theirs and leave it to the slow one.
    pub(crate) const CHOSEN: u8 = 5;
    /// In the program's hands, and recorded in the heap profile: all that [`LIVE`] is, except that the fast path of `free`
    /// leaves it to the slow one, which takes the record out.
    pub(crate) const RECORDED: u8 = 6;
    /// The first mark of a thread cache; [`SHARED_MARK`] is the last.
    pub(crate) const FIRST_MARK: u8 = 8;
    /// The mark of all caches that could not get one of their own: they change states atomically.
    pub(crate) const SHARED_MARK: u8 = 255;

    /// Whether a slot with this state is in the program's hands, and its header and canaries are in order.
    #[allow(dead_code, reason = "the models use a part of this file")]
    pub(crate) const fn is_live(state: u8) -> bool {
        matches!(state, LIVE | RECORDED)
    }
}

/// The class number of the region of zero-sized chunks.
pub(crate) const ZERO_SIZED: u8 = 255;

/// One region. All fields are written once, before any address in the region is known to anybody, except
/// for the frontier, which grows. Zeroes are a valid region that nobody uses.
#[repr(C, align(64))]
pub(crate) struct Region {
    /// Address of the chunk in slot 0.
    first: AtomicUsize,
    /// Inverse of the odd part of the stride, modulo 2^64.
    inverse: AtomicU64,
    /// Address of the state byte of slot 0.
    states: AtomicUsize,
    /// Where the state bytes end of those slots that may have been handed out, in bytes from `states`.
    frontier: AtomicU32,
    /// Logarithm of the power of two in the stride, less `spread`, modulo 64.
    rotation: AtomicU8,
    /// Logarithm of the distance between state bytes.
    spread: AtomicU8,
    /// Class number or `ZERO_SIZED`; says nothing while no slots fit.
    class: AtomicU8,
    /// As in [`Tables`].
    free_bits: AtomicUsize,
    /// Number of slots that fit.
    slots: AtomicU32,
}

/// Where the tables of a region lie (`primary/tables.rs` has a picture).
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    /// The state byte of slot 0.
    pub(crate) states: usize,
    /// The first word of free bits that does not lie in front of the state bytes.
    pub(crate) free_bits: usize,
}

/// A slot and its state byte.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'a> {
    pub(crate) index: SlotIndex,
    pub(crate) state: &'a AtomicU8,
}

impl Slot<'_> {
    /// Makes a slot free that a cache gives back without having handed it out. `false` when it was not [`state::CHOSEN`]: of
    /// two caches that both believe they own it, one finds that out here.
    #[cold]
    pub(crate) fn return_chosen(&self) -> bool {
        self.state.compare_exchange(state::CHOSEN, state::FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A slot that a thread cache owns: its chunk, and where its state byte is, so that handing it out needs no
/// arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnedSlot {
    pub(crate) chunk: usize,
    state: *const AtomicU8,
}

/// The state byte of no slot: no cache has this mark.
static NOBODY: AtomicU8 = AtomicU8::new(state::UNSEALED);

impl OwnedSlot {
    /// Fills places that are not in use. Its state byte says that no cache owns it.
    pub(crate) const NONE: Self = Self { chunk: 0, state: &raw const NOBODY };

    /// A slot without a state byte, for tests that only move it about.
    #[cfg(test)]
    pub(crate) const fn numbered(chunk: usize) -> Self {
        Self { chunk, state: &raw const NOBODY }
    }

    pub(crate) fn new(chunk: usize, state: &AtomicU8) -> Self {
        Self { chunk, state }
    }

    /// The state byte.
    #[inline(always)]
    pub(crate) fn state(&self) -> &AtomicU8 {
        // SAFETY: made from a reference; state bytes stay mapped as long as the heap, and so as the caches that hold
        // such a value.
        unsafe { &*self.state }
    }
}

/// Logarithm of the distance between the state bytes of slots with this stride.
///
/// State bytes are written at every hand-out and every free, so a cache line of them should belong to one thread: it has as
/// many as a cache takes in one batch, which is fewer the longer the slots are. Costs at most a 256th of the heap.
const fn spread(stride: usize) -> u8 {
    if stride <= 256 {
        0
    } else {
        let spread = (stride / 256).ilog2();
        if spread > 6 { 6 } else { spread as u8 }
    }
}

/// The inverse of an odd number modulo 2^64 (Newton's iteration doubles the right bits each time).
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

impl Region {
    /// A region that nobody uses.
    #[allow(dead_code, reason = "tests and models make regions; those of a heap begin as zeroed memory")]
    pub(crate) const fn unused() -> Self {
        Self {
            first: AtomicUsize::new(0),
            inverse: AtomicU64::new(0),
            states: AtomicUsize::new(0),
            frontier: AtomicU32::new(0),
            rotation: AtomicU8::new(0),
            spread: AtomicU8::new(0),
            class: AtomicU8::new(0),
            free_bits: AtomicUsize::new(0),
            slots: AtomicU32::new(0),
        }
    }

    /// Gives the region to a class. The chunk of slot 0 will be at `first`, and `slots` slots fit.
    pub(crate) fn open(&self, class: u8, stride: usize, first: usize, slots: u32, tables: Tables) {
        let power = stride.trailing_zeros();
        let spread = spread(stride);
        self.first.store(first, Ordering::Relaxed);
        self.inverse.store(inverse(stride as u64 >> power), Ordering::Relaxed);
        // To the left where the spread is more, which is a rotation to the right by what is missing to 64.
        self.rotation.store((power.wrapping_sub(u32::from(spread)) % u64::BITS) as u8, Ordering::Relaxed);
        self.spread.store(spread, Ordering::Relaxed);
        self.states.store(tables.states, Ordering::Relaxed);
        self.free_bits.store(tables.free_bits, Ordering::Relaxed);
        self.slots.store(slots, Ordering::Relaxed);
        self.class.store(class, Ordering::Release);
    }

    /// The class number.
    #[inline(always)]
    pub(crate) fn class(&self) -> u8 {
        self.class.load(Ordering::Relaxed)
    }

    /// The class, where the region belongs to one.
    pub(crate) fn size_class(&self) -> Option<ClassId> {
        ClassId::new(self.class().into())
    }

    /// The class of a region that is known to belong to one.
    #[inline(always)]
    pub(crate) fn own_class(&self) -> ClassId {
        ClassId::known(self.class())
    }

    /// Bytes of state bytes of so many slots.
    pub(crate) fn state_bytes(&self, slots: u32) -> usize {
        (slots as usize) << self.spread.load(Ordering::Relaxed)
    }

    /// How many slots fit.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.load(Ordering::Relaxed)
    }

    /// Slots from here on were never handed out.
    ///
    /// Whoever sees the frontier past a slot, also by an address that nobody gave them, sees the fields of the region and
    /// finds the slot's tables mapped.
    #[inline(always)]
    pub(crate) fn frontier(&self) -> u32 {
        self.frontier.load(Ordering::Acquire) >> self.spread.load(Ordering::Relaxed)
    }

    pub(crate) fn set_frontier(&self, frontier: u32) {
        self.frontier.store(frontier << self.spread.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Where the tables lie.
    pub(crate) fn tables(&self) -> Tables {
        Tables { states: self.states.load(Ordering::Relaxed), free_bits: self.free_bits.load(Ordering::Relaxed) }
    }

    /// Where the state byte of the slot lies whose chunk starts exactly at `address`, in bytes from `states`, if there is one
    /// below the frontier. `None`, or a place between two state bytes, for other addresses.
    #[inline(always)]
    fn place_of_state(&self, address: usize) -> Option<usize> {
        // First: what is read after it is what the region was opened with.
        let frontier = self.frontier.load(Ordering::Acquire);
        let distance = address.wrapping_sub(self.first.load(Ordering::Relaxed)) as u64;
        // The rotation stops short of the quotient by what it would be shifted to the left again.
        let place = distance
            .wrapping_mul(self.inverse.load(Ordering::Relaxed))
            .rotate_right(u32::from(self.rotation.load(Ordering::Relaxed)));
        (place < u64::from(frontier)).then_some(place as usize)
    }

    /// The state byte of the slot whose chunk starts exactly at `address`, if there is one below the frontier.
    ///
    /// For other addresses perhaps a byte that is no slot's: those are never written, and so not [`state::LIVE`].
    #[inline(always)]
    pub(crate) fn state_at(&self, address: usize) -> Option<&AtomicU8> {
        self.place_of_state(address).map(|place| self.state_at_place(place))
    }

    #[inline(always)]
    fn state_at_place(&self, place: usize) -> &AtomicU8 {
        // SAFETY: the state bytes up to and including the frontier are mapped as long as the heap
        // lives, and are only ever used as atomics.
        unsafe { &*core::ptr::with_exposed_provenance(self.states.load(Ordering::Relaxed) + place) }
    }

    /// The slot whose state byte this is.
    #[inline(always)]
    pub(crate) fn index_of(&self, state: &AtomicU8) -> SlotIndex {
        let place = core::ptr::from_ref(state).addr() - self.states.load(Ordering::Relaxed);
        SlotIndex((place >> self.spread.load(Ordering::Relaxed)) as u32)
    }

    /// The slot of a chunk that the allocator itself put away, so that its address is known to be right.
    #[inline(always)]
    pub(crate) fn own_slot(&self, address: usize) -> Slot<'_> {
        let distance = address.wrapping_sub(self.first.load(Ordering::Relaxed)) as u64;
        let place = distance
            .wrapping_mul(self.inverse.load(Ordering::Relaxed))
            .rotate_right(u32::from(self.rotation.load(Ordering::Relaxed)));
        debug_assert!(place < u64::from(self.frontier.load(Ordering::Relaxed)));
        let state = self.state_at_place(place as usize);
        Slot { index: self.index_of(state), state }
    }

    /// The slot whose user area contains `address`, by ordinary division.
    pub(crate) fn slot_around(&self, address: usize, stride: usize) -> Option<Slot<'_>> {
        let frontier = self.frontier();
        let distance = address.checked_sub(self.first.load(Ordering::Relaxed))?;
        let index = u32::try_from(distance / stride).ok()?;
        (index < frontier).then(|| {
            let index = SlotIndex(index);
            Slot { index, state: self.state(index) }
        })
    }

    /// Address of the chunk in a slot.
    #[inline(always)]
    pub(crate) fn chunk(&self, index: SlotIndex, stride: usize) -> usize {
        self.first.load(Ordering::Relaxed) + index.0 as usize * stride
    }

    /// Address of the first byte that belongs to a slot: its header.
    pub(crate) fn slot_start(&self, index: SlotIndex, stride: usize) -> usize {
        self.chunk(index, stride) - HEADER
    }

    /// The state byte of a slot below the frontier, or of the one at it.
    #[inline(always)]
    pub(crate) fn state(&self, index: SlotIndex) -> &AtomicU8 {
        // Wrapping, though it never does: spares a mask.
        self.state_at_place((index.0 as usize).wrapping_shl(u32::from(self.spread.load(Ordering::Relaxed))))
    }
}

#[cfg(test)]
mod tests {
    use super::{Region, SlotIndex, Tables};
    use crate::size_class::{CLASSES, ClassId};
    use proptest::prelude::*;

    const FIRST: usize = 0x1000_0000_0010;

    fn region(class: ClassId) -> Region {
        let region = Region::unused();
        // The tables are never read: only geometry is asked.
        let tables = Tables { states: 0x10_0000_0000, free_bits: 0 };
        region.open(class.index() as u8, class.stride(), FIRST, 1 << 20, tables);
        region.set_frontier(1 << 20);
        region
    }

    /// Whether a byte among the state bytes is not one.
    fn is_nobodys(region: &Region, byte: &super::AtomicU8) -> bool {
        !core::ptr::eq(region.state(region.index_of(byte)), byte)
    }

    #[test]
    fn what_lies_behind_the_frontier_is_no_slot() {
        for class in ClassId::all() {
            let region = region(class);
            region.set_frontier(5);
            let at = |index: usize| FIRST + index * class.stride();
            assert!(region.state_at(at(4)).is_some() && region.slot_around(at(5) - 1, class.stride()).is_some());
            assert!(region.state_at(at(5)).is_none() && region.slot_around(at(5), class.stride()).is_none());
        }
    }

    proptest! {
        #[test]
        fn every_slot_start_is_found(class in 0_usize..CLASSES, index in 0_u32..1 << 20) {
            let class = ClassId::new(class).expect("in range");
            let region = region(class);
            let address = FIRST + index as usize * class.stride();
            let state = region.state(SlotIndex(index));
            prop_assert_eq!(region.state_at(address).map(core::ptr::from_ref), Some(core::ptr::from_ref(state)));
            prop_assert_eq!(region.index_of(state), SlotIndex(index));
        }

        #[test]
        fn nothing_else_is(class in 0_usize..CLASSES, index in 0_u32..1 << 20, inside in 1_usize..1 << 18) {
            let class = ClassId::new(class).expect("in range");
            let inside = 1 + inside % (class.stride() - 1);
            let region = region(class);
            let address = FIRST + index as usize * class.stride() + inside;
            // What may be found there is no slot's.
            prop_assert!(region.state_at(address).is_none_or(|state| is_nobodys(&region, state)));
        }

        #[test]
        fn no_address_outside_is_a_slot(class in 0_usize..CLASSES, address: usize) {
            let class = ClassId::new(class).expect("in range");
            let region = region(class);
            prop_assume!(address.wrapping_sub(FIRST) >= class.stride() << 20);
            prop_assert!(region.state_at(address).is_none_or(|state| is_nobodys(&region, state)));
        }
    }
}
