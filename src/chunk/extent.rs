//! How far the user area of a slot reaches, and what zeroing it and checking it need to know of that, worked out once
//! for each class.

/// Bytes that are loaded or stored together.
pub(crate) const BLOCK: usize = 16;

/// Up to this many bytes, five blocks do it, wherever they lie (a chunk for 64 bytes has 72).
pub(crate) const SHORT: usize = 5 * BLOCK;

/// The user area of the slots of a class: a positive multiple of 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    capacity: u32,
    /// Where the first four of five blocks begin that together cover a short user area: one behind the other, but none
    /// behind the last. They overlap in all but the longest, so that the same instructions run for many lengths: where
    /// sizes vary, one mispredicted branch costs more than four stores too many.
    blocks: [i8; 4],
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
        Self { capacity: capacity as u32, blocks, outside: if capacity < BLOCK { 0xff } else { 0 } }
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

    /// A bit for each byte of a block that lies outside.
    #[inline(always)]
    pub(crate) fn outside(&self) -> u32 {
        u32::from(self.outside)
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Extent, SHORT};

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
