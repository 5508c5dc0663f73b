//! Every trace once, by number: chunks by the thousand are allocated by the same few calls, and a number fits where a trace does
//! not.
//!
//! Nothing is ever taken out, and what does not fit is refused: then the trace is kept by whoever has it.

use super::Trace;
use crate::os::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::os::lock::{Lock, RawLock};
use crate::os::mapping::{self, OutOfMemory, PAGE};
use core::num::NonZeroU32;

/// The number of a trace in a depot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) NonZeroU32);

/// Numbers by hash: a power of two.
const PLACES: usize = 1 << 17;

/// Words for traces: a length and so many frames each. Only what is used is ever touched.
const WORDS: usize = 1 << 19;

/// A trace is looked for at so many places.
const TRIES: usize = 32;

/// Bytes of the memory that a depot is given.
pub(crate) const DEPOT_BYTES: usize = PLACES * size_of::<u32>() + WORDS * size_of::<usize>() + 2 * PAGE;

/// Zeroes are a valid one without memory, which refuses everything.
pub(crate) struct Depot {
    start: AtomicUsize,
    /// Words in use.
    used: Lock<u32>,
}

impl Depot {
    #[cfg(test)]
    pub(super) fn empty() -> Self {
        Self { start: AtomicUsize::new(0), used: Lock::new(0) }
    }

    /// Gives it its memory: reserved address space of [`DEPOT_BYTES`].
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub(crate) fn settle(&self, start: usize) -> Result<(), OutOfMemory> {
        mapping::commit(start + PAGE, DEPOT_BYTES - 2 * PAGE)?;
        self.start.store(start + PAGE, Ordering::Release);
        Ok(())
    }

    /// Gives the memory back. Nobody uses the depot any more.
    pub(crate) fn unmap(&self) {
        let start = self.start.swap(0, Ordering::AcqRel);
        if start != 0 {
            mapping::unmap(start - PAGE, DEPOT_BYTES);
        }
    }

    /// The lock, for fork handlers.
    pub(crate) fn lock(&self) -> &RawLock {
        self.used.raw()
    }

    /// Accessible bytes.
    pub(crate) fn bytes(&self) -> usize {
        if self.is_settled() { DEPOT_BYTES - 2 * PAGE } else { 0 }
    }

    /// Whether it has memory.
    pub(crate) fn is_settled(&self) -> bool {
        self.start.load(Ordering::Acquire) != 0
    }

    fn memory(&self) -> Option<(&[AtomicU32], &[AtomicUsize])> {
        let start = self.start.load(Ordering::Acquire);
        if start == 0 {
            return None;
        }
        // SAFETY: so many of each are mapped there until the heap goes away; zeroes are valid ones, and all are atomic.
        unsafe {
            let places = core::ptr::with_exposed_provenance::<AtomicU32>(start);
            let words = places.add(PLACES).cast::<AtomicUsize>();
            Some((core::slice::from_raw_parts(places, PLACES), core::slice::from_raw_parts(words, WORDS)))
        }
    }

    /// The number of a trace, which is put in if it is new; `None` when there is no room.
    #[cold]
    pub(crate) fn number(&self, trace: &Trace) -> Option<TraceId> {
        let (places, words) = self.memory()?;
        let frames = trace.frames.get(..trace.length)?;
        let mut hash = trace.length as u64;
        for &frame in frames {
            hash = (hash ^ frame as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        let mut used = self.used.lock();
        for number in 0..TRIES {
            let place = places.get((hash as usize).wrapping_add(number) & (PLACES - 1))?;
            let Some(known) = NonZeroU32::new(place.load(Ordering::Relaxed)) else {
                // The first word stays unused: no trace is number zero.
                let at = (*used).max(1) as usize;
                let (length, room) = words.get(at..=at + frames.len())?.split_first()?;
                length.store(frames.len(), Ordering::Relaxed);
                for (word, &frame) in room.iter().zip(frames) {
                    word.store(frame, Ordering::Relaxed);
                }
                *used = (at + 1 + frames.len()) as u32;
                place.store(at as u32, Ordering::Relaxed);
                return NonZeroU32::new(at as u32).map(TraceId);
            };
            if frames_at(words, TraceId(known)).is_some_and(|there| {
                there.len() == frames.len()
                    && there.iter().zip(frames).all(|(word, &frame)| word.load(Ordering::Relaxed) == frame)
            }) {
                return Some(TraceId(known));
            }
        }
        None
    }

    /// The trace of a number, which the caller has from [`Self::number`] by way of something that orders memory. Takes no lock.
    pub(crate) fn trace(&self, id: TraceId) -> Option<Trace> {
        let (_, words) = self.memory()?;
        let mut trace = Trace::NONE;
        for (frame, word) in trace.frames.iter_mut().zip(frames_at(words, id)?) {
            *frame = word.load(Ordering::Relaxed);
            trace.length += 1;
        }
        Some(trace)
    }
}

fn frames_at(words: &[AtomicUsize], TraceId(id): TraceId) -> Option<&[AtomicUsize]> {
    let (length, frames) = words.get(id.get() as usize..)?.split_first()?;
    frames.get(..length.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::{DEPOT_BYTES, Depot, WORDS};
    use crate::os::mapping;
    use crate::trace::Trace;

    fn depot() -> Depot {
        let depot = Depot::empty();
        depot.settle(mapping::reserve(0, DEPOT_BYTES).expect("address space")).expect("memory");
        depot
    }

    fn trace(frames: &[usize]) -> Trace {
        let mut trace = Trace::NONE;
        trace.frames[..frames.len()].copy_from_slice(frames);
        trace.length = frames.len();
        trace
    }

    #[test]
    fn a_trace_has_one_number_and_comes_back_by_it() {
        let depot = depot();
        let numbers: Vec<_> = (0..24)
            .map(|length| {
                let trace = trace(&(0..length).map(|frame| 0x40_0000 + frame).collect::<Vec<_>>());
                let number = depot.number(&trace).expect("room");
                assert_eq!(depot.number(&trace), Some(number));
                assert!(depot.trace(number).is_some_and(|found| found == trace && found.length == length));
                number
            })
            .collect();
        assert!(numbers.iter().enumerate().all(|(at, number)| !numbers[..at].contains(number)));
        depot.unmap();
    }

    #[test]
    fn when_it_is_full_what_is_new_is_refused_and_what_is_known_is_found() {
        let depot = depot();
        let numbered = |number: usize| trace(&[number, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        let numbers: Vec<_> = (0..WORDS).map_while(|number| depot.number(&numbered(number))).collect();
        assert!(numbers.len() > WORDS / 20, "only {} fit", numbers.len());
        assert!(depot.number(&numbered(numbers.len())).is_none());
        for (number, &id) in numbers.iter().enumerate() {
            assert_eq!(depot.number(&numbered(number)), Some(id));
            assert!(depot.trace(id) == Some(numbered(number)));
        }
        depot.unmap();
    }

    #[test]
    fn without_memory_everything_is_refused() {
        let depot = Depot::empty();
        assert_eq!(depot.number(&trace(&[1, 2])), None);
    }
}
