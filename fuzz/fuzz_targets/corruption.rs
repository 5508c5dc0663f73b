//! Damage to a header, to slack or to a freed chunk: the heap must say so, in profiles default and strict, and must not
//! once the damage is undone.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::alloc::Layout;
use std::ptr::NonNull;
use testudo::{AllocateError, Heap, Kind, Options, Violation};

/// Chunks in a case.
const CHUNKS: usize = 24;
/// Bytes of a header.
const HEADER: usize = 8;
/// Within so many allocations a freed chunk must have come back from the quarantine.
const UNTIL_REUSE: usize = 10_000;

#[derive(Arbitrary, Debug)]
struct Case {
    /// All randomness of the heap, so that a case repeats.
    seed: u32,
    strict: bool,
    chunks: Vec<Request>,
    /// Which of them are given back before anything is damaged.
    given_back: u32,
    /// Which of them is damaged.
    which: u8,
    place: Place,
    flips: Vec<Flip>,
    /// Whether the damage is undone, which must leave no trace.
    undone: bool,
    probes: Vec<Probe>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Request {
    size: Size,
    align_log2: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    /// Without slack: what follows the chunk is the next header.
    Full(u8),
    Small(u8),
    Fine(u16),
    Medium(u16),
    Large(u16),
}

/// Where the damage is.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    /// The half of the header that holds the checksum: nothing else in the header tells of it.
    Checksum,
    /// Behind the chunk: its slack or, when there is none, the header of the next slot.
    Behind,
    /// The chunk is given back first.
    FreedHeader,
    FreedContents,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Flip {
    at: u16,
    bits: u8,
}

/// What makes the heap look at the damage.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Free,
    Check,
    Reallocate(u16),
    SizeOf,
    /// Allocations of the same layout until a freed slot comes back.
    Reuse,
}

fuzz_target!(|case: Case| run(&case));

/// A chunk of the case.
#[derive(Clone, Copy)]
struct Chunk {
    start: NonNull<u8>,
    layout: Layout,
    live: bool,
}

impl Request {
    fn layout(self) -> Layout {
        let size = match self.size {
            Size::Full(steps) => 8 + usize::from(steps) % 64 * 16,
            Size::Small(size) => 1 + usize::from(size),
            Size::Fine(size) => 1 + usize::from(size) % 1024,
            Size::Medium(size) => 1000 + usize::from(size),
            // Above the largest slot, whatever the alignment.
            Size::Large(size) => 240_000 + usize::from(size) * 16,
        };
        let align_log2 = if self.align_log2 < 192 { 4 } else { self.align_log2 % 13 };
        Layout::from_size_align(size, 1 << align_log2).expect("a layout")
    }
}

impl Chunk {
    fn is_large(&self) -> bool {
        self.layout.size() >= 240_000
    }

    /// Bytes of slack that the chunk has at least. Slots end 8 bytes behind a multiple of 16, mappings at one; an
    /// over-aligned chunk begins at one, as all do.
    fn slack(&self) -> usize {
        let end = if self.is_large() { 0_usize } else { HEADER };
        end.wrapping_sub(self.layout.size()) % 16
    }

    /// First byte, from the chunk's start, and length of what is damaged; `None` if there is nothing to damage.
    fn range(&self, place: Place) -> Option<(isize, usize)> {
        match place {
            Place::Header | Place::FreedHeader => Some((-(HEADER as isize), HEADER)),
            Place::Checksum => Some((-(HEADER as isize) / 2, HEADER / 2)),
            Place::Behind if self.slack() > 0 => Some((self.layout.size() as isize, self.slack())),
            // Behind a mapping is a guard page.
            Place::Behind if self.is_large() => None,
            Place::Behind => Some((self.layout.size() as isize, HEADER)),
            Place::FreedContents => Some((0, self.layout.size())),
        }
    }
}

fn run(case: &Case) {
    let options = if case.strict { Options::STRICT } else { Options::DEFAULT };
    let heap = Heap::new(Options { seed: u64::from(case.seed) + 1, sample_rate: 0, ..options }).expect("a heap");
    let mut chunks = Vec::new();
    for request in case.chunks.iter().take(CHUNKS) {
        let layout = request.layout();
        let start = heap.allocate(layout).expect("memory");
        chunks.push(Chunk { start, layout, live: true });
    }
    let Some(which) = usize::from(case.which).checked_rem(chunks.len()) else { return };
    for number in (0..chunks.len()).filter(|&number| number != which && case.given_back >> number & 1 == 1) {
        free(&heap, chunks[number]).expect("a correct free");
        chunks[number].live = false;
    }
    let mut target = chunks.swap_remove(which);
    if matches!(case.place, Place::FreedHeader | Place::FreedContents) {
        if target.is_large() || target.layout.align() > 16 {
            // A freed large chunk is inaccessible; where the header of an over-aligned one lies is not known here.
            return;
        }
        free(&heap, target).expect("a correct free");
        target.live = false;
    }
    let Some((from, length)) = target.range(case.place) else { return };
    // SAFETY: the attack: within the heap's mappings, by the choice of the range, and in nobody's use.
    let bytes = unsafe { std::slice::from_raw_parts_mut(target.start.as_ptr().wrapping_offset(from), length) };
    let before = bytes.to_vec();
    for flip in case.flips.iter().take(64) {
        bytes[usize::from(flip.at) % length] ^= flip.bits;
    }
    if case.undone {
        bytes.copy_from_slice(&before);
    }
    if *bytes == *before {
        correct(&heap, target, &chunks);
    } else {
        damaged(&heap, case, target);
    }
}

/// Everything is as it was: nothing may be reported.
fn correct(heap: &Heap, target: Chunk, others: &[Chunk]) {
    heap.check().expect("nothing is damaged");
    for &chunk in others.iter().chain([&target]).filter(|chunk| chunk.live) {
        free(heap, chunk).expect("a correct free");
    }
    heap.check().expect("nothing is damaged");
    heap.purge().expect("nothing is damaged");
    assert_eq!(heap.stats().chunks, 0);
}

/// Every probe must find the damage, also after others did: a chunk that was refused has not been taken back.
fn damaged(heap: &Heap, case: &Case, target: Chunk) {
    let place = case.place;
    // The header of the next slot is looked at when a chunk is given back and when all are, no more often.
    let next_header = place == Place::Behind && target.slack() == 0;
    for &probe in case.probes.iter().take(8).chain(&[Probe::Check, Probe::Free]) {
        let found = match probe {
            Probe::Check => heap.check().expect_err("damage was passed over").kind,
            Probe::Free => {
                let found = free(heap, target).expect_err("a damaged chunk was accepted").kind;
                if target.live {
                    let expected = if matches!(place, Place::Header | Place::Checksum) {
                        Kind::CorruptHeader
                    } else {
                        Kind::Overflow
                    };
                    assert_eq!(found, expected);
                }
                found
            }
            Probe::SizeOf if !next_header => heap.size_of(target.start).expect_err("a damaged chunk was accepted").kind,
            Probe::Reallocate(size) if !next_header => reallocate(heap, target, usize::from(size)).kind,
            Probe::Reuse if !target.live => return reuse(heap, target),
            Probe::SizeOf | Probe::Reallocate(_) | Probe::Reuse => continue,
        };
        assert_ne!(found, Kind::Mismatch, "the chunk was allocated as it is given back");
    }
    if !target.live {
        reuse(heap, target);
    }
}

/// A freed chunk that was written to is found when its slot comes back, and is not handed out.
fn reuse(heap: &Heap, target: Chunk) {
    for _ in 0..UNTIL_REUSE {
        match heap.allocate(target.layout) {
            Ok(start) => {
                assert_ne!(start, target.start, "a chunk that was written to after it was freed was handed out");
                let chunk = Chunk { start, ..target };
                // In strict a neighbour may be what is damaged.
                if let Err(violation) = free(heap, chunk) {
                    assert_eq!(violation.kind, Kind::Overflow);
                    return;
                }
            }
            Err(AllocateError::Violation(violation)) => {
                assert_eq!(violation.kind, Kind::WriteAfterFree);
                return;
            }
            Err(AllocateError::OutOfMemory) => panic!("out of memory"),
        }
    }
    panic!("damage was never found");
}

fn reallocate(heap: &Heap, chunk: Chunk, size: usize) -> Violation {
    // SAFETY: the attack: the heap must refuse, and nobody uses the chunk.
    match unsafe { heap.reallocate(chunk.start, chunk.layout, size) } {
        Err(AllocateError::Violation(violation)) => violation,
        other => panic!("a damaged chunk was accepted: {other:?}"),
    }
}

fn free(heap: &Heap, chunk: Chunk) -> Result<(), Violation> {
    // SAFETY: nobody uses the chunk; what is wrong with it the heap must find.
    unsafe { heap.deallocate(chunk.start, chunk.layout) }
}
