//! Size classes: which slot stride serves a request of so many bytes. Pure arithmetic.
//!
//! A slot of stride `S` holds an 8-byte header and `S - 8` bytes for the program: the last 8 of them
//! lie where the next slot begins, in front of the next header. Strides are multiples of 16:
//! every 16 bytes up to 1,024 (as fine as glibc, and slack is then at most 15 bytes, which one comparison
//! covers), then 4 per doubling up to 224 KiB. The latter are sized for round requests: 4,096 bytes fit
//! the stride 4,112.

/// Bytes of a chunk header.
pub(crate) const HEADER: usize = 8;

/// Alignment of every chunk, in bytes.
pub(crate) const MIN_ALIGN: usize = 16;

/// Its logarithm.
pub(crate) const MIN_ALIGN_LOG2: u32 = MIN_ALIGN.ilog2();

/// Number of size classes.
pub(crate) const CLASSES: usize = 96;

/// The largest request, in bytes, that a class of the fine kind serves: a shift finds it.
pub(crate) const FINE_MAX: usize = 1016;

/// The largest request, in bytes, that the primary serves; what is larger gets a mapping of its own.
pub(crate) const SMALL_MAX: usize = (224 << 10) + 8;

/// Number of a size class, below [`CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassId(u8);

impl ClassId {
    /// The class with this number; `None` when there is no such class.
    pub(crate) const fn new(number: usize) -> Option<Self> {
        if number < CLASSES { Some(Self(number as u8)) } else { None }
    }

    /// The class with this number, which is known to be one.
    #[inline(always)]
    pub(crate) const fn known(number: u8) -> Self {
        debug_assert!((number as usize) < CLASSES);
        Self(number)
    }

    /// All classes, smallest first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u8).map(Self)
    }

    /// The class's number.
    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// The smallest class for a request of `size` bytes; `None` when it is large.
    #[inline(always)]
    pub(crate) fn for_size(size: usize) -> Option<Self> {
        if size <= FINE_MAX {
            Some(Self::for_fine_size(size))
        } else if size <= SMALL_MAX {
            Some(Self::for_medium_size(size))
        } else {
            None
        }
    }

    /// The class of a request of at most [`FINE_MAX`] bytes.
    #[inline(always)]
    pub(crate) fn for_fine_size(size: usize) -> Self {
        debug_assert!(size <= FINE_MAX);
        // Stride 16 serves up to 8 bytes, stride 32 up to 24, ...
        Self(((size + HEADER - 1) >> 4) as u8)
    }

    fn for_medium_size(size: usize) -> Self {
        debug_assert!(size > FINE_MAX && size <= SMALL_MAX);
        let last = size - HEADER - 1;
        if last < 1024 {
            return Self(FIRST_MEDIUM);
        }
        let log = last.ilog2();
        let quarter = (last >> (log - 2)) & 3;
        Self(FIRST_MEDIUM + (log as u8 - 10) * 4 + quarter as u8 + 1)
    }

    /// Bytes from one slot of this class to the next.
    pub(crate) const fn stride(self) -> usize {
        stride(self.0)
    }

    /// Bytes that a chunk of this class can hold.
    #[inline(always)]
    pub(crate) const fn capacity(self) -> usize {
        self.stride() - HEADER
    }
}

/// First class of the last kind: stride 1,040.
const FIRST_MEDIUM: u8 = 64;

const fn stride(class: u8) -> usize {
    let class = class as usize;
    match class {
        0..64 => (class + 1) * 16,
        _ => {
            let step = class - FIRST_MEDIUM as usize;
            ((1024 + (step % 4) * 256) << (step / 4)) + 16
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CLASSES, ClassId, FINE_MAX, HEADER, SMALL_MAX};
    use proptest::prelude::*;

    #[test]
    fn strides_are_ascending_multiples_of_sixteen() {
        let strides: Vec<_> = ClassId::all().map(ClassId::stride).collect();
        assert_eq!(strides.len(), CLASSES);
        assert!(strides.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(strides.iter().all(|stride| stride % 16 == 0));
    }

    #[test]
    fn every_small_size_gets_the_smallest_class_that_holds_it() {
        for size in 0..=SMALL_MAX {
            let class = ClassId::for_size(size).expect("small");
            assert!(class.capacity() >= size, "{size}");
            if class.index() > 0 {
                let below = ClassId::new(class.index() - 1).expect("in range");
                assert!(below.capacity() < size.max(1), "{size}");
            }
        }
    }

    #[test]
    fn the_fine_classes_end_where_a_full_stride_of_1024_ends() {
        assert_eq!(FINE_MAX + HEADER, 1024);
        assert_eq!(SMALL_MAX, 229_384);
        assert_eq!(ClassId::for_fine_size(FINE_MAX).stride(), 1024);
    }

    proptest! {
        #[test]
        fn large_sizes_have_no_class(size in SMALL_MAX + 1..=usize::MAX) {
            prop_assert_eq!(ClassId::for_size(size), None);
        }

        #[test]
        fn slack_is_at_most_a_quarter_and_a_header(size in 64..=SMALL_MAX) {
            let class = ClassId::for_size(size).expect("small");
            prop_assert!(class.capacity() - size <= size / 4 + 16);
        }

        #[test]
        fn slack_of_fine_classes_is_at_most_fifteen_bytes(size in 1..=FINE_MAX) {
            prop_assert!(ClassId::for_fine_size(size).capacity() - size <= 15);
        }
    }
}
