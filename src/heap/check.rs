//! Verifying a whole heap, and giving back what it does not need.

use super::allocate::written_after_free;
use super::core::Core;
use crate::chunk::header::Fields;
use crate::chunk::{checksum, contents};
use crate::primary::region::{Region, SlotIndex, state};
use crate::primary::slab::{SlabId, slots_log2};
use crate::size_class::ClassId;
use crate::thread_cache::ThreadCache;
use crate::violation::{Operation, Violation};
use core::sync::atomic::Ordering;

impl Core {
    /// Verifies every live chunk, and that nobody wrote to the free slots: those in slabs, and those in the cache with
    /// `mark`, whose thread is the caller. Slots in the caches of other threads may be changing and are left out; and so are
    /// those with the mark that caches share.
    ///
    /// # Errors
    /// The first damage found.
    pub(crate) fn check(&self, mark: u8) -> Result<(), Violation> {
        for (number, region) in self.arena.regions() {
            let Some(class) = region.size_class() else { continue };
            let slots = 1 << slots_log2(class);
            for first in (0..region.frontier()).step_by(slots) {
                // Whoever holds the class lock keeps its slabs from being released.
                let keeps_slabs = self.class(class).lock();
                if !keeps_slabs.has_memory(self.ground(), SlabId::new(number, first >> slots_log2(class))) {
                    continue;
                }
                for index in (first..first + slots as u32).map(SlotIndex) {
                    match region.state(index).load(Ordering::Acquire) {
                        state::LIVE | state::RECORDED => self.verify_slot(region, index, class, Operation::Check)?,
                        state::FREE | state::SEALED => self.check_free(region, index, class)?,
                        owner if owner == mark && mark != state::SHARED_MARK => {
                            self.check_free(region, index, class)?
                        }
                        _ => {}
                    }
                }
            }
        }
        self.guarded.check(self.guarded_ground())?;
        self.secondary.check(self.large_ground())
    }

    /// Verifies a free slot that nobody else may be changing.
    fn check_free(&self, region: &Region, index: SlotIndex, class: ClassId) -> Result<(), Violation> {
        let chunk = region.chunk(index, class.stride());
        let header = checksum::read(chunk);
        if header.checksum() != self.seal.secrets.free_seal(chunk, header.fields().0) {
            return Err(self.damaged_free_header(chunk, class.capacity(), header, Operation::Check));
        }
        if !self.options.write_after_free || header.fields() == Fields::FRESH {
            return Ok(());
        }
        let memory = core::ptr::with_exposed_provenance(chunk);
        // SAFETY: the slot has memory behind it: its slab is kept by the class lock, or by a slot that is out.
        if unsafe { contents::first_nonzero(memory, class.capacity()) }.is_some() {
            return Err(written_after_free(chunk, class.capacity(), header.fields(), Operation::Check));
        }
        Ok(())
    }

    /// Gives all free memory back to the system: the cache's own, empty slabs, kept mappings, the caches of threads that have ended.
    /// `false` when there was nothing to give.
    ///
    /// # Errors
    /// When a freed chunk turns out not to be the heap's.
    pub(crate) fn purge(&self, cache: &mut ThreadCache) -> Result<bool, Violation> {
        self.flush(cache)?;
        self.flush_left()?;
        let mut released = false;
        for class in &self.classes {
            released |= class.lock().purge(self.ground());
        }
        released |= self.secondary.purge(self.large_ground());
        released |= self.guarded.purge();
        released |= self.strip_left(usize::MAX, u32::MAX);
        Ok(released)
    }
}

#[cfg(test)]
mod tests {
    use super::super::private::Heap;
    use crate::options::Options;
    use crate::primary::region::state;
    use crate::thread_cache::ThreadCache;
    use crate::violation::{Kind, Operation};
    use core::alloc::Layout;
    use core::ptr::NonNull;
    use core::sync::atomic::Ordering;

    const LAYOUT: Layout = Layout::new::<[u8; 5000]>();

    fn heap(options: Options) -> Heap {
        Heap::new(Options { sample_rate: 0, ..options }).expect("a heap")
    }

    fn allocate(heap: &Heap) -> NonNull<u8> {
        heap.allocate(LAYOUT).expect("memory")
    }

    fn free(heap: &Heap, chunk: NonNull<u8>) {
        // SAFETY: the tests do not use what they give back, unless that is the attack.
        unsafe { heap.deallocate(chunk, LAYOUT) }.expect("a correct free");
    }

    /// Changes a byte, which the audit must find, and back, which it must not mind.
    fn found_and_forgotten(heap: &Heap, chunk: NonNull<u8>, at: isize, kind: Kind) {
        let byte = chunk.as_ptr().wrapping_offset(at);
        assert_eq!(heap.check(), Ok(()));
        // SAFETY: the attack: a byte of a slot, or of its header.
        unsafe { *byte ^= 0x10 };
        let found = heap.check().expect_err("damage");
        assert_eq!((found.kind, found.address, found.operation), (kind, chunk.as_ptr().addr(), Operation::Check));
        // SAFETY: as it was.
        unsafe { *byte ^= 0x10 };
        assert_eq!(heap.check(), Ok(()));
    }

    fn state_of(heap: &Heap, chunk: NonNull<u8>) -> u8 {
        let chunk = chunk.as_ptr().addr();
        heap.core().arena.own_region(chunk).own_slot(chunk).state.load(Ordering::Relaxed)
    }

    #[test]
    fn the_audit_reaches_every_slab() {
        for options in [Options::DEFAULT, Options::STRICT] {
            let heap = heap(options);
            let chunks: Vec<_> = (0..200).map(|_| allocate(&heap)).collect();
            for &chunk in &chunks {
                found_and_forgotten(&heap, chunk, LAYOUT.size() as isize, Kind::Overflow);
            }
        }
    }

    /// Slots that were freed and have gone back to their slab, as those of threads that have ended.
    #[test]
    fn the_audit_finds_writes_to_freed_slots_that_no_cache_has() {
        let heap = heap(Options { release_interval_ms: -1, ..Options::DEFAULT });
        let (kept, chunk) = (allocate(&heap), allocate(&heap));
        free(&heap, chunk);
        let cache = heap.core().shared.lock();
        // SAFETY: the heap's only cache, under its lock.
        heap.core()
            .flush(unsafe { &mut *core::ptr::with_exposed_provenance_mut::<ThreadCache>(*cache) })
            .expect("order");
        drop(cache);
        assert_eq!(state_of(&heap, chunk), state::FREE);
        for at in [-8, -1, 0, 2500, 5127] {
            found_and_forgotten(&heap, chunk, at, Kind::WriteAfterFree);
        }
        free(&heap, kept);
    }

    /// What a freed slot holds is then only what the program has left there; its header is looked at all the same.
    #[test]
    fn where_freed_chunks_are_not_zeroed_what_stands_in_them_is_no_damage() {
        let heap = heap(Options::FAST);
        let chunk = allocate(&heap);
        // SAFETY: a live chunk.
        unsafe { chunk.as_ptr().write_bytes(0x77, LAYOUT.size()) };
        free(&heap, chunk);
        // SAFETY: a free slot of the heap's.
        assert_eq!(unsafe { chunk.as_ptr().read_volatile() }, 0x77);
        found_and_forgotten(&heap, chunk, -8, Kind::WriteAfterFree);
    }

    /// A slot that was never handed out has a header once the slot in front of it is: that is its canary.
    #[test]
    fn the_audit_finds_damage_to_the_header_of_a_slot_that_was_never_handed_out() {
        let heap = heap(Options { randomize: false, ..Options::DEFAULT });
        let chunk = allocate(&heap);
        let region = heap.core().arena.own_region(chunk.as_ptr().addr());
        let class = region.own_class();
        let sealed = (0..region.frontier()).map(crate::primary::region::SlotIndex);
        let sealed = sealed.filter(|&index| region.state(index).load(Ordering::Relaxed) == state::SEALED);
        let sealed: Vec<_> = sealed.map(|index| region.chunk(index, class.stride())).collect();
        assert!(!sealed.is_empty());
        for slot in sealed {
            let slot = NonNull::new(core::ptr::with_exposed_provenance_mut(slot)).expect("an address");
            found_and_forgotten(&heap, slot, -8, Kind::WriteAfterFree);
        }
        free(&heap, chunk);
    }
}
