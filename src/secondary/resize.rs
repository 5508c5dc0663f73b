//! Making a large chunk longer or shorter: in place, or by moving its pages, never by copying them.

use super::layout::{HUGE, advise_huge, cut_room, dress, relocate};
use super::table::Entry;
use super::{Ground, NotResized, Secondary};
use crate::chunk::header::Origin;
use crate::os::mapping::{self, NotMoved, OutOfMemory, PAGE, page_ceil};

impl Secondary {
    /// Changes the size of a verified live chunk without copying it, and its origin; returns its new address.
    ///
    /// # Errors
    /// When the system or the budget refuses, or another thread has given the chunk back; then it is as it was.
    pub(crate) fn resize(
        &self,
        ground: Ground<'_>,
        entry: &Entry,
        size: usize,
        origin: Origin,
    ) -> Result<usize, NotResized> {
        if !self.hold(entry) {
            return Err(NotResized::GivenBack);
        }
        let resized = self.resize_held(ground, &Entry { origin, ..*entry }, size);
        let changed = resized.unwrap_or(*entry);
        self.let_go_of(entry.chunk, entry.data_bytes, changed)?;
        if changed.chunk != entry.chunk {
            self.quarantine_addresses(&Entry { live: false, ..*entry });
        }
        Ok(resized?.chunk)
    }

    /// Gives a chunk that is nobody else's `needed` accessible bytes, more than it has: in the room behind it or, where there is too little,
    /// by moving its pages to a place where it has `room`. The entry's `data_bytes` is left to the caller.
    ///
    /// # Errors
    /// When the system refuses; then nothing has changed.
    pub(super) fn lengthen(&self, entry: &mut Entry, needed: usize, room: usize) -> Result<(), NotMoved> {
        if entry.data_start + needed + PAGE <= entry.map_end() {
            return Ok(mapping::commit(entry.data_end(), needed - entry.data_bytes)?);
        }
        let mut relocate = |room| relocate(entry, |bytes| self.reserve(bytes), needed, room);
        match relocate(room) {
            // Room to grow is a favour that a limit on memory may not grant.
            Err(NotMoved::OutOfMemory) => relocate(needed),
            outcome => outcome,
        }
    }

    pub(super) fn resize_held(&self, ground: Ground<'_>, entry: &Entry, size: usize) -> Result<Entry, OutOfMemory> {
        let needed = page_ceil(entry.chunk - entry.data_start + size);
        let mut changed = Entry { size, ..*entry };
        if needed < entry.data_bytes {
            let cut = entry.data_bytes - needed;
            let end = entry.data_start + needed;
            if mapping::withdraw(end, cut).or_else(|_| mapping::discard(end, cut)).is_ok() {
                ground.budget.refund(cut);
                changed.data_bytes = needed;
                cut_room(&mut changed);
            }
        } else if needed > entry.data_bytes {
            let more = needed - entry.data_bytes;
            let mut grow = || self.lengthen(&mut changed, needed, page_ceil(needed + needed / 2));
            let grow_somehow = || match grow() {
                Err(NotMoved::OutOfMemory) => {
                    self.make_room(ground, size).map_err(NotMoved::from).and_then(|()| grow())
                }
                outcome => outcome,
            };
            ground.budget.pay(more, grow_somehow).map_err(|_| OutOfMemory)?;
            changed.data_bytes = needed;
            if needed >= HUGE {
                advise_huge(&changed);
            }
        }
        if size > entry.size {
            // The canaries behind the old end become contents. Where the memory behind a chunk that shrank could not be given back,
            // they are longer than a page.
            let slack = entry.data_end() - (entry.chunk + entry.size);
            let tail = core::ptr::with_exposed_provenance_mut::<u8>(changed.chunk + entry.size);
            // SAFETY: it was accessible, in the chunk, which is the caller's, and is so in its present place.
            unsafe { tail.write_bytes(0, slack.min(changed.data_end() - tail.addr())) };
        }
        // What a shorter chunk no longer has is canary from here on.
        dress(ground.seal, &changed);
        Ok(changed)
    }
}
