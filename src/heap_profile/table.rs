//! What is known about recorded chunks: out of band, in one mapping between guard pages, with a bound on everything.
//!
//! ```text
//!  | guard | stacks: what was allocated there, by hash | frames of all stacks | chunks: live records, by address | guard |
//! ```
//!
//! Chunks that were allocated by the same calls share one stack. When a part is full, samples are dropped and counted.

use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};
use crate::place::reserve_somewhere;
use crate::random::Random;

/// Stacks that there may be, a power of two; filled to seven eighths.
const STACKS: usize = 1 << 15;

/// Frames of all stacks together.
const FRAMES: usize = 1 << 19;

/// Live records that there may be, a power of two; filled to seven eighths.
const RECORDS: usize = 1 << 16;

/// What was allocated by the same calls in chunks that count for the same number of bytes. Zeroes are none.
#[repr(C)]
pub(super) struct Stack {
    hash: u64,
    /// Bytes that each chunk counts for in sampling; not zero.
    pub(super) weight: usize,
    first_frame: u32,
    frame_count: u32,
    pub(super) allocated: Sum,
    pub(super) freed: Sum,
}

/// Recorded chunks, and their requested bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: usize) {
        self.chunks += 1;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

/// A live recorded chunk. Zeroes are none.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    chunk: usize,
    size: usize,
    stack: usize,
}

const STACKS_BYTES: usize = page_ceil(STACKS * size_of::<Stack>());
const FRAMES_BYTES: usize = page_ceil(FRAMES * size_of::<usize>());
const RECORDS_BYTES: usize = page_ceil(RECORDS * size_of::<Record>());

/// Accessible bytes of a table; most are never touched.
pub(super) const BYTES: usize = STACKS_BYTES + FRAMES_BYTES + RECORDS_BYTES;

/// The parts of a mapped table.
struct Parts<'a> {
    stacks: &'a mut [Stack],
    frames: &'a mut [usize],
    records: &'a mut [Record],
}

/// The table. Zeroes are one that is not mapped.
pub(super) struct Table {
    start: usize,
    stacks: usize,
    frames: usize,
    records: usize,
    /// Samples that found no room.
    pub(super) dropped: u64,
    /// Mapping it was refused, and is not tried again.
    refused: bool,
}

/// Spreads what is alike.
const fn mix(hash: u64, word: usize) -> u64 {
    (hash ^ word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Where in `records` the chunk is, or the empty place where it would be.
fn place_of(records: &[Record], chunk: usize) -> usize {
    let mut place = home_of(chunk);
    while records.get(place).is_some_and(|record| record.chunk != 0 && record.chunk != chunk) {
        place = (place + 1) % RECORDS;
    }
    place
}

/// Where the search for a chunk begins.
const fn home_of(chunk: usize) -> usize {
    (mix(0, chunk) >> 20) as usize % RECORDS
}

impl Table {
    pub(super) const fn unmapped() -> Self {
        Self { start: 0, stacks: 0, frames: 0, records: 0, dropped: 0, refused: false }
    }

    pub(super) const fn is_mapped(&self) -> bool {
        self.start != 0
    }

    fn map(&mut self, random: &mut Random) -> Result<(), OutOfMemory> {
        if self.is_mapped() {
            return Ok(());
        }
        if self.refused {
            return Err(OutOfMemory);
        }
        self.refused = true;
        let start = reserve_somewhere(BYTES + 2 * PAGE, random)?;
        if let Err(refused) = mapping::commit(start + PAGE, BYTES) {
            mapping::unmap(start, BYTES + 2 * PAGE);
            return Err(refused);
        }
        mapping::advise_no_huge(start + PAGE, BYTES);
        self.start = start + PAGE;
        Ok(())
    }

    pub(super) fn unmap(&mut self) {
        if self.is_mapped() {
            mapping::unmap(self.start - PAGE, BYTES + 2 * PAGE);
            *self = Self::unmapped();
        }
    }

    fn parts(&mut self) -> Option<Parts<'_>> {
        if !self.is_mapped() {
            return None;
        }
        let at = |offset: usize| self.start + offset;
        // SAFETY: the mapping has room for all three, one behind the other, and begins at a page; zeroed memory is valid for
        // each; and it is only reached through this value, which is borrowed.
        unsafe {
            let part = |offset| core::ptr::with_exposed_provenance_mut::<u8>(at(offset));
            Some(Parts {
                stacks: core::slice::from_raw_parts_mut(part(0).cast(), STACKS),
                frames: core::slice::from_raw_parts_mut(part(STACKS_BYTES).cast(), FRAMES),
                records: core::slice::from_raw_parts_mut(part(STACKS_BYTES + FRAMES_BYTES).cast(), RECORDS),
            })
        }
    }

    /// The number of the stack with these frames and this weight, entered if need be; `None` when there is no room.
    fn stack(&mut self, frames: &[usize], weight: usize) -> Option<usize> {
        let hash = frames.iter().fold(mix(1, weight), |hash, &frame| mix(hash, frame));
        let (stacks_used, frames_used) = (self.stacks, self.frames);
        let parts = self.parts()?;
        let mut number = (hash >> 20) as usize % STACKS;
        loop {
            let stack = parts.stacks.get_mut(number)?;
            if stack.weight == 0 {
                let place = parts.frames.get_mut(frames_used..)?.get_mut(..frames.len())?;
                if stacks_used >= STACKS / 8 * 7 {
                    return None;
                }
                place.copy_from_slice(frames);
                stack.hash = hash;
                stack.weight = weight;
                stack.first_frame = frames_used as u32;
                stack.frame_count = frames.len() as u32;
                self.stacks += 1;
                self.frames += frames.len();
                return Some(number);
            }
            let first = stack.first_frame as usize;
            let known = parts.frames.get(first..first + stack.frame_count as usize);
            if stack.hash == hash && stack.weight == weight && known == Some(frames) {
                return Some(number);
            }
            number = (number + 1) % STACKS;
        }
    }

    /// Records a chunk; `false` when there is no room.
    pub(super) fn enter(
        &mut self,
        random: &mut Random,
        chunk: usize,
        size: usize,
        weight: usize,
        frames: &[usize],
    ) -> bool {
        let entered = self.try_to_enter(random, chunk, size, weight, frames).is_some();
        self.dropped += u64::from(!entered);
        entered
    }

    fn try_to_enter(
        &mut self,
        random: &mut Random,
        chunk: usize,
        size: usize,
        weight: usize,
        frames: &[usize],
    ) -> Option<()> {
        self.map(random).ok()?;
        // A record that is there already is of a chunk that went without anybody being told: it was given back.
        self.remove(chunk);
        if self.records >= RECORDS / 8 * 7 {
            return None;
        }
        let number = self.stack(frames, weight)?;
        let parts = self.parts()?;
        *parts.records.get_mut(place_of(parts.records, chunk))? = Record { chunk, size, stack: number };
        parts.stacks.get_mut(number)?.allocated.add(size);
        self.records += 1;
        Some(())
    }

    /// Takes the record of a chunk out, if there is one.
    pub(super) fn remove(&mut self, chunk: usize) {
        let Some(parts) = self.parts() else { return };
        let mut hole = place_of(parts.records, chunk);
        let Some(record) = parts.records.get(hole).copied().filter(|record| record.chunk == chunk && chunk != 0) else {
            return;
        };
        if let Some(stack) = parts.stacks.get_mut(record.stack) {
            stack.freed.add(record.size);
        }
        // Those behind move up, unless that would put one in front of where its search begins.
        let mut next = hole;
        loop {
            next = (next + 1) % RECORDS;
            let Some(&record) = parts.records.get(next).filter(|record| record.chunk != 0) else { break };
            let from_home = |place: usize| place.wrapping_sub(home_of(record.chunk)) % RECORDS;
            if from_home(hole) < from_home(next) {
                if let Some(place) = parts.records.get_mut(hole) {
                    *place = record;
                }
                hole = next;
            }
        }
        if let Some(place) = parts.records.get_mut(hole) {
            *place = Record { chunk: 0, size: 0, stack: 0 };
        }
        self.records -= 1;
    }

    /// Calls `visit` with every stack and its frames, innermost first, until it fails.
    pub(super) fn for_each<E>(&mut self, mut visit: impl FnMut(&Stack, &[usize]) -> Result<(), E>) -> Result<(), E> {
        let Some(parts) = self.parts() else { return Ok(()) };
        for stack in parts.stacks.iter().filter(|stack| stack.weight != 0) {
            let first = stack.first_frame as usize;
            visit(stack, parts.frames.get(first..first + stack.frame_count as usize).unwrap_or_default())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{RECORDS, STACKS, Sum, Table};
    use crate::random::Random;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Live chunks and bytes of each stack.
    fn live(table: &mut Table) -> HashMap<(usize, Vec<usize>), (u64, u64)> {
        let mut found = HashMap::new();
        let visited: Result<(), ()> = table.for_each(|stack, frames| {
            let Sum { chunks, bytes } = stack.allocated;
            let left = (chunks - stack.freed.chunks, bytes - stack.freed.bytes);
            assert!(found.insert((stack.weight, frames.to_vec()), left).is_none(), "a stack is there twice");
            Ok(())
        });
        visited.expect("never fails");
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn it_counts_like_a_map(steps in prop::collection::vec((any::<bool>(), 1_usize..200, 0_usize..6), 1..600)) {
            let mut random = Random::from_number(5);
            let mut table = Table::unmapped();
            let mut model: HashMap<usize, (usize, usize)> = HashMap::new();
            for (enter, number, stack) in steps {
                // Addresses that crowd in few places, so that searches overlap.
                let chunk = 0x1000_0000 + number % 50 * 16;
                if enter {
                    prop_assert!(table.enter(&mut random, chunk, number, 32, &vec![7; stack]));
                    model.insert(chunk, (number, stack));
                } else {
                    table.remove(chunk);
                    model.remove(&chunk);
                }
            }
            let found = live(&mut table);
            for stack in 0..6 {
                let of_stack = model.values().filter(|(_, of)| *of == stack);
                let expected = of_stack.fold((0, 0), |(chunks, bytes), (size, _)| (chunks + 1, bytes + *size as u64));
                prop_assert_eq!(found.get(&(32, vec![7; stack])).copied().unwrap_or_default(), expected);
            }
            table.unmap();
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let mut random = Random::from_number(6);
        let mut table = Table::unmapped();
        for number in 0..RECORDS {
            let entered = table.enter(&mut random, (number + 1) * 16, 1, 16, &[1, 2]);
            assert_eq!(entered, number < RECORDS / 8 * 7, "{number}");
        }
        assert_eq!(table.dropped, (RECORDS / 8) as u64);
        table.remove(16);
        assert!(table.enter(&mut random, 16, 1, 16, &[1, 2]), "a place is free again");
        table.unmap();
        for number in 0..STACKS {
            let entered = table.enter(&mut random, 16, 1, 16, &[number]);
            assert_eq!(entered, number < STACKS / 8 * 7, "{number}");
        }
        table.unmap();
    }

    #[test]
    fn a_table_that_is_not_mapped_knows_nothing() {
        let mut table = Table::unmapped();
        table.remove(16);
        assert!(live(&mut table).is_empty() && !table.is_mapped());
    }
}
