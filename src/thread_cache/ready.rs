//! Slots that lie ready to be handed out, last in, first out.

use crate::primary::region::OwnedSlot;

/// Places for ready slots of one class.
pub(super) const READY: usize = 128;

/// The ready slots of one class, taken from the end, which lie in an array of their own ([`ReadySlots`]). The array is not
/// touched until it is opened, so that a class that is not used costs no memory.
///
/// Invariant, from [`Self::open`] on: `last` points into the array, between its first place, which holds
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

/// Places for the ready slots of one class, behind one that stays [`OwnedSlot::NONE`].
pub(super) type ReadySlots = [OwnedSlot; READY + 1];

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
    /// `places` outlives the value and is used by nobody else.
    pub(super) unsafe fn open(&mut self, places: *mut ReadySlots, most: u16) {
        self.most = most.clamp(1, READY as u16);
        self.last = places.cast();
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
    use super::{READY, Ready};
    use crate::primary::region::OwnedSlot;
    use core::sync::atomic::AtomicU8;

    #[test]
    fn ready_slots_come_out_in_reverse_order_and_oldest_leave_first() {
        let mut places = [OwnedSlot::NONE; READY + 1];
        let mut ready = Ready::CLOSED;
        assert_eq!((ready.pop(), ready.length()), (None, 0));
        // SAFETY: `places` lives as long and is not used otherwise.
        unsafe { ready.open(&raw mut places, 4) };
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
    fn batches_double_up_to_half_of_the_places() {
        let mut places = [OwnedSlot::NONE; READY + 1];
        let mut ready = Ready::CLOSED;
        // SAFETY: `places` lives as long and is not used otherwise.
        unsafe { ready.open(&raw mut places, 49) };
        let batches: Vec<usize> = (0..4).map(|_| ready.next_batch()).collect();
        assert_eq!(batches, [8, 16, 25, 25]);
        // SAFETY: as above; the bin holds nothing.
        unsafe { ready.open(&raw mut places, 5) };
        assert_eq!(ready.next_batch(), 3, "there is room for all of a batch in an empty bin");
    }
}
