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

    /// Gives all free memory back to the system: the cache's own, empty slabs, kept mappings.
    pub(crate) fn purge(&self, cache: &mut ThreadCache) -> Result<(), Violation> {
        self.flush(cache)?;
        self.flush_left()?;
        for class in &self.classes {
            class.lock().purge(self.ground());
        }
        self.secondary.purge(self.large_ground());
        self.guarded.purge();
        Ok(())
    }
}
