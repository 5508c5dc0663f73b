//! What becomes of the mapping of a freed chunk: it is kept for the next chunk, where the program can reach it only by luck or
//! not at all, or its memory goes back to the system and its addresses wait in quarantine.

use super::address_quarantine::AddressQuarantine;
use super::layout::{FRONT, cut_room, is_mostly_resident, relocate, unmap_around, without_surplus};
use super::mapping_cache::{self, MappingCache};
use super::table::Entry;
use super::{Ground, Secondary};
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};

impl Secondary {
    /// A kept mapping in which such a chunk fits well.
    pub(super) fn take_kept(&self, size: usize, align: usize) -> Option<Entry> {
        if align > PAGE {
            return None;
        }
        let needed = page_ceil(size + FRONT + align);
        let mut state = self.state.lock();
        let old = state.cache.take(needed)?;
        // The old address is free to be handed out again, so it is not known as freed any more.
        let mut entry = state.table.remove(old)?;
        entry.chunk = (entry.data_end() - size) & !(align - 1);
        (entry.live, entry.unknown) = (true, false);
        Some(entry)
    }

    /// A kept mapping that was too short or too long, and is neither any more, and how many bytes of it were in use before: a system
    /// call or two, where a fresh mapping has a page fault for every page.
    pub(super) fn take_reshaped(&self, ground: Ground<'_>, size: usize, align: usize) -> Option<(Entry, usize)> {
        if align > PAGE {
            return None;
        }
        let needed = page_ceil(size + FRONT + align);
        // The old address stays known as freed until the pages have left it.
        let old = {
            let mut state = self.state.lock();
            let old = state.cache.take_nearest(needed)?;
            *state.table.get(old)?
        };
        let mut entry = old;
        let used = old.data_bytes.min(needed);
        let reshaped = if needed < old.data_bytes {
            let cut = old.data_bytes - needed;
            mapping::withdraw(old.data_start + needed, cut).map(|()| ground.budget.refund(cut)).is_ok()
        } else {
            let more = needed - old.data_bytes;
            // Where every chunk moves when it is freed, room is of no use to the next one.
            let room = if self.ration_large { page_ceil(needed + needed / 2) } else { needed };
            ground.budget.pay(more, || self.lengthen(&mut entry, needed, room)).is_ok()
        };
        if !reshaped {
            self.retire(ground, &old);
            return None;
        }
        entry.data_bytes = needed;
        cut_room(&mut entry);
        if entry.data_start == old.data_start {
            self.state.lock().table.remove(old.chunk);
        } else if old.unknown {
            self.state.lock().table.remove(old.chunk);
            unmap_around(&old, old.data_start, old.data_end());
        } else {
            self.quarantine_addresses(&old);
        }
        entry.chunk = (entry.data_end() - size) & !(align - 1);
        (entry.live, entry.unknown) = (true, false);
        Some((entry, used))
    }

    /// Takes a verified chunk back. `false` when another thread was faster.
    pub(crate) fn release(&self, ground: Ground<'_>, chunk: usize) -> bool {
        let entry = {
            let mut state = self.state.lock();
            let keep_allowed = self.release_interval_ms != 0;
            let Some(entry) = state.table.get(chunk).filter(|entry| entry.live) else { return false };
            entry.live = false;
            let entry = *entry;
            state.live = state.live.saturating_sub(entry.data_bytes);
            if keep_allowed && state.cache.takes(entry.data_bytes) {
                // What is longer is never left accessible.
                let rationed = entry.data_bytes <= mapping_cache::ORDINARY;
                if rationed && self.ration_large && !state.ration.spend() {
                    let displaced = state.keep(&entry);
                    drop(state);
                    if let Some(displaced) = displaced {
                        self.retire(ground, &displaced);
                    }
                } else {
                    drop(state);
                    if rationed || is_mostly_resident(&entry) {
                        self.keep_elsewhere(ground, &entry);
                    } else {
                        self.retire(ground, &entry);
                    }
                }
                self.drop_kept(ground, MappingCache::take_surplus);
                self.decay(ground);
                return true;
            }
            entry
        };
        self.retire(ground, &entry);
        self.decay(ground);
        true
    }

    /// Moves the pages of a freed chunk to an address that nobody knows, and keeps them there: its own addresses become
    /// inaccessible, and the memory is not faulted in anew. Three system calls, a tenth of what the faults cost.
    fn keep_elsewhere(&self, ground: Ground<'_>, entry: &Entry) {
        // The next chunk in it is aligned within its pages: to place these as an over-aligned chunk would take its alignment in room.
        let align_log2 = entry.align_log2.min(PAGE.ilog2() as u8);
        let mut moved = Entry { live: false, unknown: true, align_log2, ..*entry };
        if relocate(&mut moved, |bytes| self.reserve(bytes), entry.data_bytes, entry.data_bytes).is_err() {
            return self.retire(ground, entry);
        }
        // The chunk itself stays known as freed all the while: another thread may be giving it back a second time.
        let kept = {
            let mut state = self.state.lock();
            state.table.insert(moved).map(|()| state.keep(&moved))
        };
        self.quarantine_addresses(&Entry { live: false, ..*entry });
        match kept {
            Ok(None) => {}
            Ok(Some(displaced)) => self.retire(ground, &displaced),
            Err(OutOfMemory) => {
                mapping::unmap(moved.map_start, moved.map_bytes);
                ground.budget.refund(moved.data_bytes);
            }
        }
    }

    /// Makes a freed chunk inaccessible, gives its memory back and queues its addresses, if the program ever knew them: others would
    /// push those out of the queue that do dangle.
    pub(super) fn retire(&self, ground: Ground<'_>, entry: &Entry) {
        let unmap_it_all = entry.unknown
            // Where the mapping limit is reached, unmapping the whole of it needs no split.
            || mapping::discard(entry.data_start, entry.data_bytes).is_err()
                && mapping::make_inaccessible(entry.data_start, entry.data_bytes).is_err();
        if unmap_it_all {
            self.state.lock().table.remove(entry.chunk);
            mapping::unmap(entry.map_start, entry.map_bytes);
            ground.budget.refund(entry.data_bytes);
            return;
        }
        ground.budget.refund(entry.data_bytes);
        let held = without_surplus(entry);
        let displaced = self.state.lock().enqueue(&held);
        unmap_around(entry, held.map_start, held.map_end());
        self.let_go(displaced);
    }

    /// Keeps the addresses that a moved chunk has left inaccessible.
    pub(super) fn quarantine_addresses(&self, old: &Entry) {
        // The pages have moved away and left a hole.
        match mapping::reserve(old.data_start, old.data_bytes) {
            Ok(start) if start == old.data_start => {
                let mut state = self.state.lock();
                if state.table.get(old.chunk).is_some() || state.table.insert(Entry { live: false, ..*old }).is_ok() {
                    let held = without_surplus(old);
                    let displaced = state.enqueue(&held);
                    drop(state);
                    unmap_around(old, held.map_start, held.map_end());
                    return self.let_go(displaced);
                }
                drop(state);
                return mapping::unmap(old.map_start, old.map_bytes);
            }
            Ok(elsewhere) => mapping::unmap(elsewhere, old.data_bytes),
            Err(OutOfMemory) => {}
        }
        {
            let mut state = self.state.lock();
            if state.table.get(old.chunk).is_some_and(|entry| !entry.live) {
                state.table.remove(old.chunk);
            }
        }
        unmap_around(old, old.data_start, old.data_end());
    }

    /// Unmaps what had to leave the queue, and what is due.
    fn let_go(&self, displaced: Option<Entry>) {
        if let Some(entry) = displaced {
            mapping::unmap(entry.map_start, entry.map_bytes);
        }
        self.evict(AddressQuarantine::pop_due);
    }

    fn evict(&self, mut next: impl FnMut(&mut AddressQuarantine) -> Option<usize>) {
        loop {
            let due = {
                let mut state = self.state.lock();
                let Some(chunk) = next(&mut state.quarantine) else { return };
                state.table.remove(chunk)
            };
            if let Some(entry) = due {
                mapping::unmap(entry.map_start, entry.map_bytes);
            }
        }
    }

    /// Lets go of kept mappings that nobody used for the release interval.
    pub(crate) fn decay(&self, ground: Ground<'_>) {
        if self.release_interval_ms < 0 {
            return;
        }
        let interval = self.release_interval_ms.cast_unsigned();
        self.drop_kept(ground, |cache| cache.take_older_than(interval));
    }

    /// Retires kept mappings; tells whether there were any.
    fn drop_kept(&self, ground: Ground<'_>, mut next: impl FnMut(&mut MappingCache) -> Option<usize>) -> bool {
        let mut dropped = false;
        loop {
            let old = {
                let mut state = self.state.lock();
                // What is kept is known.
                let Some(&mut old) = next(&mut state.cache).and_then(|chunk| state.table.get(chunk)) else {
                    return dropped;
                };
                old
            };
            self.retire(ground, &old);
            dropped = true;
        }
    }

    /// Gives kept mappings back to the system. Quarantined addresses have no memory behind them and stay. `false` when none
    /// was kept.
    pub(crate) fn purge(&self, ground: Ground<'_>) -> bool {
        self.drop_kept(ground, MappingCache::take_any)
    }

    /// Gives back all that is held for speed or against use after free: the system or the budget has refused, and a
    /// failing program is worse than a dangling pointer that is noticed less long.
    ///
    /// # Errors
    /// When there was nothing to give back.
    ///
    /// The address quarantine only goes where that can help: not for a request beyond the budget, nor for one larger
    /// than the address space that it holds; otherwise whoever may ask for absurd sizes could empty it at will.
    #[cold]
    pub(crate) fn make_room(&self, ground: Ground<'_>, size: usize) -> Result<(), OutOfMemory> {
        let (kept, quarantined) = {
            let state = self.state.lock();
            (!state.cache.is_empty(), state.quarantine.held())
        };
        self.drop_kept(ground, MappingCache::take_any);
        if size <= quarantined && ground.budget.allows(size) {
            self.evict(AddressQuarantine::pop);
        } else if !kept {
            return Err(OutOfMemory);
        }
        Ok(())
    }
}
