//! What free, delete and their kin demand of the chunk that they are given.

use crate::chunk::header::{Fields, Origin, SIZE_BITS};
use crate::size_class::MIN_ALIGN_LOG2;

/// What a way of giving back demands of the chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Header bits that the fast path compares, and what they must be.
    pub(super) mask: u32,
    pub(super) value: u32,
    /// Origins that go with it, as bits.
    pub(crate) origins: u8,
    pub(crate) size: Option<usize>,
    pub(crate) align_log2: Option<u32>,
    /// The name of the function, for reports.
    pub(crate) function: &'static str,
}

impl Demand {
    /// `function` takes back chunks of `origin` (and of `also`), whatever their size.
    pub(crate) const fn origin(function: &'static str, origin: Origin, also: &[Origin]) -> Self {
        let mut origins = 1 << origin as u8;
        let mut index = 0;
        while index < also.len() {
            origins |= 1 << also[index] as u8;
            index += 1;
        }
        let value = Fields::allocated(0, MIN_ALIGN_LOG2, origin).0;
        Self { mask: 0xf000_00ff, value, origins, size: None, align_log2: None, function }
    }

    /// The same, and the size must be right.
    #[inline(always)]
    pub(crate) const fn sized(self, size: usize) -> Self {
        let size_bits = Fields::allocated(size, 0, Origin::Malloc).0 & 0x0fff_ff00;
        let value = self.value & !0x0fff_ff00 | size_bits | no_header(size >> SIZE_BITS != 0);
        Self { mask: self.mask | 0x0fff_ff00, value, size: Some(size), ..self }
    }

    /// The same, and the alignment must be right.
    ///
    /// The fast path knows a chunk by the start of its slot, and over-aligned chunks may begin elsewhere.
    #[inline(always)]
    pub(crate) const fn aligned(self, align_log2: u32) -> Self {
        let over_aligned = no_header(align_log2 > MIN_ALIGN_LOG2);
        let value = self.value & 0x0fff_ffff | (align_log2 & 15) << 28 | over_aligned;
        Self { value, align_log2: Some(align_log2), ..self }
    }
}

/// A bit that no header has, where `holds`: the fast path then leaves the comparison to [`Core::free`], which is exact. A
/// header has too few bits for every size and alignment, so a wrong one could look like the right one.
#[inline(always)]
const fn no_header(holds: bool) -> u32 {
    holds as u32
}
