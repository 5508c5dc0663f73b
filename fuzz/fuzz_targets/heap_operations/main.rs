//! Any sequence of correct operations, and of mistakes that a heap must refuse without harm, over up to three private
//! heaps and three threads, held against a model that knows whose every byte is.
#![no_main]

mod model;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use model::Model;

/// Heaps that exist side by side.
const HEAPS: usize = 3;
/// Threads that work at a time, at most.
const THREADS: usize = 3;
/// Steps after which a case ends: longer ones find nothing that shorter ones do not, and take long.
const STEPS: usize = 400;

#[derive(Arbitrary, Debug)]
struct Case {
    /// All randomness of the heaps, so that a case repeats, as far as one with several threads can.
    seed: u32,
    kinds: [HeapKind; HEAPS],
    threads: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct HeapKind {
    profile: Profile,
    limited: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Profile {
    Default,
    Strict,
    Fast,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    Zero,
    Small(u8),
    Fine(u16),
    Medium(u16),
    Large(u8, u8),
}

impl Size {
    fn bytes(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::Small(size) => usize::from(size),
            Self::Fine(size) => usize::from(size) % 1100,
            Self::Medium(size) => 1000 + usize::from(size) * 4,
            // Around the border between slots and mappings, and up to a few huge pages.
            Self::Large(steps, rest) => 228_000 + usize::from(steps) * 20_000 + usize::from(rest) * 16,
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Step {
    Allocate {
        heap: u8,
        size: Size,
        align_log2: u8,
    },
    /// By way of `Allocator::allocate_zeroed`, which promises zeroes in every profile.
    AllocateZeroed {
        heap: u8,
        size: Size,
        align_log2: u8,
    },
    Reallocate {
        which: u8,
        size: Size,
    },
    /// By way of `Allocator::grow_zeroed` and `Allocator::shrink`, to another alignment too.
    Refit {
        which: u8,
        size: Size,
        align_log2: u8,
    },
    Free {
        which: u8,
    },
    /// A little more or less, so that the chunk often stays in its slot.
    Resize {
        which: u8,
        by: i8,
    },
    /// The chunk holds what was written to it.
    Look {
        which: u8,
    },
    /// Mistake: a chunk that was given back before.
    FreeAgain {
        which: u8,
    },
    /// Mistake: a size that is not the chunk's.
    FreeWrongSize {
        which: u8,
    },
    /// Mistake: a chunk of another heap.
    FreeElsewhere {
        which: u8,
        heap: u8,
    },
    /// Mistake: an address inside a chunk.
    FreeInside {
        which: u8,
        offset: u16,
    },
    /// Mistake: an address made up.
    FreeAnything {
        heap: u8,
        address: u64,
        /// Counted from a chunk instead of from zero.
        near: Option<u8>,
    },
    Check {
        heap: u8,
    },
    Purge {
        heap: u8,
    },
    /// Drops a heap with all that is in it, and makes another.
    Renew {
        heap: u8,
    },
}

impl Step {
    /// Whether what it claims is only true while no other thread is at work.
    fn is_exclusive(self) -> bool {
        matches!(self, Self::FreeAgain { .. } | Self::FreeAnything { .. } | Self::Renew { .. })
    }
}

fuzz_target!(|case: Case| {
    let model = Model::new(&case);
    let steps = case.steps.get(..STEPS).unwrap_or(&case.steps);
    match usize::from(case.threads) % THREADS {
        0 => steps.iter().for_each(|&step| model.step(step)),
        more => std::thread::scope(|scope| {
            for first in 0..=more {
                let model = &model;
                scope.spawn(move || steps.iter().skip(first).step_by(more + 1).for_each(|&step| model.step(step)));
            }
        }),
    }
    model.end();
});
