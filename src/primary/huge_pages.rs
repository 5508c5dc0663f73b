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
    /// Asks for huge pages for a run that was just made accessible. Not for long slots, of which a program may touch only a part.
    pub(super) fn use_huge_pages(&mut self, start: usize, end: usize) {
        if end - start >= HUGE_RUN && self.id.stride() <= ORDERED {
            mapping::advise_huge(start, end - start);
            self.huge_pages = HugePages::Wanted;
        }
    }

    /// To be called before the pages from `start` to `end`, of one slab and so in two huge pages at most, are given back.
    pub(super) fn split_huge_pages(&mut self, ground: Ground<'_>, start: usize, end: usize) {
        match self.huge_pages {
            HugePages::None => return,
            HugePages::Wanted => self.leave_huge_pages(ground),
            HugePages::Left => {}
        }
        mapping::split_huge_page(start);
        if start / HUGE_PAGE != (end - PAGE) / HUGE_PAGE {
            mapping::split_huge_page(end - PAGE);
        }
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
