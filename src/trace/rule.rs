//! How a frame's caller is found, and the packed form in which that is remembered.

/// What a place in a frame is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    StackPointer,
    FramePointer,
}

/// Where the caller's value of a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Still in the register.
    Same,
    /// Nowhere: for the return address, the end of the stack.
    Undefined,
    /// In memory, so many bytes from the frame's address.
    AtFrame(i32),
    /// In memory, so many bytes from a register's value.
    At(Base, i32),
}

/// How to find a frame's caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The frame's address ("canonical frame address"), which is the caller's stack pointer.
    pub(crate) base: Base,
    pub(crate) offset: i32,
    /// Whether that is where it stands in memory, not what it is.
    pub(crate) indirect: bool,
    pub(crate) return_address: Place,
    pub(crate) frame_pointer: Place,
    /// Whether the frame was made by the kernel for a signal handler.
    pub(crate) signal: bool,
}

/// Bits that a packed rule takes.
pub(super) const PACKED_BITS: u32 = 29;

impl Rule {
    /// The usual kind of rule, packed into [`PACKED_BITS`] that are never all zero. `None` for a frame of 8 MiB and more, or one
    /// that compilers do not make.
    pub(super) fn pack(&self) -> Option<u64> {
        if self.indirect || self.signal {
            return None;
        }
        let last = match self.return_address {
            Place::AtFrame(-8) => 0,
            // Nobody called: the end of every walk.
            Place::Undefined => 1,
            _ => return None,
        };
        let (saved, below) = match self.frame_pointer {
            Place::Same => (0, 0),
            Place::AtFrame(offset @ -512..=-8) if offset % 8 == 0 => (1, u64::from(offset.unsigned_abs() / 8 - 1)),
            _ => return None,
        };
        let words = match self.offset {
            1..0x80_0000 if self.offset % 8 == 0 => u64::from(self.offset.unsigned_abs() / 8),
            _ => return None,
        };
        let base = u64::from(self.base == Base::FramePointer);
        Some(last << 28 | saved << 27 | base << 26 | below << 20 | words)
    }

    /// What [`Self::pack`] packed.
    pub(super) fn unpack(packed: u64) -> Self {
        let bit = |number: u32| packed >> number & 1 == 1;
        Self {
            base: if bit(26) { Base::FramePointer } else { Base::StackPointer },
            offset: (packed & 0xf_ffff) as i32 * 8,
            indirect: false,
            return_address: if bit(28) { Place::Undefined } else { Place::AtFrame(-8) },
            frame_pointer: if bit(27) { Place::AtFrame(-8 - 8 * (packed >> 20 & 0x3f) as i32) } else { Place::Same },
            signal: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Base, PACKED_BITS, Place, Rule};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_a_rule_loses_nothing(
            words in 1..1_i32 << 20, saved in prop::option::of(-64..0_i32), framed: bool, last: bool,
        ) {
            let rule = Rule {
                base: if framed { Base::FramePointer } else { Base::StackPointer },
                offset: words * 8,
                indirect: false,
                return_address: if last { Place::Undefined } else { Place::AtFrame(-8) },
                frame_pointer: saved.map_or(Place::Same, |words| Place::AtFrame(words * 8)),
                signal: false,
            };
            let packed = rule.pack().expect("a usual rule");
            prop_assert!(packed != 0 && packed < 1 << PACKED_BITS);
            prop_assert_eq!(Rule::unpack(packed), rule);
        }

        #[test]
        fn what_is_packed_at_all_comes_back(offset: i32, below: i32) {
            let rule = Rule {
                base: Base::StackPointer,
                offset,
                indirect: false,
                return_address: Place::AtFrame(-8),
                frame_pointer: Place::AtFrame(below),
                signal: false,
            };
            if let Some(packed) = rule.pack() {
                prop_assert_eq!(Rule::unpack(packed), rule);
            }
        }
    }
}
