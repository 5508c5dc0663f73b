//! Huge pages behind classes with many chunks: one page fault for 2 MiB instead of 512, and 512 times as much memory within
//! reach of the CPU's address translation.
//!
//! The kernel's part of it would undo what is given back: it fills in what is missing of a huge page in memory that is advised to have
//! some, and it keeps the whole of a huge page as long as a part of it is in use. So a class that gives memory back is advised against huge
//! pages from then on, and a huge page is split before a part of it goes.

use super::class::{Class, Ground, ORDERED};
use super::region::SlotIndex;
use crate::os::mapping::{self, HUGE_PAGE, PAGE, page_ceil, page_floor};
use crate::size_class::HEADER;

/// From this many bytes on a run of slabs has huge pages. A run is half as long as all before it, so at most an eighth of what the class has
/// is made resident before it is used.
const HUGE_RUN: usize = 8 << 20;

/// From this many bytes on a class gets no more of them: at 2.5 GiB they gained nothing, and on a virtual machine whose host takes back what is
/// free they took twice as long.
const LARGEST_CLASS: usize = 512 << 20;

/// Whether a run of so many bytes has huge pages, in a class that has `in_use` bytes. Not long slots, of which a program may touch only a
/// part.
const fn has_huge_pages(run: usize, in_use: usize, stride: usize) -> bool {
    run >= HUGE_RUN && in_use < LARGEST_CLASS && stride <= ORDERED
}

/// What a class has to do with huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HugePages {
    /// No run was ever long enough.
    None,
    /// The kernel is asked for them.
    Wanted,
    /// It is asked for no more of them. Those that are there stay.
    Left,
}

impl Class {
    /// Asks for huge pages for a run that was just made accessible, if it is to have them.
    pub(super) fn use_huge_pages(&mut self, start: usize, end: usize) {
        if has_huge_pages(end - start, self.slabs_in_use as usize * self.slab_bytes(), self.id.stride()) {
            mapping::advise_huge(start, end - start);
            self.huge_pages = HugePages::Wanted;
        }
    }

    /// To be called before the pages from `start` to `end`, of one slab, are given back.
    pub(super) fn split_huge_pages(&mut self, ground: Ground<'_>, start: usize, end: usize) {
        match self.huge_pages {
            HugePages::None => return,
            HugePages::Wanted => self.leave_huge_pages(ground),
            HugePages::Left => {}
        }
        one_in_each(start, end).for_each(mapping::split_huge_page);
    }

    #[cold]
    fn leave_huge_pages(&mut self, ground: Ground<'_>) {
        for (_, region) in ground.arena.regions().filter(|(_, region)| region.size_class() == Some(self.id)) {
            let start = page_floor(region.slot_start(SlotIndex(0), self.id.stride()));
            let end = page_ceil(region.slot_start(SlotIndex(region.frontier()), self.id.stride()) + HEADER);
            mapping::advise_no_huge(start, end - start);
        }
        self.huge_pages = HugePages::Left;
    }
}

/// A page in each of the huge pages that the pages from `start` to `end` lie in: two at most, as a slab is shorter than one.
fn one_in_each(start: usize, end: usize) -> impl Iterator<Item = usize> {
    let last = end - PAGE;
    let apart = start / HUGE_PAGE != last / HUGE_PAGE;
    [Some(start), apart.then_some(last)].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::{has_huge_pages, one_in_each};
    use crate::os::mapping::{HUGE_PAGE, PAGE};

    #[test]
    fn long_runs_of_short_slots_have_huge_pages_in_classes_up_to_half_a_gib() {
        const MIB: usize = 1 << 20;
        assert!(has_huge_pages(8 * MIB, 16 * MIB, 16) && has_huge_pages(64 * MIB, 512 * MIB - 1, 1024));
        assert!(!has_huge_pages(8 * MIB - 1, 16 * MIB, 16));
        assert!(!has_huge_pages(64 * MIB, 512 * MIB, 16));
        assert!(!has_huge_pages(8 * MIB, 16 * MIB, 1040));
    }

    #[test]
    fn one_page_of_each_huge_page_is_named() {
        let pages = |first: usize, count: usize| -> Vec<usize> {
            let start = 40 * HUGE_PAGE + first * PAGE;
            one_in_each(start, start + count * PAGE).map(|page| page / PAGE - 40 * 512).collect()
        };
        assert_eq!(
            (pages(0, 1), pages(0, 16), pages(511, 1), pages(480, 32)),
            (vec![0], vec![0], vec![511], vec![480])
        );
        assert_eq!((pages(511, 2), pages(500, 16), pages(481, 32)), (vec![511, 512], vec![500, 515], vec![481, 512]));
    }
}
