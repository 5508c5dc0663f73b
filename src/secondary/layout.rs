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

/// Address space around a chunk that is not worth a system call to give back, in bytes.
const SPARE: usize = 256 << 10;

/// An entry whose mapping has no more around the chunk than guards, if there was more than the chunk is long: what a chunk had before
/// it shrank, or needed so as to be aligned. The chunk itself and a page on each side stay, so that nothing else comes to lie
/// where a pointer to it leads.
pub(super) fn without_surplus(entry: &Entry) -> Entry {
    if entry.map_bytes - entry.data_bytes <= entry.data_bytes + SPARE {
        return *entry;
    }
    let map_start = entry.map_start.max(entry.data_start - PAGE);
    let map_end = entry.map_end().min(entry.data_end() + PAGE);
    Entry { map_start, map_bytes: map_end - map_start, ..*entry }
}

/// Gives back the address space that `before` had around the mapping from `start` to `end`.
pub(super) fn unmap_around(before: &Entry, start: usize, end: usize) {
    if before.map_start < start {
        mapping::unmap(before.map_start, start - before.map_start);
    }
    if end < before.map_end() {
        mapping::unmap(end, before.map_end() - end);
    }
}

/// Gives back most of the room behind a chunk that has shrunk to less than a quarter of what it has reserved: half of what it has now
/// is left to grow into.
pub(super) fn cut_room(entry: &mut Entry) {
    let end = entry.data_end() + page_ceil(entry.data_bytes / 2) + PAGE;
    if entry.map_bytes / 4 > entry.data_bytes && end + SPARE < entry.map_end() {
        mapping::unmap(end, entry.map_end() - end);
        entry.map_bytes = end - entry.map_start;
    }
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
    // From the end of the chunk down to where its data can begin at the lowest; a guard page in front, and another behind
    // wherever the end is.
    let reach = page_ceil(size + FRONT + align.max(PAGE));
    let map_bytes = PAGE + reach + end_align;
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
    if let Err(refused) = budget.pay(data_bytes, || mapping::commit(data_start, data_bytes)) {
        return undo(refused);
    }
    let (live, unknown) = (true, false);
    let entry = Entry { chunk, size, map_start, map_bytes, data_start, data_bytes, origin, align_log2, live, unknown };
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
    // Every page is like this one where the unit is a page: then there is no more room than was asked for, and nothing to take back.
    let map_bytes = room + (unit - PAGE) + 2 * PAGE;
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

#[cfg(test)]
mod tests {
    use super::{FRONT, HUGE, is_mostly_resident, map, relocate};
    use crate::budget::Budget;
    use crate::chunk::header::Origin;
    use crate::os::mapping::{self, HUGE_PAGE, OutOfMemory, PAGE, is_accessible, page_ceil, page_floor};
    use crate::secondary::table::Entry;

    static UNLIMITED: Budget = Budget::new(usize::MAX);

    /// Address space that begins so many pages behind the start of a huge page.
    fn reserve(pages: usize, bytes: usize) -> Result<usize, OutOfMemory> {
        let whole = mapping::reserve(0, bytes + 2 * HUGE_PAGE)?;
        let start = whole.next_multiple_of(HUGE_PAGE) + pages * PAGE;
        mapping::unmap(whole, start - whole);
        mapping::unmap(start + bytes, whole + bytes + 2 * HUGE_PAGE - (start + bytes));
        Ok(start)
    }

    fn mapped(size: usize, align_log2: u8, pages: usize) -> Entry {
        map(&UNLIMITED, |bytes| reserve(pages, bytes), size, 1 << align_log2, Origin::New, align_log2).expect("memory")
    }

    fn assert_guarded(entry: &Entry) {
        assert!(entry.map_start + PAGE <= entry.data_start && entry.data_end() + PAGE <= entry.map_end(), "{entry:?}");
        assert!(is_accessible(entry.data_start) && is_accessible(entry.data_end() - 1), "{entry:?}");
        assert!(!is_accessible(entry.data_start - 1), "{entry:?}");
        assert!((entry.data_end()..entry.map_end()).step_by(PAGE).all(|page| !is_accessible(page)), "{entry:?}");
    }

    #[test]
    fn a_chunk_fits_its_mapping_wherever_that_begins_and_no_more_is_reserved_than_needed() {
        for size in [0, 1, 4000, 4064, 4065, 262_144, 300_001, HUGE - 1, HUGE, HUGE + 70_001, 7 * (HUGE_PAGE / 2) + 1] {
            for align_log2 in [4, 8, 12, 13, 16, 22] {
                for pages in [0, 1, 2, 3, 17, 255, 256, 300, 509, 510, 511] {
                    let entry = mapped(size, align_log2, pages);
                    let align = 1_usize << align_log2;
                    assert!(entry.chunk.is_multiple_of(align));
                    assert_eq!(
                        (entry.size, entry.origin, entry.align_log2, entry.live),
                        (size, Origin::New, align_log2, true)
                    );
                    assert_eq!(entry.data_end(), page_ceil(entry.chunk + size));
                    assert!(entry.data_start + FRONT <= entry.chunk && entry.data_start.is_multiple_of(PAGE));
                    assert_guarded(&entry);
                    let huge = if size >= HUGE { HUGE_PAGE } else { 0 };
                    assert!(
                        entry.map_bytes <= size + FRONT + align.max(PAGE) + huge + 3 * PAGE,
                        "{size} bytes, 2^{align_log2}"
                    );
                    // The front takes no more than it needs, but for a huge page of which half is used anyway.
                    let front = page_floor(entry.chunk - FRONT);
                    let unused = front % HUGE_PAGE;
                    if size >= HUGE && unused <= HUGE_PAGE / 2 && front - unused >= entry.map_start + PAGE {
                        assert_eq!(entry.data_start, front - unused);
                    } else {
                        assert_eq!(entry.data_start, front);
                    }
                    if size >= HUGE && align <= PAGE {
                        assert!(entry.data_end().is_multiple_of(HUGE_PAGE), "its guard splits a huge page");
                    }
                    mapping::unmap(entry.map_start, entry.map_bytes);
                }
            }
        }
    }

    #[test]
    fn what_a_chunk_takes_is_counted_and_a_limit_leaves_nothing_behind() {
        let budget = Budget::new(400_000);
        let mut start = 0;
        let mut place = |bytes| {
            start = reserve(0, bytes)?;
            Ok(start)
        };
        let entry = map(&budget, &mut place, 300_000, 16, Origin::Malloc, 4).expect("memory");
        assert_eq!(budget.used(), entry.data_bytes);
        assert!(map(&budget, &mut place, 300_000, 16, Origin::Malloc, 4).is_err());
        assert_eq!(budget.used(), entry.data_bytes);
        assert!(map(&budget, |_| Err(OutOfMemory), 1000, 16, Origin::Malloc, 4).is_err());
        assert_eq!(budget.used(), entry.data_bytes);
        mapping::unmap(entry.map_start, entry.map_bytes);
    }

    #[test]
    fn a_moved_chunk_keeps_contents_and_alignment_and_the_room_behind_it_is_inaccessible() {
        for (size, align_log2) in [(300_000, 4), (300_000, 13), (300_000, 16), (HUGE, 4), (HUGE, 12)] {
            for (more, room) in [(0, 0), (0, PAGE), (PAGE, 3 * PAGE), (40 * PAGE, 60 * PAGE)] {
                for pages in [0, 1, 2, 15, 300, 511] {
                    let before = mapped(size, align_log2, pages * 7 % 512);
                    let contents = core::ptr::with_exposed_provenance_mut::<u8>(before.chunk);
                    // SAFETY: the chunk is this test's and so long.
                    unsafe {
                        contents.write(0x5a);
                        contents.add(size - 1).write(0xa5);
                    }
                    let mut after = before;
                    let needed = before.data_bytes + more;
                    // What lies behind the reservation is somebody else's.
                    let mut behind = core::ptr::null_mut::<u8>();
                    let place = |bytes| {
                        let start = reserve(pages, bytes + PAGE)?;
                        mapping::commit(start + bytes, PAGE)?;
                        behind = core::ptr::with_exposed_provenance_mut(start + bytes);
                        // SAFETY: just mapped.
                        unsafe { behind.write(7) };
                        Ok(start)
                    };
                    relocate(&mut after, place, needed, needed + room).expect("memory");
                    assert!(is_accessible(behind.addr()), "a page beyond the reservation was taken");
                    // SAFETY: just seen to be accessible.
                    assert_eq!(unsafe { behind.read() }, 7);
                    mapping::unmap(behind.addr(), PAGE);
                    after.data_bytes = needed;
                    assert_eq!(after.chunk - after.data_start, before.chunk - before.data_start);
                    assert!(after.chunk.is_multiple_of(1 << align_log2));
                    assert_guarded(&after);
                    assert!(after.data_end() + room + PAGE <= after.map_end(), "room to grow, and a guard");
                    if size >= HUGE {
                        assert_eq!(
                            after.data_start % HUGE_PAGE,
                            before.data_start % HUGE_PAGE,
                            "page tables move whole"
                        );
                    }
                    let unit = if size >= HUGE { HUGE_PAGE } else { PAGE.max(1 << align_log2) };
                    assert!(after.map_bytes <= needed + room + unit + PAGE);
                    let contents = core::ptr::with_exposed_provenance::<u8>(after.chunk);
                    // SAFETY: as above.
                    assert_eq!(unsafe { (contents.read(), contents.add(size - 1).read()) }, (0x5a, 0xa5));
                    mapping::unmap(after.map_start, after.map_bytes);
                    mapping::unmap(before.map_start, before.data_start - before.map_start);
                    mapping::unmap(before.data_end(), before.map_end() - before.data_end());
                }
            }
        }
    }

    #[test]
    fn a_chunk_that_can_not_be_moved_is_as_it_was() {
        let before = mapped(300_000, 4, 0);
        let mut after = before;
        assert!(relocate(&mut after, |_| Err(OutOfMemory), before.data_bytes, before.data_bytes).is_err());
        assert_eq!((after.chunk, after.map_start, after.map_bytes), (before.chunk, before.map_start, before.map_bytes));
        assert_guarded(&before);
        mapping::unmap(before.map_start, before.map_bytes);
    }

    #[test]
    fn a_chunk_is_mostly_resident_from_three_quarters_on() {
        let entry = mapped(100 * PAGE, 4, 0);
        let mut touched = 0;
        let mut touch = |pages: usize| {
            for page in touched..pages {
                // SAFETY: the chunk is this test's.
                unsafe { core::ptr::with_exposed_provenance_mut::<u8>(entry.data_start + page * PAGE).write(1) };
            }
            touched = pages;
            is_mostly_resident(&entry)
        };
        assert_eq!([0, 1, 30, 70].map(&mut touch), [false; 4]);
        assert_eq!([80, 100].map(touch), [true; 2]);
        mapping::unmap(entry.map_start, entry.map_bytes);
    }
}
