//! Slots that lie ready to be handed out, last in, first out.

use super::stock::READY_BYTES;
use crate::primary::region::OwnedSlot;
use crate::size_class::{CLASSES, ClassId};

/// The most places for ready slots of one class.
pub(super) const READY: usize = 128;

/// Slots of a class that may lie ready where so many bytes of them may.
pub(super) const fn most_ready(class: ClassId, bytes: usize) -> usize {
    let most = bytes / class.stride();
    if most > READY {
        READY
    } else if most < 2 {
        2
    } else {
        most
    }
}

/// Where the places of each class begin among those of all, and where the last ones end.
const FIRST: [u16; CLASSES + 1] = {
    let mut first = [0; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        // One more, which stays [`OwnedSlot::NONE`].
        first[class + 1] = first[class] + 1 + most_ready(ClassId::known(class as u8), READY_BYTES) as u16;
        class += 1;
    }
    first
};

/// Places for the ready slots of all classes, side by side, so that those of many classes share a page.
pub(super) type ReadySlots = [OwnedSlot; FIRST[CLASSES] as usize];

/// The first place of a class.
pub(super) fn places_of(all: *mut ReadySlots, class: ClassId) -> *mut OwnedSlot {
    all.cast::<OwnedSlot>().wrapping_add(FIRST.get(class.index()).copied().unwrap_or_default().into())
}

/// The ready slots of one class, taken from the end, which lie in places of their own ([`places_of`]). They are not
/// touched until they are opened, so that a class that is not used costs no memory.
///
/// Invariant, from [`Self::open`] on: `last` points to one of the places, between the first of them, which holds
/// [`OwnedSlot::NONE`] for ever, and `end`, which is the last place that may be used. So there is always a slot to look at,
/// and where none is ready it is one that no cache owns: one comparison tells both. Before that both point to such a slot
/// outside, and there is room for none.
pub(crate) struct Ready {
    last: *mut OwnedSlot,
    end: *mut OwnedSlot,
    /// Slots that may lie ready, for the class: `end` is so many places behind the first.
    pub(crate) most: u16,
    /// Slots that the next batch should have: few at first, because every slot of a batch gets a header and so
    /// memory.
    pub(super) batch: u16,
}

/// Slots of the first batch of a class.
const FIRST_BATCH: u16 = 8;

/// What all closed bins point to. Never written.
struct Outside(OwnedSlot);

// SAFETY: a constant.
unsafe impl Sync for Outside {}

static OUTSIDE: Outside = Outside(OwnedSlot::NONE);

impl Ready {
    /// None ready, and no room for any yet.
    pub(super) const CLOSED: Self = {
        let outside = (&raw const OUTSIDE.0).cast_mut();
        Self { last: outside, end: outside, most: 0, batch: FIRST_BATCH }
    };

    /// Makes room for up to `most` slots, at least one, in `places`.
    ///
    /// # Safety
    /// From `places` on there is one place more than `most`. They outlive the value and are used by nobody else.
    pub(super) unsafe fn open(&mut self, places: *mut OwnedSlot, most: u16) {
        self.most = most.clamp(1, READY as u16);
        self.last = places;
        // SAFETY: the first place; `most` is at most the number of the others.
        unsafe {
            self.last.write(OwnedSlot::NONE);
            self.end = self.last.add(usize::from(self.most));
        }
    }

    /// The place of no slot.
    fn none(&self) -> *mut OwnedSlot {
        self.end.wrapping_sub(usize::from(self.most))
    }

    /// Slots that lie ready.
    pub(crate) fn length(&self) -> usize {
        (self.last.addr() - self.none().addr()) / size_of::<OwnedSlot>()
    }

    /// [`Self::length`] of a value that another thread may be using.
    ///
    /// # Safety
    /// `ready` is an aligned value of this type.
    pub(super) unsafe fn peek_length(ready: *const Self) -> usize {
        // SAFETY: the caller's promise.
        let (last, end, most) = unsafe {
            let most = (&raw const (*ready).most).read_volatile();
            ((&raw const (*ready).last).read_volatile(), (&raw const (*ready).end).read_volatile(), usize::from(most))
        };
        // The bin may be opened between two of these.
        let free = end.addr().wrapping_sub(last.addr()) / size_of::<OwnedSlot>();
        most.saturating_sub(free)
    }

    /// How many slots to ask for: twice as many each time, up to half of the places.
    pub(crate) fn next_batch(&mut self) -> usize {
        let most = self.most.div_ceil(2);
        let batch = self.batch.min(most);
        self.batch = (batch * 2).min(most);
        usize::from(batch)
    }

    /// The slot that was put in last, or [`OwnedSlot::NONE`].
    #[inline(always)]
    pub(crate) fn last(&self) -> OwnedSlot {
        // SAFETY: the invariant.
        unsafe { self.last.read() }
    }

    /// Takes that slot out, and has the CPU fetch the one that will be taken next: most of what `malloc` waits for is its header.
    ///
    /// # Safety
    /// [`Self::last`] was not `NONE`.
    #[inline(always)]
    pub(crate) unsafe fn drop_last(&mut self) {
        // SAFETY: the caller's promise: not at the first place.
        self.last = unsafe { self.last.sub(1) };
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the invariant; and a hint to the CPU may be given for any address, even that of no slot.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(core::ptr::without_provenance::<i8>((*self.last).chunk.wrapping_sub(8)));
        }
    }

    /// Takes out the slot that was put in last.
    pub(crate) fn pop(&mut self) -> Option<OwnedSlot> {
        let last = self.last();
        if last == OwnedSlot::NONE {
            return None;
        }
        // SAFETY: just seen.
        unsafe { self.drop_last() };
        Some(last)
    }

    /// Puts a slot in; `false` when there is no room.
    #[inline(always)]
    pub(crate) fn push(&mut self, slot: OwnedSlot) -> bool {
        if self.last == self.end {
            return false;
        }
        // SAFETY: the invariant, and `last` is not `end`.
        unsafe {
            self.last = self.last.add(1);
            self.last.write(slot);
        }
        true
    }

    /// Takes the slots out that were put in first, as many as fit into `out`, but at most half of them unless
    /// `all`; returns how many.
    pub(crate) fn take_oldest(&mut self, out: &mut [OwnedSlot], all: bool) -> usize {
        let length = self.length();
        let wanted = if all { length } else { length.div_ceil(2) };
        let count = wanted.min(out.len());
        // SAFETY: the `length` places behind the first hold slots; nobody else uses them.
        let slots = unsafe { core::slice::from_raw_parts_mut(self.none().add(1), length) };
        for (place, slot) in out.iter_mut().zip(slots.iter()).take(count) {
            *place = *slot;
        }
        slots.copy_within(count.., 0);
        self.last = self.last.wrapping_sub(count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, READY, READY_BYTES, Ready, ReadySlots, most_ready, places_of};
    use crate::primary::region::OwnedSlot;
    use crate::size_class::ClassId;
    use core::sync::atomic::AtomicU8;

    #[test]
    fn ready_slots_come_out_in_reverse_order_and_oldest_leave_first() {
        let mut places = [OwnedSlot::NONE; READY + 1];
        let mut ready = Ready::CLOSED;
        assert_eq!((ready.pop(), ready.length()), (None, 0));
        // SAFETY: `places` lives as long and is not used otherwise.
        unsafe { ready.open(places.as_mut_ptr(), 4) };
        let states = [0, 1, 2, 3, 4].map(AtomicU8::new);
        let slots = [0, 1, 2, 3, 4].map(|number| OwnedSlot::new(number, &states[number]));
        for slot in slots.iter().take(4) {
            assert!(ready.push(*slot));
        }
        assert!(!ready.push(slots[4]));
        let mut out = [OwnedSlot::NONE; READY];
        assert_eq!(ready.take_oldest(&mut out, false), 2);
        assert_eq!(out[..2], slots[..2]);
        assert_eq!((ready.pop(), ready.pop(), ready.pop()), (Some(slots[3]), Some(slots[2]), None));
    }

    #[test]
    fn the_places_of_each_class_follow_those_of_the_one_before() {
        let mut all: Box<ReadySlots> =
            vec![OwnedSlot::NONE; FIRST[FIRST.len() - 1].into()].try_into().expect("so many");
        let mut end = all.as_mut_ptr();
        for class in ClassId::all() {
            assert_eq!(places_of(&raw mut *all, class), end);
            end = end.wrapping_add(1 + most_ready(class, READY_BYTES));
        }
        assert_eq!(end, all.as_mut_ptr().wrapping_add(all.len()));
    }

    #[test]
    fn batches_double_up_to_half_of_the_places() {
        let mut places = [OwnedSlot::NONE; READY + 1];
        let mut ready = Ready::CLOSED;
        // SAFETY: `places` lives as long and is not used otherwise.
        unsafe { ready.open(places.as_mut_ptr(), 49) };
        let batches: Vec<usize> = (0..4).map(|_| ready.next_batch()).collect();
        assert_eq!(batches, [8, 16, 25, 25]);
        // SAFETY: as above; the bin holds nothing.
        unsafe { ready.open(places.as_mut_ptr(), 5) };
        assert_eq!(ready.next_batch(), 3, "there is room for all of a batch in an empty bin");
    }
}
