//! How far the user area of a slot reaches, and what zeroing it and checking it need to know of that, worked out once
//! for each class.

use core::mem::offset_of;

/// Bytes that are loaded or stored together.
pub(crate) const BLOCK: usize = 16;

/// Up to this many bytes, five blocks do it, wherever they lie (a chunk for 64 bytes has 72).
pub(crate) const SHORT: usize = 5 * BLOCK;

/// Bytes that AVX2 loads or stores together.
pub(crate) const WIDE: usize = 32;

/// Up to this many bytes, four wide blocks do it.
pub(crate) const WIDE_SHORT: usize = 4 * WIDE;

/// The user area of the slots of a class: a positive multiple of 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    capacity: u32,
    /// Where the first four of five blocks begin that together cover a short user area: one behind the other, but none
    /// behind the last. They overlap in all but the longest, so that the same instructions run for many lengths: where
    /// sizes vary, one mispredicted branch costs more than four stores too many.
    blocks: [i8; 4],
    /// Where the second and third of four [`WIDE`] blocks begin that cover a user area of 40 to [`WIDE_SHORT`] bytes.
    wide: [i8; 2],
    /// A bit for each byte of a block that does not belong to the user area: with 8 bytes, every block begins in the header.
    outside: u16,
}

impl Extent {
    /// A user area of so many bytes, a positive multiple of 8.
    pub(crate) const fn new(capacity: usize) -> Self {
        debug_assert!(capacity > 0 && capacity.is_multiple_of(8));
        let last = capacity.cast_signed() - BLOCK.cast_signed();
        let mut blocks = [0; 4];
        let mut number = 0;
        while number < blocks.len() {
            let place = (number * BLOCK).cast_signed();
            blocks[number] = if place < last { place as i8 } else { last as i8 };
            number += 1;
        }
        let last = capacity.cast_signed() - WIDE.cast_signed();
        let mut wide = [0; 2];
        let mut number = 0;
        while number < wide.len() {
            let place = ((number + 1) * WIDE).cast_signed();
            wide[number] = if place < last { place as i8 } else { last as i8 };
            number += 1;
        }
        Self { capacity: capacity as u32, blocks, wide, outside: if capacity < BLOCK { 0xff } else { 0 } }
    }

    /// Bytes.
    #[inline(always)]
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Where one of the first four blocks of a short user area begins, in bytes from its start.
    #[inline(always)]
    pub(crate) fn block(&self, number: usize) -> isize {
        debug_assert!(self.capacity() <= SHORT);
        isize::from(self.blocks[number])
    }

    /// Where in this the starts of the second and third of four wide blocks lie, for assembly.
    pub(crate) const WIDE_BLOCKS: [usize; 2] = [offset_of!(Self, wide), offset_of!(Self, wide) + 1];

    /// Where the second (0) or third (1) of four wide blocks begins, in bytes from the start of the user area.
    #[cfg(test)]
    pub(crate) fn wide_block(&self, number: usize) -> isize {
        debug_assert!(self.capacity() <= WIDE_SHORT);
        isize::from(self.wide[number])
    }

    /// A bit for each byte of a block that lies outside.
    #[inline(always)]
    pub(crate) fn outside(&self) -> u32 {
        u32::from(self.outside)
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Extent, SHORT, WIDE, WIDE_SHORT};

    #[test]
    fn four_wide_blocks_cover_a_user_area_and_nothing_else() {
        for capacity in (40..=WIDE_SHORT).step_by(16) {
            let extent = Extent::new(capacity);
            let last = (capacity - WIDE).cast_signed();
            let mut covered = vec![false; capacity];
            for start in [0, extent.wide_block(0), extent.wide_block(1), last] {
                assert!((0..=last).contains(&start));
                covered[start as usize..][..WIDE].fill(true);
            }
            assert!(covered.iter().all(|&byte| byte), "{capacity}");
        }
    }

    #[test]
    fn five_blocks_cover_a_short_user_area_and_nothing_behind_it() {
        for capacity in (8..=SHORT).step_by(8) {
            let extent = Extent::new(capacity);
            let last = capacity.cast_signed() - BLOCK.cast_signed();
            let mut covered = [false; SHORT + 8];
            for start in (0..4).map(|number| extent.block(number)).chain([last]) {
                assert!(start <= last && start >= -8);
                for at in start..start + BLOCK.cast_signed() {
                    covered[(at + 8) as usize] = true;
                }
            }
            assert!(covered[8..8 + capacity].iter().all(|&byte| byte), "{capacity}");
            assert_eq!(extent.outside() != 0, covered[0], "{capacity}");
        }
    }
}
