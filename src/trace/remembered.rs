//! Walks of one thread that need not be taken again: a look-up and about twenty loads instead of an unwinding, which was a third of
//! what profile `fuzz` spent outside the kernel.

use super::Registers;
use super::depot::TraceId;
use super::evidence::Evidence;
use super::stack::Window;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};

/// Sets of walks, and walks in a set.
const SETS: usize = 256;
const WAYS: usize = 4;

/// Stack pointers of which it is known which word tells their walks apart, in pairs: the ways through the allocator differ.
const STACK_POINTERS: usize = 512;

/// Zeroes are a valid one that knows nothing.
struct Memory {
    /// A stack pointer, and in the low 16 bits how many words above it the telling one lies.
    telling: [[u64; 2]; STACK_POINTERS],
    walks: [[Evidence; WAYS]; SETS],
    /// What the walk under way rests on.
    latest: Evidence,
    /// Which way is given up next.
    turn: u32,
}

/// Bytes of it that are accessible.
pub(crate) const ACCESSIBLE: usize = page_ceil(size_of::<Memory>());

/// Bytes of the memory that it is given.
pub(crate) const REMEMBERED_BYTES: usize = ACCESSIBLE + 2 * PAGE;

/// A thread's, so without atomics or locks.
pub(crate) struct Remembered {
    /// Where its memory is; zero is nowhere.
    start: usize,
    /// The system has refused the memory, and is not asked again.
    refused: bool,
}

fn hash(stack_pointer: usize, word: usize) -> u64 {
    let mixed = (stack_pointer as u64 ^ (word as u64).rotate_left(24)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

impl Memory {
    fn telling(&mut self, stack_pointer: usize) -> &mut [u64; 2] {
        &mut self.telling[(hash(stack_pointer, 0) >> 20) as usize % STACK_POINTERS]
    }

    fn set(&mut self, stack_pointer: usize, word: usize) -> &mut [Evidence; WAYS] {
        &mut self.walks[(hash(stack_pointer, word) >> 20) as usize % SETS]
    }

    fn find(&mut self, registers: &Registers, window: &Window) -> Option<TraceId> {
        let stack_pointer = registers.stack_pointer;
        let pair = *self.telling(stack_pointer);
        pair.into_iter().find_map(|telling| {
            if telling >> 16 != stack_pointer as u64 {
                return None;
            }
            let word = window.known_word(stack_pointer, telling as u32 & 0xffff)?;
            self.set(stack_pointer, word).iter().find_map(|walk| walk.verdict(registers, window))
        })
    }

    /// Remembers that the latest walk led to a trace.
    fn keep(&mut self, stack_pointer: usize, trace: TraceId) {
        let Some((place, word)) = self.latest.telling_place() else { return };
        let Ok(place) = u16::try_from(place) else { return };
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn as usize;
        let pair = self.telling(stack_pointer);
        let telling = (stack_pointer as u64) << 16 | u64::from(place);
        if !pair.contains(&telling) {
            let way = pair.iter().position(|&other| other == 0).unwrap_or(turn % 2);
            pair[way] = telling;
        }
        let set = &mut self.walks[(hash(stack_pointer, word) >> 20) as usize % SETS];
        let way = set.iter().position(Evidence::is_empty).unwrap_or(turn % WAYS);
        set[way].copy(&self.latest, trace);
    }
}

impl Remembered {
    pub(crate) const NOWHERE: Self = Self { start: 0, refused: false };

    /// Whether it has memory, or never will.
    pub(crate) fn is_settled(&self) -> bool {
        self.start != 0 || self.refused
    }

    /// Gives it its memory: reserved address space of [`REMEMBERED_BYTES`]. Where the system refuses that, it remembers nothing.
    pub(crate) fn settle(&mut self, reserved: Result<usize, OutOfMemory>) {
        match reserved {
            Ok(start) if mapping::commit(start + PAGE, ACCESSIBLE).is_ok() => self.start = start + PAGE,
            refused => {
                self.refused = true;
                if let Ok(start) = refused {
                    mapping::unmap(start, REMEMBERED_BYTES);
                }
            }
        }
    }

    /// Forgets everything, and gives the memory back.
    pub(crate) fn unmap(&mut self) {
        if self.start != 0 {
            mapping::unmap(self.start - PAGE, REMEMBERED_BYTES);
            self.start = 0;
        }
    }

    fn memory(&mut self) -> Option<&mut Memory> {
        // SAFETY: mapped and zeroed when it was settled, of the right size, and nobody else's.
        (self.start != 0).then(|| unsafe { &mut *core::ptr::with_exposed_provenance_mut(self.start) })
    }

    /// The trace of a walk from these registers, if it need not be taken.
    #[inline]
    pub(super) fn find(&mut self, registers: &Registers, window: &Window) -> Option<TraceId> {
        self.memory()?.find(registers, window)
    }

    /// How many walks were remembered.
    #[cfg(test)]
    pub(super) fn kept(&mut self) -> u32 {
        self.memory().map_or(0, |memory| memory.turn)
    }

    /// Where a walk writes down what it rests on.
    pub(super) fn evidence(&mut self) -> Option<&mut Evidence> {
        Some(&mut self.memory()?.latest)
    }

    /// Remembers that the latest walk, which began at a stack pointer, led to a trace.
    pub(super) fn keep(&mut self, stack_pointer: usize, trace: TraceId) {
        if let Some(memory) = self.memory().filter(|memory| memory.latest.is_sound()) {
            memory.keep(stack_pointer, trace);
        }
    }
}
