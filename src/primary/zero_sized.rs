//! Chunks of no bytes: `malloc(0)`, `operator new(0)`.
//!
//! Bug: a program asks for `n * size` bytes with `n` zero and then writes to the first element. So
//! each such chunk is an address of its own in a region that is never accessible: the first access faults. All that is
//! known about it lies in its state byte. An address comes back late: after all others
//! of at least 4,096.

use super::arena::Arena;
use super::region::{Region, SlotIndex};
use crate::chunk::header::Origin;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_floor};
use crate::random::Random;
use core::sync::atomic::{AtomicU8, Ordering};

/// A live state byte is this plus the origin.
const LIVE: u8 = 0x10;
const FREED: u8 = 0x20;

/// The addresses of zero-sized chunks.
pub(crate) struct ZeroSized {
    region: Option<usize>,
    /// State bytes that are mapped.
    committed: u32,
    live: u32,
    cursor: u32,
}

/// What a zero-sized address turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Live(Origin),
    Freed,
    Nothing,
}

impl ZeroSized {
    pub(crate) const fn new() -> Self {
        Self { region: None, committed: 0, live: 0, cursor: 0 }
    }

    /// An address for a chunk of no bytes.
    ///
    /// # Errors
    /// When there is no region left, or no memory for the state bytes.
    pub(crate) fn take(&mut self, arena: &Arena, random: &mut Random, origin: Origin) -> Result<usize, OutOfMemory> {
        let number = match self.region {
            Some(number) => number,
            None => {
                let number = arena.open_region(None, random)?;
                self.region = Some(number);
                number
            }
        };
        let region = arena.region(number);
        // Some addresses are passed over, so that the next one is not known.
        self.cursor += random.below(8);
        loop {
            if self.cursor >= self.committed {
                if self.live < self.committed / 2 {
                    self.cursor = random.below(8);
                } else {
                    self.commit(region)?;
                }
            }
            let state = region.state(SlotIndex(self.cursor));
            let index = SlotIndex(self.cursor);
            self.cursor += 1;
            if state.load(Ordering::Relaxed) & LIVE == 0 {
                state.store(LIVE | origin as u8, Ordering::Relaxed);
                self.live += 1;
                return Ok(region.chunk(index, crate::size_class::MIN_ALIGN));
            }
        }
    }

    fn commit(&mut self, region: &Region) -> Result<(), OutOfMemory> {
        let next = self.committed + PAGE as u32;
        if next > region.slots() {
            return Err(OutOfMemory);
        }
        let start = region.state(SlotIndex(self.committed)).as_ptr().addr();
        mapping::commit(page_floor(start), PAGE)?;
        self.committed = next;
        self.cursor = self.cursor.max(next - PAGE as u32);
        Ok(())
    }

    fn state<'a>(&self, region: &'a Region, address: usize) -> Option<&'a AtomicU8> {
        let stride = crate::size_class::MIN_ALIGN;
        let distance = address.checked_sub(region.chunk(SlotIndex(0), stride))?;
        let index = u32::try_from(distance / stride).ok()?;
        (distance % stride == 0 && index < self.committed).then(|| region.state(SlotIndex(index)))
    }

    /// What stands at an address of this region.
    pub(crate) fn find(&self, region: &Region, address: usize) -> Found {
        match self.state(region, address).map_or(0, |state| state.load(Ordering::Relaxed)) {
            FREED => Found::Freed,
            state if state & LIVE != 0 => Origin::from_bits(u32::from(state & 7)).map_or(Found::Nothing, Found::Live),
            _ => Found::Nothing,
        }
    }

    /// Takes a live address back; `false` when it is not live any more.
    pub(crate) fn give_back(&mut self, region: &Region, address: usize) -> bool {
        let live = matches!(self.find(region, address), Found::Live(_));
        if live && let Some(state) = self.state(region, address) {
            state.store(FREED, Ordering::Relaxed);
            self.live -= 1;
        }
        live
    }

    /// Bytes of state bytes that are accessible.
    pub(crate) const fn committed(&self) -> usize {
        self.committed as usize
    }

    /// How many are live.
    pub(crate) const fn live(&self) -> u32 {
        self.live
    }
}
