//! How a large chunk lies in its mapping: what is reserved, what of that is accessible, and what surrounds the chunk.

use super::table::Entry;
use crate::budget::Budget;
use crate::chunk::canary;
use crate::chunk::checksum::{self, Seal};
use crate::chunk::header::{Fields, Header, Origin};
use crate::os::mapping::{self, HUGE_PAGE, NotMoved, OutOfMemory, PAGE, page_ceil, page_floor};
use crate::size_class::HEADER;

/// Bytes in front of a large chunk that tell of an underflow: three words of canary and the header.
pub(super) const FRONT: usize = 32;

/// From this size on a chunk is backed by huge pages: one fault zeroes 2 MiB, so that fresh memory is cheaper than
/// kept memory, and use after free faults besides.
pub(super) const HUGE: usize = 4 << 20;

/// Whether most of a chunk is in memory: zeroing what never was would make it resident, and cost more than fresh pages.
pub(super) fn is_mostly_resident(entry: &Entry) -> bool {
    mapping::resident(entry.data_start, entry.data_bytes) >= entry.data_bytes / 4 * 3
}

pub(super) fn header_of(seal: &Seal, entry: &Entry) -> Header {
    let fields = Fields::allocated(entry.size, u32::from(entry.align_log2.min(15)), entry.origin);
    Header::seal(fields, seal.checksum(entry.chunk, fields.0))
}

/// Writes header and canaries around a chunk.
pub(super) fn dress(seal: &Seal, entry: &Entry) {
    let header = header_of(seal, entry);
    let word = seal.secrets.canary(header.checksum());
    let front = core::ptr::with_exposed_provenance_mut::<u8>(entry.chunk - FRONT);
    let chunk = core::ptr::with_exposed_provenance_mut::<u8>(entry.chunk);
    // SAFETY: 32 bytes in front and everything up to `data_end` belong to the chunk's mapping.
    unsafe {
        canary::fill(front, 0, FRONT - HEADER, word);
        canary::fill(chunk, entry.size, entry.data_end() - entry.chunk, word);
    }
    checksum::write(entry.chunk, header);
}

/// Huge pages where a whole one fits, and for the first one if the chunk uses at least half of it.
///
/// All of the chunk is advised, though its edges can't be huge: the kernel splits a mapping where the advice changes,
/// and a chunk of several mappings can't be moved.
pub(super) fn advise_huge(entry: &Entry) {
    let whole = (entry.data_start + HUGE_PAGE - 1) & !(HUGE_PAGE - 1);
    if whole + HUGE_PAGE <= entry.data_end() {
        mapping::advise_huge(entry.data_start, entry.data_bytes);
    }
}

pub(super) fn map(
    budget: &Budget,
    reserve: impl FnOnce(usize) -> Result<usize, OutOfMemory>,
    size: usize,
    align: usize,
    origin: Origin,
    align_log2: u8,
) -> Result<Entry, OutOfMemory> {
    let huge = size >= HUGE;
    // Data ends where a huge page ends, so that the guard splits none.
    let end_align = if huge { HUGE_PAGE } else { PAGE };
    let reach = size + FRONT + align.max(PAGE) + PAGE;
    let map_bytes = page_ceil(PAGE + reach + end_align + PAGE);
    let map_start = reserve(map_bytes)?;
    let undo = |refused| {
        mapping::unmap(map_start, map_bytes);
        Err(refused)
    };
    let end = (map_start + map_bytes - PAGE) & !(end_align - 1);
    let chunk = (end - size) & !(align - 1);
    let data_end = page_ceil(chunk + size);
    let mut data_start = page_floor(chunk - FRONT);
    if huge {
        let whole = data_start & !(HUGE_PAGE - 1);
        if data_start - whole <= HUGE_PAGE / 2 && whole >= map_start + PAGE {
            data_start = whole;
        }
    }
    let data_bytes = data_end - data_start;
    if let Err(refused) = budget.charge(data_bytes) {
        return undo(refused);
    }
    if let Err(refused) = mapping::commit(data_start, data_bytes) {
        budget.refund(data_bytes);
        return undo(refused);
    }
    let entry = Entry { chunk, size, map_start, map_bytes, data_start, data_bytes, origin, align_log2, live: true };
    if huge {
        advise_huge(&entry);
    }
    Ok(entry)
}

/// Moves a chunk's pages to a reservation of at least `room` bytes, of which it gets `needed`.
///
/// The pages are moved with all of the room, and what is not needed of it is made inaccessible then: so the chunk and the
/// room behind it stay one mapping for the kernel, whatever grows into it later, and can be moved again.
pub(super) fn relocate(
    entry: &mut Entry,
    reserve: impl FnOnce(usize) -> Result<usize, OutOfMemory>,
    needed: usize,
    room: usize,
) -> Result<(), NotMoved> {
    let align = 1_usize << entry.align_log2.min(40);
    // Page tables of huge pages move as a whole only between places that are alike.
    let unit = if needed >= HUGE { HUGE_PAGE } else { PAGE }.max(align);
    let map_bytes = room + unit + 2 * PAGE;
    let map_start = reserve(map_bytes)?;
    let misplaced = entry.data_start & (unit - 1);
    let mut data_start = (map_start & !(unit - 1)) + misplaced;
    while data_start < map_start + PAGE {
        data_start += unit;
    }
    let room = map_start + map_bytes - PAGE - data_start;
    if let Err(refused) = mapping::relocate(entry.data_start, entry.data_bytes, data_start, room) {
        mapping::unmap(map_start, map_bytes);
        return Err(refused);
    }
    entry.chunk = entry.chunk - entry.data_start + data_start;
    entry.data_start = data_start;
    entry.map_start = map_start;
    entry.map_bytes = map_bytes;
    let data_end = data_start + needed;
    if room > needed && mapping::make_inaccessible(data_end, room - needed).is_err() {
        // Other threads have used up the last mappings since. Without the room, accesses behind the chunk fault too.
        mapping::unmap(data_end, entry.map_end() - data_end);
        entry.map_bytes = data_end - map_start;
    }
    Ok(())
}
