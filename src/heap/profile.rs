//! Chunks that the heap profile records: when they are handed out, and when they are given back.

use super::core::Core;
use crate::byte_sampling::weight_of;
use crate::heap_profile::DEPTH;
use crate::os::process;
use crate::primary::region::{OwnedSlot, state};
use crate::size_class::ClassId;
use crate::thread_cache::{ASK, ThreadCache};
use crate::trace::{self, Registers};
use core::sync::atomic::{AtomicU8, Ordering};

impl Core {
    /// Records a chunk that was just handed out, in a slot that was chosen for that. Nobody knows its address yet.
    #[cold]
    #[inline(never)]
    pub(super) fn record_slot(&self, cache: &mut ThreadCache, slot: OwnedSlot, class: ClassId, size: usize) {
        if self.record(cache, slot.chunk, size, class.stride()) {
            slot.state().store(state::RECORDED, Ordering::Release);
        }
    }

    /// Records a chunk without a slot, if the next sample falls on it.
    pub(super) fn record_if_hit(&self, cache: &mut ThreadCache, chunk: usize, size: usize) {
        if cache.byte_sampler.is_on() {
            let weight = weight_of(size);
            if cache.byte_sampler.falls_on(weight, &mut cache.random) {
                self.record(cache, chunk, size, weight);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn record(&self, cache: &mut ThreadCache, chunk: usize, size: usize, weight: usize) -> bool {
        let thread = if cache.thread > 0 { cache.thread } else { process::thread_number() };
        if cache.thread == ASK {
            cache.thread = thread;
        }
        let mut frames = [0; DEPTH];
        let length = trace::walk(Registers::here(), Some(&self.rules), &mut cache.window, thread, true, &mut frames);
        self.heap_profile.record(chunk, size, weight, frames.get(..length).unwrap_or_default())
    }

    /// Takes the record of a verified chunk out that is being given back, and makes its slot one like all others. Of two
    /// threads that race with each other for it one does; from there on it is the race that it would have been.
    #[cold]
    #[inline(never)]
    pub(super) fn forget_slot(&self, slot: &AtomicU8, start: usize) {
        if slot.compare_exchange(state::RECORDED, state::LIVE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.heap_profile.forget(start);
        }
    }
}
