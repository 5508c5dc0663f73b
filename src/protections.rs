//! Which checks a fast path is compiled with.
//!
//! Each profile is a type whose answers are constants, so its `malloc` and `free` contain no branch on
//! configuration. Any other mixture of options runs the same code with answers read from the heap.

use crate::chunk::checksum::{Crc, Portable};
use crate::chunk::vectors::{Ordinary, Vectors};
use crate::options::Options;
use core::marker::PhantomData;

/// The checksum that profiles are compiled with.
#[cfg(target_arch = "x86_64")]
pub(crate) type Native = crate::chunk::checksum::Instruction;
/// The checksum that profiles are compiled with.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) type Native = Portable;

/// The vectors that profiles are compiled with.
#[cfg(target_arch = "x86_64")]
pub(crate) type NativeVectors = crate::chunk::vectors::Wide;
/// The vectors that profiles are compiled with.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) type NativeVectors = Ordinary;

/// Answers about a set of checks.
pub(crate) trait Protections {
    /// How checksums are computed.
    type Crc: Crc;
    /// How contents are zeroed and checked.
    type Vectors: Vectors;
    fn canary(options: &Options) -> bool;
    fn zero_on_free(options: &Options) -> bool;
    fn write_after_free(options: &Options) -> bool;
    fn neighbours(options: &Options) -> bool;
    /// Whether state changes are atomic; caches that share a mark say yes in any case.
    fn atomic_free(options: &Options, shared: bool) -> bool;
}

/// Elsewhere than on x86-64, stores may become visible out of order, and the argument that the losing thread of a race
/// sees the winner's mark in time does not hold.
const ATOMIC_ALWAYS: bool = cfg!(not(target_arch = "x86_64"));

macro_rules! profile {
    ($name:ident, $doc:literal, $options:expr) => {
        #[doc = $doc]
        pub(crate) struct $name;

        impl Protections for $name {
            type Crc = Native;
            type Vectors = NativeVectors;
            #[inline(always)]
            fn canary(_: &Options) -> bool {
                $options.canary
            }
            #[inline(always)]
            fn zero_on_free(_: &Options) -> bool {
                $options.zero_on_free
            }
            #[inline(always)]
            fn write_after_free(_: &Options) -> bool {
                $options.write_after_free
            }
            #[inline(always)]
            fn neighbours(_: &Options) -> bool {
                $options.neighbours
            }
            #[inline(always)]
            fn atomic_free(_: &Options, _: bool) -> bool {
                $options.atomic_free || ATOMIC_ALWAYS
            }
        }
    };
}

profile!(DefaultProfile, "Profile `default`.", Options::DEFAULT);
profile!(StrictProfile, "Profile `strict`.", Options::STRICT);
profile!(FastProfile, "Profile `fast`.", Options::FAST);

/// Any mixture of options, and every heap on a CPU without the CRC32 instruction or AVX2.
pub(crate) struct Mixture<C>(PhantomData<C>);

impl<C: Crc> Protections for Mixture<C> {
    type Crc = C;
    type Vectors = Ordinary;
    fn canary(options: &Options) -> bool {
        options.canary
    }
    fn zero_on_free(options: &Options) -> bool {
        options.zero_on_free
    }
    fn write_after_free(options: &Options) -> bool {
        options.write_after_free
    }
    fn neighbours(options: &Options) -> bool {
        options.neighbours
    }
    fn atomic_free(options: &Options, shared: bool) -> bool {
        options.atomic_free || shared || ATOMIC_ALWAYS
    }
}

/// Which compiled set of checks a cache runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Set {
    Default,
    Strict,
    Fast,
    /// A mixture, with the CPU's instruction.
    Mixed,
    /// A mixture, without it.
    Portable,
}

impl Set {
    /// The set for these options.
    pub(crate) fn of(options: &Options, has_instruction: bool, has_vectors: bool, shared: bool) -> Self {
        let like = |other: &Options| {
            options.canary == other.canary
                && options.zero_on_free == other.zero_on_free
                && options.write_after_free == other.write_after_free
                && options.neighbours == other.neighbours
                && options.atomic_free == other.atomic_free
        };
        if !has_instruction {
            Self::Portable
        } else if shared || !has_vectors {
            Self::Mixed
        } else if like(&Options::DEFAULT) {
            Self::Default
        } else if like(&Options::STRICT) {
            Self::Strict
        } else if like(&Options::FAST) {
            Self::Fast
        } else {
            Self::Mixed
        }
    }
}

/// Runs `$body` with `$P` standing for the set's type: for fast paths.
macro_rules! with_set {
    ($set:expr, $P:ident => $body:expr) => {{
        use $crate::protections as sets;
        match $set {
            sets::Set::Default => {
                type $P = sets::DefaultProfile;
                $body
            }
            sets::Set::Strict => {
                type $P = sets::StrictProfile;
                $body
            }
            sets::Set::Fast => {
                type $P = sets::FastProfile;
                $body
            }
            sets::Set::Mixed => {
                type $P = sets::Mixture<sets::Native>;
                $body
            }
            sets::Set::Portable => {
                type $P = sets::PortableMixture;
                $body
            }
        }
    }};
}
pub(crate) use with_set;

/// Runs `$body` with `$P` standing for a mixture, which is every set: for slow paths.
macro_rules! with_mixture {
    ($set:expr, $P:ident => $body:expr) => {{
        use $crate::protections as sets;
        if $set == sets::Set::Portable {
            type $P = sets::PortableMixture;
            $body
        } else {
            type $P = sets::Mixture<sets::Native>;
            $body
        }
    }};
}
pub(crate) use with_mixture;

/// The mixture that runs on every CPU.
pub(crate) type PortableMixture = Mixture<Portable>;
