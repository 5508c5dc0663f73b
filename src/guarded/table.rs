//! What is known about guarded slots: one entry for each, out of band, in a mapping of its own between guard pages.

use crate::chunk::header::Origin;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};
use crate::primary::arena::reserve_somewhere;
use crate::random::Random;
use crate::trace::{Caller, DEPTH, History, Trace};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// States of a slot. Whoever brings it into one of the last three owns the slot until it leaves that again.
pub(super) mod state {
    /// Never used.
    pub(crate) const UNUSED: u8 = 0;
    /// Handed to the program.
    pub(crate) const LIVE: u8 = 1;
    /// Given back, inaccessible.
    pub(crate) const FREED: u8 = 2;
    /// About to be handed out.
    pub(crate) const OPENING: u8 = 3;
    /// Being looked at.
    pub(crate) const HELD: u8 = 4;
    /// About to be given back.
    pub(crate) const CLOSING: u8 = 5;
}

/// A slot. Everything but `state` and `number` is about its chunk, the last one if it was freed.
#[repr(C)]
pub(super) struct Entry {
    pub(super) state: AtomicU8,
    origin: AtomicU8,
    align_log2: AtomicU8,
    /// Whether pages of it hold what was in them before.
    pub(super) dirty: AtomicBool,
    /// Whether its mapping was set apart from those beside it.
    pub(super) set_apart: AtomicBool,
    size: AtomicU32,
    chunk: AtomicUsize,
    allocated: Call,
    freed: Call,
}

/// Who did something, and from where.
struct Call {
    /// Number of the thread; zero when it was not done.
    thread: AtomicU32,
    /// Up to the first zero; what stands behind it is from an earlier call.
    frames: [AtomicUsize; DEPTH],
}

impl Call {
    fn note(&self, caller: &Caller) {
        // With the zero behind the last one, if there is room for it: most traces are short, and these lines are seldom in a cache.
        for (place, frame) in self.frames.iter().zip(caller.trace.frames).take(caller.trace.length + 1) {
            place.store(frame, Ordering::Relaxed);
        }
        self.thread.store(caller.thread.cast_unsigned(), Ordering::Relaxed);
    }

    fn caller(&self) -> Option<Caller> {
        let thread = self.thread.load(Ordering::Relaxed).cast_signed();
        let mut trace = Trace::NONE;
        for (frame, place) in trace.frames.iter_mut().zip(&self.frames) {
            *frame = place.load(Ordering::Relaxed);
            if *frame == 0 {
                break;
            }
            trace.length += 1;
        }
        (thread != 0).then_some(Caller { thread, trace })
    }
}

/// What an entry says about a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) address: usize,
    /// Requested size in bytes.
    pub(crate) size: usize,
    pub(crate) origin: Origin,
    /// Requested alignment.
    pub(crate) align_log2: u32,
}

impl Entry {
    pub(super) fn describe(&self, chunk: &Chunk, caller: &Caller) {
        self.origin.store(chunk.origin as u8, Ordering::Relaxed);
        self.align_log2.store(chunk.align_log2 as u8, Ordering::Relaxed);
        self.size.store(chunk.size as u32, Ordering::Relaxed);
        self.chunk.store(chunk.address, Ordering::Relaxed);
        self.allocated.note(caller);
        self.freed.thread.store(0, Ordering::Relaxed);
    }

    pub(super) fn freed_by(&self, caller: &Caller) {
        self.freed.note(caller);
    }

    /// Whether the innermost calls that allocated the chunks of both are the same: a quick look before all are compared.
    pub(super) fn starts_like(&self, other: &Self) -> bool {
        let innermost = |entry: &Self| entry.allocated.frames.first().map(|frame| frame.load(Ordering::Relaxed));
        innermost(self) == innermost(other)
    }

    pub(super) fn history(&self) -> History {
        History { allocated: self.allocated.caller(), freed: self.freed.caller() }
    }

    /// The chunk, unless the slot was never used.
    pub(super) fn chunk(&self) -> Option<Chunk> {
        Some(Chunk {
            origin: Origin::from_bits(u32::from(self.origin.load(Ordering::Relaxed)))?,
            address: self.chunk.load(Ordering::Relaxed),
            size: self.size.load(Ordering::Relaxed) as usize,
            align_log2: u32::from(self.align_log2.load(Ordering::Relaxed)),
        })
    }
}

/// The entries, and the places of the queue of slots. Zeroes are a table of nothing.
pub(super) struct Table {
    start: AtomicUsize,
    slots: AtomicUsize,
}

const fn bytes_of(slots: usize) -> usize {
    page_ceil(slots * size_of::<Entry>()) + page_ceil(slots * size_of::<u16>())
}

impl Table {
    /// Maps a table for so many slots.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub(super) fn map(&self, slots: usize, random: &mut Random) -> Result<(), OutOfMemory> {
        let bytes = bytes_of(slots);
        let start = reserve_somewhere(bytes + 2 * PAGE, random)?;
        if let Err(refused) = mapping::commit(start + PAGE, bytes) {
            mapping::unmap(start, bytes + 2 * PAGE);
            return Err(refused);
        }
        self.start.store(start + PAGE, Ordering::Release);
        self.slots.store(slots, Ordering::Release);
        Ok(())
    }

    pub(super) fn unmap(&self) {
        let slots = self.slots.swap(0, Ordering::AcqRel);
        if slots != 0 {
            mapping::unmap(self.start.load(Ordering::Acquire) - PAGE, bytes_of(slots) + 2 * PAGE);
        }
    }

    /// Accessible bytes.
    pub(super) fn bytes(&self) -> usize {
        bytes_of(self.slots())
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.load(Ordering::Acquire)
    }

    /// The entry of a slot, if there is one of that number.
    pub(super) fn entry(&self, slot: usize) -> Option<&Entry> {
        if slot >= self.slots() {
            return None;
        }
        let address = self.start.load(Ordering::Relaxed) + slot * size_of::<Entry>();
        // SAFETY: so many entries are mapped there until the heap goes away; zeroed memory is a valid one, and all its fields are
        // atomic.
        Some(unsafe { &*core::ptr::with_exposed_provenance(address) })
    }

    /// The places of the queue.
    ///
    /// # Safety
    /// The caller holds the pool's lock for as long as it has them.
    #[allow(clippy::mut_from_ref, reason = "the pool's lock is what makes it unique")]
    pub(super) unsafe fn places(&self) -> &mut [u16] {
        let slots = self.slots();
        if slots == 0 {
            return &mut [];
        }
        let address = self.start.load(Ordering::Relaxed) + page_ceil(slots * size_of::<Entry>());
        // SAFETY: so many places are mapped behind the entries; the lock makes this the only reference.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(address), slots) }
    }
}
