//! Any sequence of correct operations, and of mistakes that a heap must refuse without harm, over up to three private
//! heaps, held against a model that knows whose every byte is.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::alloc::Layout;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use testudo::{AllocateError, Heap, Kind, Options, Violation};

/// Heaps that exist side by side.
const HEAPS: usize = 3;
/// Steps after which a case ends: longer ones find nothing that shorter ones do not, and take long.
const STEPS: usize = 400;
/// Bytes that are live at once, so that a case stays far below the memory of the machine.
const LIVE: usize = 24 << 20;
/// The limit of heaps that have one, in MiB: low enough to be reached below `LIVE`.
const LIMIT_MB: u32 = 4;

#[derive(Arbitrary, Debug)]
struct Case {
    /// All randomness of the heaps, so that a case repeats.
    seed: u32,
    kinds: [HeapKind; HEAPS],
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
    Reallocate {
        which: u8,
        size: Size,
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

fuzz_target!(|case: Case| Model::new(&case).run(&case.steps));

/// A live chunk.
struct Chunk {
    heap: usize,
    start: NonNull<u8>,
    layout: Layout,
    /// What its bytes are made from; no two chunks of a case have the same.
    serial: usize,
}

impl Chunk {
    fn bytes(&mut self) -> &mut [u8] {
        let length = self.layout.size();
        // A chunk of no bytes is inaccessible.
        let start = if length == 0 { NonNull::dangling() } else { self.start };
        // SAFETY: the chunk is live, so long, and known only here.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }

    fn own(&mut self) {
        let serial = self.serial;
        for (offset, byte) in self.bytes().iter_mut().enumerate() {
            *byte = pattern(serial, offset);
        }
    }

    /// Claims that the first `length` bytes are the chunk's own.
    fn expect_own(&mut self, length: usize) {
        let serial = self.serial;
        let foreign =
            self.bytes()[..length].iter().enumerate().position(|(offset, &byte)| byte != pattern(serial, offset));
        assert_eq!(foreign, None, "a byte of chunk {serial} was changed");
    }

    /// Claims that all bytes from `from` on are zero.
    fn expect_zero(&mut self, from: usize) {
        assert_eq!(self.bytes()[from..].iter().position(|&byte| byte != 0), None, "memory from {from} on is not zero");
    }
}

/// Differs between neighbouring chunks and between neighbouring bytes, and is never zero.
fn pattern(serial: usize, offset: usize) -> u8 {
    (serial.wrapping_mul(0x9e37) ^ offset ^ offset >> 8) as u8 | 1
}

struct Model {
    seed: u64,
    kinds: [HeapKind; HEAPS],
    /// Made when they are first used: making one takes as long as hundreds of steps.
    heaps: [OnceCell<Heap>; HEAPS],
    chunks: Vec<Chunk>,
    /// First address and length of every live chunk, of all heaps: nothing may overlap.
    owned: BTreeMap<usize, usize>,
    /// Chunks that were given back.
    gone: Vec<(usize, NonNull<u8>, Layout)>,
    serial: usize,
    live: usize,
}

impl Model {
    fn new(case: &Case) -> Self {
        Self {
            seed: u64::from(case.seed) + 1,
            kinds: case.kinds,
            heaps: [const { OnceCell::new() }; HEAPS],
            chunks: Vec::new(),
            owned: BTreeMap::new(),
            gone: Vec::new(),
            serial: 0,
            live: 0,
        }
    }

    fn options(&self, number: usize) -> Options {
        match self.kinds[number].profile {
            Profile::Default => Options::DEFAULT,
            Profile::Strict => Options::STRICT,
            Profile::Fast => Options::FAST,
        }
    }

    fn heap(&self, number: usize) -> &Heap {
        self.heaps[number].get_or_init(|| {
            let heap_limit_mb = if self.kinds[number].limited { LIMIT_MB } else { 0 };
            let seed = self.seed + number as u64;
            Heap::new(Options { seed, heap_limit_mb, ..self.options(number) }).expect("a heap")
        })
    }

    fn run(mut self, steps: &[Step]) {
        for &step in steps.iter().take(STEPS) {
            self.step(step);
        }
        for chunk in &mut self.chunks {
            chunk.expect_own(chunk.layout.size());
        }
        for number in 0..HEAPS {
            self.heap(number).check().expect("nothing is damaged");
            self.compare_stats(number);
        }
        while !self.chunks.is_empty() {
            self.free(0);
        }
        for number in 0..HEAPS {
            self.heap(number).purge().expect("nothing is damaged");
            self.heap(number).check().expect("nothing is damaged");
            self.compare_stats(number);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Allocate { heap, size, align_log2 } => {
                // Every alignment up to twice the largest that fits a header; half of them the usual ones.
                let align_log2 = if align_log2 < 128 { align_log2 % 5 } else { align_log2 % 17 };
                let layout = Layout::from_size_align(size.bytes(), 1 << align_log2).expect("a layout");
                self.allocate(usize::from(heap) % HEAPS, layout);
            }
            Step::Reallocate { which, size } => {
                if let Some(which) = self.chosen(which) {
                    self.reallocate(which, size.bytes());
                }
            }
            Step::Resize { which, by } => {
                if let Some(which) = self.chosen(which) {
                    self.reallocate(which, self.chunks[which].layout.size().saturating_add_signed(isize::from(by)));
                }
            }
            Step::Free { which } => {
                if let Some(which) = self.chosen(which) {
                    self.free(which);
                }
            }
            Step::Look { which } => {
                if let Some(which) = self.chosen(which) {
                    self.look(which);
                }
            }
            Step::FreeAgain { which } => self.free_again(which),
            Step::FreeWrongSize { which } => {
                if let Some(which) = self.chosen(which) {
                    let Chunk { heap, start, layout, .. } = self.chunks[which];
                    let wrong = Layout::from_size_align(layout.size() + 1, layout.align()).expect("a layout");
                    assert_eq!(self.refused(heap, start, wrong).kind, Kind::WrongSize);
                }
            }
            Step::FreeElsewhere { which, heap } => {
                let elsewhere = usize::from(heap) % HEAPS;
                if let Some(which) = self.chosen(which) {
                    let Chunk { heap, start, layout, .. } = self.chunks[which];
                    // Addresses that another heap's chunk left may be known to that heap as freed.
                    let left = self.gone.iter().any(|&(old, address, _)| old == elsewhere && address == start);
                    if heap != elsewhere && !left {
                        assert_eq!(self.refused(elsewhere, start, layout).kind, Kind::NotAChunk);
                    }
                }
            }
            Step::FreeInside { which, offset } => {
                if let Some(which) = self.chosen(which) {
                    let Chunk { heap, start, layout, .. } = self.chunks[which];
                    let offset = usize::from(offset) % layout.size().max(1);
                    if offset != 0 {
                        let inside = NonNull::new(start.as_ptr().wrapping_add(offset)).expect("not null");
                        self.refused(heap, inside, layout);
                    }
                }
            }
            Step::Check { heap } => self.heap(usize::from(heap) % HEAPS).check().expect("nothing is damaged"),
            Step::Purge { heap } => self.heap(usize::from(heap) % HEAPS).purge().expect("nothing is damaged"),
            Step::Renew { heap } => self.renew(usize::from(heap) % HEAPS),
        }
    }

    fn chosen(&self, which: u8) -> Option<usize> {
        usize::from(which).checked_rem(self.chunks.len())
    }

    fn allocate(&mut self, heap: usize, layout: Layout) {
        if self.live + layout.size() > LIVE {
            return;
        }
        let start = match self.heap(heap).allocate(layout) {
            Ok(start) => start,
            Err(error) => return self.expect_limit(heap, error),
        };
        self.serial += 1;
        let mut chunk = Chunk { heap, start, layout, serial: self.serial };
        self.take(start, layout);
        if self.options(heap).zero_on_free {
            chunk.expect_zero(0);
        }
        chunk.own();
        self.chunks.push(chunk);
    }

    fn reallocate(&mut self, which: usize, size: usize) {
        if self.live + size > LIVE {
            return;
        }
        let Chunk { heap, start, layout, .. } = self.chunks[which];
        // SAFETY: the model forgets the old address if this succeeds.
        let moved = match unsafe { self.heap(heap).reallocate(start, layout, size) } {
            Ok(moved) => moved,
            Err(error) => {
                self.expect_limit(heap, error);
                return self.look(which);
            }
        };
        self.leave(start, layout);
        if moved != start {
            self.gone.push((heap, start, layout));
        }
        let zeroed = self.options(heap).zero_on_free;
        let new = Layout::from_size_align(size, layout.align()).expect("a layout");
        self.take(moved, new);
        let chunk = &mut self.chunks[which];
        (chunk.start, chunk.layout) = (moved, new);
        let kept = layout.size().min(size);
        chunk.expect_own(kept);
        if zeroed {
            chunk.expect_zero(kept);
        }
        chunk.own();
    }

    fn free(&mut self, which: usize) {
        let mut chunk = self.chunks.swap_remove(which);
        chunk.expect_own(chunk.layout.size());
        // SAFETY: the model has forgotten the chunk.
        unsafe { self.heap(chunk.heap).deallocate(chunk.start, chunk.layout) }.expect("a correct free");
        self.leave(chunk.start, chunk.layout);
        self.gone.push((chunk.heap, chunk.start, chunk.layout));
    }

    fn look(&mut self, which: usize) {
        let chunk = &mut self.chunks[which];
        chunk.expect_own(chunk.layout.size());
        let Chunk { heap, start, layout, .. } = self.chunks[which];
        assert_eq!(self.heap(heap).size_of(start), Ok(layout.size()));
    }

    fn free_again(&mut self, which: u8) {
        let Some(which) = usize::from(which).checked_rem(self.gone.len()) else { return };
        let (heap, start, layout) = self.gone[which];
        // The address may be a chunk's again, even another heap's: then it is no mistake to name it.
        if !self.owned.contains_key(&start.as_ptr().addr()) {
            self.refused(heap, start, layout);
        }
    }

    /// Gives back what must not be accepted, and returns what the heap says about it.
    fn refused(&self, heap: usize, start: NonNull<u8>, layout: Layout) -> Violation {
        // SAFETY: the mistake that the heap must find; should it not, the model ends here.
        unsafe { self.heap(heap).deallocate(start, layout) }.expect_err("a mistake was accepted")
    }

    fn renew(&mut self, number: usize) {
        for which in (0..self.chunks.len()).rev() {
            if self.chunks[which].heap == number {
                let chunk = self.chunks.swap_remove(which);
                self.leave(chunk.start, chunk.layout);
            }
        }
        self.gone.retain(|&(heap, ..)| heap != number);
        self.heaps[number] = OnceCell::new();
    }

    /// Only a heap that has a limit may refuse, and only for that.
    fn expect_limit(&self, heap: usize, error: AllocateError) {
        assert_eq!(error, AllocateError::OutOfMemory);
        assert!(self.kinds[heap].limited, "a heap without a limit is out of memory");
    }

    /// Claims that a new chunk is aligned and that nobody has its bytes.
    fn take(&mut self, start: NonNull<u8>, layout: Layout) {
        let start = start.as_ptr().addr();
        assert!(start.is_multiple_of(layout.align()), "the chunk at {start:#x} is not aligned");
        // A chunk of no bytes has an address of its own all the same.
        let length = layout.size().max(1);
        if let Some((before, bytes)) = self.owned.range(..start + length).next_back() {
            assert!(before + bytes <= start, "chunks at {before:#x} and {start:#x} overlap");
        }
        self.owned.insert(start, length);
        self.live += layout.size();
    }

    fn leave(&mut self, start: NonNull<u8>, layout: Layout) {
        self.owned.remove(&start.as_ptr().addr()).expect("the model knows the chunk");
        self.live -= layout.size();
    }

    fn compare_stats(&self, number: usize) {
        let stats = self.heap(number).check_stats().expect("nothing is damaged");
        let mine = || self.chunks.iter().filter(|chunk| chunk.heap == number);
        assert_eq!(stats.chunks, mine().count());
        assert_eq!(stats.allocated, mine().map(|chunk| chunk.layout.size()).sum::<usize>());
    }
}
