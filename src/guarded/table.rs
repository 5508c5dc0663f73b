//! What is known about guarded slots: one entry for each, out of band, in a mapping of its own between guard pages.

use crate::chunk::header::Origin;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};
use crate::os::prefetch;
use crate::place::reserve_somewhere;
use crate::random::Random;
use crate::trace::depot::{Depot, TraceId};
use crate::trace::{Caller, DEPTH, History, Taken, Trace};
use core::num::NonZeroU32;
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

/// A slot. Everything but `state` and what concerns the pages is about its chunk, the last one if it was freed. One line of the CPU's cache.
#[repr(C, align(64))]
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
    /// Number of its trace in the depot; zero where the trace is in [`Frames`].
    trace: AtomicU32,
}

/// A trace that the depot has no room for: up to the first zero; what stands behind it is from an earlier call.
struct Frames([AtomicUsize; DEPTH]);

/// The traces of a slot: who allocated its chunk and who freed it. Never touched as long as there is room in the depot.
pub(super) struct SlotFrames {
    allocated: Frames,
    freed: Frames,
}

/// What is needed to tell the trace of a call.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    depot: &'a Depot,
    frames: &'a SlotFrames,
}

impl Frames {
    fn note(&self, trace: &Trace) {
        // With the zero behind the last one, if there is room for it: most traces are short, and these lines are seldom in a cache.
        for (place, frame) in self.0.iter().zip(trace.frames).take(trace.length + 1) {
            place.store(frame, Ordering::Relaxed);
        }
    }

    fn trace(&self) -> Trace {
        let mut trace = Trace::NONE;
        for (frame, place) in trace.frames.iter_mut().zip(&self.0) {
            *frame = place.load(Ordering::Relaxed);
            if *frame == 0 {
                break;
            }
            trace.length += 1;
        }
        trace
    }
}

impl Call {
    fn note(&self, caller: &Caller<Taken>, frames: &Frames) {
        let number = match &caller.trace {
            Taken::Numbered(TraceId(number)) => number.get(),
            Taken::Whole(trace) => {
                frames.note(trace);
                0
            }
        };
        // Whoever reads the number finds the trace in the depot.
        self.trace.store(number, Ordering::Release);
        self.thread.store(caller.thread.cast_unsigned(), Ordering::Relaxed);
    }

    fn caller(&self, frames: &Frames, depot: &Depot) -> Option<Caller> {
        let thread = self.thread.load(Ordering::Relaxed).cast_signed();
        let trace = match NonZeroU32::new(self.trace.load(Ordering::Acquire)) {
            Some(number) => depot.trace(TraceId(number)).unwrap_or(Trace::NONE),
            None => frames.trace(),
        };
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
    pub(super) fn describe(&self, chunk: &Chunk, caller: &Caller<Taken>, kept: Kept<'_>) {
        self.origin.store(chunk.origin as u8, Ordering::Relaxed);
        self.align_log2.store(chunk.align_log2 as u8, Ordering::Relaxed);
        self.size.store(chunk.size as u32, Ordering::Relaxed);
        self.chunk.store(chunk.address, Ordering::Relaxed);
        self.allocated.note(caller, &kept.frames.allocated);
        self.freed.thread.store(0, Ordering::Relaxed);
    }

    pub(super) fn freed_by(&self, caller: &Caller<Taken>, kept: Kept<'_>) {
        self.freed.note(caller, &kept.frames.freed);
    }

    /// Whether the calls that allocated the chunks of both may be the same: a quick look before all are compared.
    pub(super) fn may_start_like(&self, other: &Self) -> bool {
        let number = |entry: &Self| entry.allocated.trace.load(Ordering::Relaxed);
        number(self) == number(other) || number(self) == 0 || number(other) == 0
    }

    pub(super) fn history(&self, kept: Kept<'_>) -> History {
        History {
            allocated: self.allocated.caller(&kept.frames.allocated, kept.depot),
            freed: self.freed.caller(&kept.frames.freed, kept.depot),
        }
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

/// The entries, the places of the queue of slots, and what of traces the depot has no room for. Zeroes are a table of nothing.
pub(super) struct Table {
    start: AtomicUsize,
    slots: AtomicUsize,
}

const fn bytes_of(slots: usize) -> usize {
    frames_at(slots) + page_ceil(slots * size_of::<SlotFrames>())
}

/// Where the traces begin.
const fn frames_at(slots: usize) -> usize {
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

    /// Has the CPU bring the entry of a slot near, for a change: after thousands of others it is far away.
    pub(super) fn fetch(&self, slot: usize) {
        if let Some(entry) = self.entry(slot) {
            prefetch::fetch_to_write(core::ptr::from_ref(entry).addr());
        }
    }

    /// The traces of a slot.
    pub(super) fn kept<'a>(&'a self, slot: usize, depot: &'a Depot) -> Option<Kept<'a>> {
        let slots = self.slots();
        if slot >= slots {
            return None;
        }
        let address = self.start.load(Ordering::Relaxed) + frames_at(slots) + slot * size_of::<SlotFrames>();
        // SAFETY: as for the entries.
        Some(Kept { depot, frames: unsafe { &*core::ptr::with_exposed_provenance(address) } })
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
