//! The 8-byte header in front of every chunk: layout and packing. Safe code.
//!
//! ```text
//!  63            32 31   28 27               8 7 6   4 3   1 0
//! |    checksum    | align |  requested size  |1|origin|state|0|
//! ```
//!
//! The lowest byte comes first in memory and is what a one-byte overflow of the chunk in front
//! hits. It is even and above 0x7f in every state, so a stray zero, a letter or 0xff changes it.

use crate::size_class::MIN_ALIGN;

/// How a chunk was asked for; it must be given back in the matching way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Origin {
    /// `malloc`, `calloc`, `realloc`, `reallocarray`.
    Malloc = 1,
    /// `operator new`.
    New = 2,
    /// `operator new[]`.
    NewArray = 3,
    /// `aligned_alloc`, `memalign`, `posix_memalign`, `valloc`, `pvalloc`.
    Memalign = 4,
    /// Rust's `GlobalAlloc` or a `Heap` handle.
    Rust = 5,
    /// `operator new(std::align_val_t)`.
    AlignedNew = 6,
    /// `operator new[](std::align_val_t)`.
    AlignedNewArray = 7,
}

impl Origin {
    /// The origin with this number.
    pub(crate) const fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            1 => Self::Malloc,
            2 => Self::New,
            3 => Self::NewArray,
            4 => Self::Memalign,
            5 => Self::Rust,
            6 => Self::AlignedNew,
            7 => Self::AlignedNewArray,
            _ => return None,
        })
    }

    /// As a report names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Malloc => "malloc",
            Self::New => "operator new",
            Self::NewArray => "operator new[]",
            Self::Memalign => "aligned_alloc",
            Self::Rust => "Rust",
            Self::AlignedNew => "aligned operator new",
            Self::AlignedNewArray => "aligned operator new[]",
        }
    }
}

/// What a header says about its slot. The truth about liveness is out of band, in the slot's state byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Handed to the program.
    Allocated = 1,
    /// Given back: in a quarantine, a thread cache or a slab.
    Freed = 2,
    /// Never handed out since its page was last mapped.
    Fresh = 4,
}

/// Size and alignment that fit a header: the requested size in bytes (20 bits) and the base-two
/// logarithm of the requested alignment (4 bits).
pub(crate) const SIZE_BITS: u32 = 20;

/// The largest alignment, as a logarithm, that a header can hold; beyond it chunks are large.
pub(crate) const MAX_ALIGN_LOG2: u32 = 15;

/// The lower half of a header: everything but the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) u32);

impl Fields {
    /// Fields of a fresh slot.
    pub(crate) const FRESH: Self = Self(0x80 | (State::Fresh as u32) << 1);

    /// Fields of an allocated chunk of `size` bytes.
    #[inline(always)]
    pub(crate) const fn allocated(size: usize, align_log2: u32, origin: Origin) -> Self {
        Self(align_log2 << 28 | ((size as u32) & ((1 << SIZE_BITS) - 1)) << 8 | Self::allocated_byte(origin))
    }

    /// The lowest byte of an allocated chunk of this origin.
    #[inline(always)]
    pub(crate) const fn allocated_byte(origin: Origin) -> u32 {
        0x80 | (origin as u32) << 4 | (State::Allocated as u32) << 1
    }

    /// The same fields with the state turned from allocated to freed.
    #[inline(always)]
    pub(crate) const fn freed(self) -> Self {
        Self(self.0 ^ ((State::Allocated as u32 ^ State::Freed as u32) << 1))
    }

    /// Requested size in bytes.
    #[inline(always)]
    pub(crate) const fn size(self) -> usize {
        ((self.0 >> 8) & ((1 << SIZE_BITS) - 1)) as usize
    }

    /// Where the chunk lies in a slot with these fields, whose user area begins at `start`: there, or at the next place that is aligned
    /// as was asked for.
    #[inline(always)]
    pub(crate) fn chunk_in_slot(self, start: usize) -> usize {
        start.next_multiple_of((1_usize << self.align_log2()).max(MIN_ALIGN))
    }

    /// Logarithm of the requested alignment.
    #[inline(always)]
    pub(crate) const fn align_log2(self) -> u32 {
        self.0 >> 28
    }

    /// Origin, where the bits name one.
    pub(crate) const fn origin(self) -> Option<Origin> {
        Origin::from_bits((self.0 >> 4) & 7)
    }

    /// Whether the lowest byte is one that some header has.
    pub(crate) const fn has_valid_marker(self) -> bool {
        self.is_allocated() && self.origin().is_some()
            || self.0 & 0x8f == 0x80 | (State::Freed as u32) << 1
            || self.0 & 0xff == Self::FRESH.0
    }

    /// Whether the state bits say allocated and the fixed bits are in order.
    #[inline(always)]
    pub(crate) const fn is_allocated(self) -> bool {
        self.0 & 0x8f == 0x80 | (State::Allocated as u32) << 1
    }
}

/// A whole header as it stands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) u64);

impl Header {
    /// Joins fields and checksum.
    #[inline(always)]
    pub(crate) const fn seal(fields: Fields, checksum: u32) -> Self {
        Self((checksum as u64) << 32 | fields.0 as u64)
    }

    /// The fields, believed only after the checksum was compared.
    #[inline(always)]
    pub(crate) const fn fields(self) -> Fields {
        Fields(self.0 as u32)
    }

    /// The stored checksum.
    #[inline(always)]
    pub(crate) const fn checksum(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, Header, Origin, SIZE_BITS, State};
    use proptest::prelude::*;

    #[test]
    fn a_marker_is_valid_if_some_header_has_it() {
        let live = (1..8).map(|origin| Fields::allocated(0, 0, Origin::from_bits(origin).expect("seven origins")));
        // A freed header keeps its origin.
        let of_headers: Vec<u32> =
            live.flat_map(|live| [live.0 & 0xff, live.freed().0 & 0xff]).chain([Fields::FRESH.0 & 0xff]).collect();
        for byte in 0..=255 {
            // Freed chunks without an origin do not come to be, but are not told apart.
            let freed = byte == 0x84;
            assert_eq!(Fields(byte | 0x1230_5600).has_valid_marker(), of_headers.contains(&byte) || freed, "{byte:#x}");
        }
    }

    /// None has: but what is asked for is compared with headers.
    #[test]
    fn a_size_that_no_header_can_hold_leaves_the_other_fields_alone() {
        let fields = Fields::allocated((5 << SIZE_BITS) + 100, 4, Origin::New);
        assert_eq!((fields.size(), fields.align_log2(), fields.origin()), (100, 4, Some(Origin::New)));
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(size in 0_usize..1 << 20, align in 0_u32..16, origin in 1_u32..8, checksum: u32) {
            let origin = Origin::from_bits(origin).expect("seven origins");
            let fields = Fields::allocated(size, align, origin);
            let header = Header::seal(fields, checksum);
            prop_assert_eq!(header.fields(), fields);
            prop_assert_eq!(header.checksum(), checksum);
            prop_assert_eq!((fields.size(), fields.align_log2(), fields.origin()), (size, align, Some(origin)));
            prop_assert!(fields.is_allocated());
            let freed = fields.freed();
            prop_assert!(!freed.is_allocated() && !Fields::FRESH.is_allocated());
            prop_assert_eq!((freed.size(), freed.align_log2(), freed.origin()), (size, align, Some(origin)));
        }

        #[test]
        fn freeing_changes_the_state_and_nothing_else(size in 0_usize..1 << 20, align in 0_u32..16, origin in 1_u32..8) {
            let live = Fields::allocated(size, align, Origin::from_bits(origin).expect("seven origins"));
            prop_assert_eq!(live.freed().0, live.0 & !0xe | (State::Freed as u32) << 1);
        }

        #[test]
        fn the_byte_that_an_overflow_hits_first_is_never_zero_nor_text_nor_ff(size in 0_usize..1 << 20, origin in 1_u32..8) {
            let origin = Origin::from_bits(origin).expect("seven origins");
            let fields = Fields::allocated(size, 4, origin);
            for fields in [fields, fields.freed(), Fields::FRESH] {
                let byte = fields.0.to_le_bytes()[0];
                prop_assert!(byte > 0x7f && byte != 0xff);
            }
        }
    }
}
