//! How memory goes back to the system: whole slabs, then the free pages of slabs in partial use, then the tables of what
//! was given back.
//!
//! Time is counted in epochs, one for each release interval that ends while the heap is in use: [`Class::decay`] runs once
//! an epoch, on whichever thread comes by, so that memory goes back also in classes that nobody uses any more. Nothing here
//! reads a clock.

use super::class::{Class, Descriptors, Ground};
use super::region::{Region, SlotIndex, state};
use super::slab::{Place, SlabId, Slabs, slots_log2};
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil, page_floor};
use core::sync::atomic::Ordering;

/// The most slabs of a class that one epoch looks at, so that nobody waits long for the class's lock.
const MOST_AT_ONCE: u32 = 512;

/// The fewest pages of a table that are worth a system call.
const FEWEST_TABLE_PAGES: usize = 2;

/// What shares a page with a slab.
#[derive(Clone, Copy)]
enum Neighbour {
    /// A guard, or the end of the region.
    Nothing,
    /// A slab without memory.
    Released(SlabId),
    InUse,
}

impl Neighbour {
    fn is_gone(self) -> bool {
        !matches!(self, Self::InUse)
    }
}

impl Class {
    /// Puts the memory back behind a slab. Its slots are unsealed.
    pub(super) fn make_accessible(&self, ground: Ground<'_>, id: SlabId) -> Result<(), OutOfMemory> {
        if Descriptors(ground.arena).slab(id).inaccessible {
            let (start, end) = self.pages_alone(ground, id);
            // A sandbox that the program has entered since may forbid the call that would take the guard away.
            mapping::remove_guard(start, end - start).or_else(|_| mapping::replace(start, end - start))?;
            Descriptors(ground.arena).slab(id).inaccessible = false;
        }
        Ok(())
    }

    /// The pages on which nothing in use lies but a slab. Those at its edges carry slots of its neighbours: they belong to
    /// the last of those who share them.
    fn pages_alone(&self, ground: Ground<'_>, id: SlabId) -> (usize, usize) {
        let (start, end) = self.extent(ground.arena.region(id.region()), id);
        let start = if self.neighbour(ground, id, -1).is_gone() { page_floor(start) } else { page_ceil(start) };
        let end = if self.neighbour(ground, id, 1).is_gone() { page_ceil(end) } else { page_floor(end) };
        (start, end.max(start))
    }

    /// Where the slots of a slab begin and end.
    fn extent(&self, region: &Region, id: SlabId) -> (usize, usize) {
        let first = id.number() << slots_log2(self.id);
        let stride = self.id.stride();
        (region.slot_start(SlotIndex(first), stride), region.slot_start(SlotIndex(first + self.slots()), stride))
    }

    /// Gives empty slabs back at once, oldest first, that are more than a tenth of the slabs in use while the heap has more idle
    /// memory than it should.
    pub(super) fn release_surplus(&mut self, ground: Ground<'_>) {
        if ground.options.release_interval_ms < 0 {
            return;
        }
        while let Some(oldest) = self.empty.oldest() {
            let occupied = self.slabs_in_use - self.empty.length();
            let kept = self.empty.length() <= 1 + occupied / 10 || !ground.budget.has_surplus();
            if ground.options.release_interval_ms != 0 && kept {
                break;
            }
            let _ = self.release(ground, oldest);
        }
    }

    /// Gives back what nobody has touched since before the epoch `finished`: empty slabs, then free pages of others.
    pub(crate) fn decay(&mut self, ground: Ground<'_>, finished: u32) {
        for _ in 0..MOST_AT_ONCE {
            match self.empty.oldest() {
                Some(oldest) if Descriptors(ground.arena).slab(oldest).changed_in < finished => {
                    let _ = self.release(ground, oldest);
                }
                _ => break,
            }
        }
        self.trim_partial(ground, MOST_AT_ONCE, finished);
        if self.used_in < finished {
            self.trim_open(ground);
        }
        self.release_tables(ground);
    }

    /// Gives all free memory back: empty slabs and free pages. `false` when there was nothing that the system took.
    pub(crate) fn purge(&mut self, ground: Ground<'_>) -> bool {
        let mut released = false;
        self.close_empty(ground);
        while let Some(oldest) = self.empty.oldest() {
            released |= self.release(ground, oldest);
        }
        released |= self.trim_partial(ground, u32::MAX, u32::MAX);
        released |= self.trim_open(ground);
        self.release_tables(ground);
        released
    }

    /// Trims slabs in partial use that were last given a slot before the epoch `finished`, oldest first. Those that were
    /// looked at go to the end of the list, so that warm ones are opened first and the next epoch looks at others. Tells whether
    /// pages were given back.
    fn trim_partial(&mut self, ground: Ground<'_>, most: u32, finished: u32) -> bool {
        let mut slabs = Descriptors(ground.arena);
        let mut released = false;
        for _ in 0..self.partial.length().min(most) {
            let Some(id) = self.partial.oldest() else { break };
            if (1..finished).contains(&slabs.slab(id).changed_in) {
                released |= self.trim(ground, id);
            }
            self.partial.remove(&mut slabs, id);
            self.partial.push(&mut slabs, id, Place::Partial);
        }
        released
    }

    /// Trims the open slabs, once until somebody uses them again. Tells whether pages were given back.
    fn trim_open(&mut self, ground: Ground<'_>) -> bool {
        let mut released = false;
        if self.used_in == 0 {
            return released;
        }
        self.used_in = 0;
        for which in 0..self.open_count {
            if let Some(&open) = self.open.get(which) {
                released |= self.trim(ground, open.slab);
            }
        }
        released
    }

    /// Gives back the pages of a slab on which every slot is free, with the pages that it shares with its neighbours. Tells whether
    /// there were any.
    ///
    /// The first slot of the slab behind goes with the page that its header is on, and counts as never handed out from then
    /// on: of such a slot only the pages that it shares are compared with zero when it is handed out. So its other pages go
    /// too; else what a dangling pointer wrote there would be handed out.
    fn trim(&mut self, ground: Ground<'_>, id: SlabId) -> bool {
        Descriptors(ground.arena).slab(id).changed_in = 0;
        let region = ground.arena.region(id.region());
        let (start, end) = self.extent(region, id);
        let end = match self.neighbour(ground, id, 1) {
            Neighbour::InUse if self.id.stride() > PAGE => page_floor(end + self.id.stride()),
            _ => end,
        };
        let mut released = false;
        let mut page = page_floor(start);
        while page < end {
            let first = page;
            while page < end && self.is_free_page(region, page) {
                page += PAGE;
            }
            if page > first {
                self.split_huge_pages(ground, first, page);
                // Refusal means that the pages stay as they are: free slots with headers.
                if mapping::release(first, page - first).is_ok() {
                    self.unseal(region, first, page);
                    released = true;
                }
            }
            page += PAGE;
        }
        released
    }

    /// The slots that reach into `[start, end)`, and the header behind the last one.
    fn slots_between(&self, region: &Region, start: usize, end: usize) -> impl Iterator<Item = SlotIndex> {
        let origin = region.slot_start(SlotIndex(0), self.id.stride());
        let number = |address: usize| (address.saturating_sub(origin) / self.id.stride()) as u32;
        // The slot at the frontier is the header behind the last.
        (number(start)..=number(end - 1).min(region.frontier())).map(SlotIndex)
    }

    /// Whether no slot that reaches into a page is out, and something may have been written to it.
    fn is_free_page(&self, region: &Region, page: usize) -> bool {
        let mut touched = false;
        for index in self.slots_between(region, page, page + PAGE) {
            match region.state(index).load(Ordering::Relaxed) {
                state::UNSEALED => {}
                state::FREE | state::SEALED => touched = true,
                _ => return false,
            }
        }
        touched
    }

    /// Notes that the headers between two addresses are gone. Slots whose header lies in front have lost zeroes only.
    fn unseal(&self, region: &Region, start: usize, end: usize) {
        for index in self.slots_between(region, start, end) {
            if region.slot_start(index, self.id.stride()) >= start {
                region.state(index).store(state::UNSEALED, Ordering::Relaxed);
            }
        }
    }

    /// Gives an empty slab back; `false` where the system has not taken its pages.
    fn release(&mut self, ground: Ground<'_>, id: SlabId) -> bool {
        let mut released = false;
        let mut slabs = Descriptors(ground.arena);
        let region = ground.arena.region(id.region());
        self.empty.remove(&mut slabs, id);
        ground.budget.end_idle(self.slab_bytes());
        let (start, end) = self.pages_alone(ground, id);
        let (before, behind) = (self.neighbour(ground, id, -1), self.neighbour(ground, id, 1));
        if start < end {
            self.split_huge_pages(ground, start, end);
            // Best: gone and inaccessible in one call, at no mapping. Else gone; should even that be refused, the
            // slots are still zero and are only sealed anew.
            let guarded = mapping::install_guard(start, end - start).is_ok();
            released = guarded || mapping::release(start, end - start).is_ok();
            if guarded {
                slabs.slab(id).inaccessible = true;
                for neighbour in [before, behind] {
                    if let Neighbour::Released(shares) = neighbour {
                        slabs.slab(shares).inaccessible = true;
                    }
                }
            }
        }
        let first = id.number() << slots_log2(self.id);
        // With the one behind, whose header may have been written because the last one of this slab was handed out.
        for index in first..first + self.slots() + u32::from(behind.is_gone()) {
            region.state(SlotIndex(index)).store(state::UNSEALED, Ordering::Relaxed);
        }
        self.released.push(&mut slabs, id, Place::Released);
        self.slabs_in_use -= 1;
        self.free_slots -= self.slots() as usize;
        self.tables_to_release = true;
        ground.budget.refund(self.slab_bytes());
        released
    }

    /// What lies beside a slab.
    fn neighbour(&self, ground: Ground<'_>, of: SlabId, step: i32) -> Neighbour {
        let below = self.slabs_below_frontier(ground.arena.region(of.region()));
        match of.number().checked_add_signed(step) {
            Some(number) if number < below => {
                let id = SlabId::new(of.region(), number);
                match Descriptors(ground.arena).slab(id).place {
                    Place::Released => Neighbour::Released(id),
                    Place::Guard => Neighbour::Nothing,
                    _ => Neighbour::InUse,
                }
            }
            None => Neighbour::Nothing,
            // Without guards between runs the next one will begin on this page.
            Some(_) if ground.options.guard_pages => Neighbour::Nothing,
            Some(_) => Neighbour::InUse,
        }
    }

    fn slabs_below_frontier(&self, region: &Region) -> u32 {
        region.frontier() >> slots_log2(self.id)
    }

    /// Gives back the pages of states and free bits that tell of released slabs only: those read as zero, which is what they
    /// should, for unsealed slots; free bits are written when a slab is used again.
    fn release_tables(&mut self, ground: Ground<'_>) {
        if !core::mem::replace(&mut self.tables_to_release, false) {
            return;
        }
        let mut slabs = Descriptors(ground.arena);
        for (number, region) in ground.arena.regions() {
            if region.size_class() != Some(self.id) {
                continue;
            }
            let end = self.slabs_below_frontier(region);
            let mut slab = 0;
            while slab < end {
                let first = slab;
                while slab < end && slabs.slab(SlabId::new(number, slab)).place == Place::Released {
                    slab += 1;
                }
                if slab > first {
                    self.release_tables_of(region, first << slots_log2(self.id), slab << slots_log2(self.id));
                }
                slab += 1;
            }
        }
    }

    fn release_tables_of(&self, region: &Region, first: u32, end: u32) {
        let states = region.state(SlotIndex(first)).as_ptr().expose_provenance();
        let parts = [(states, states + region.state_bytes(end - first)), region.tables().other_free_bits(first, end)];
        for (start, end) in parts {
            let (start, end) = (page_ceil(start), page_floor(end));
            if end >= start + FEWEST_TABLE_PAGES * PAGE {
                // Refusal costs memory, no more: the bytes are what they should be.
                let _ = mapping::release(start, end - start);
            }
        }
    }
}
