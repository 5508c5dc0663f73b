//! In which order slots are handed out: the candidates.

use crate::random::Random;
use crate::settings::{Order, Settings};
use crate::size_class::ClassId;
use crate::slots::{FREE, Geometry};
use core::sync::atomic::Ordering;

/// Slots longer than this are taken one by one in the product's profiles.
const ORDERED: usize = 1024;

/// No slab.
const NOBODY: u32 = u32::MAX;

/// The shared state of a class; reached under its lock.
pub(crate) struct Class {
    geometry: Geometry,
    /// Slabs that were ever used.
    made: u32,
    open: [u32; 8],
    open_count: usize,
    /// Slabs with free slots that wait to be opened, first in, first out.
    first_waiting: u32,
    last_waiting: u32,
    /// Where the walk through the open slab stands, for the orders with gaps.
    position: u32,
}

impl Class {
    pub(crate) fn new(class: ClassId) -> Self {
        Self {
            geometry: Geometry::new(class),
            made: 0,
            open: [0; 8],
            open_count: 0,
            first_waiting: NOBODY,
            last_waiting: NOBODY,
            position: 0,
        }
    }

    /// Fills `out` with slots in the order in which they are to be handed out.
    pub(crate) fn take(&mut self, settings: &Settings, random: &mut Random, out: &mut [usize]) {
        let mut taken = 0;
        while taken < out.len() {
            self.open_slabs(settings);
            let which = random_below(settings, random, self.open_count as u32) as usize;
            let slab = self.open[which & 7];
            taken += self.take_run(settings, random, slab, &mut out[taken..]);
            // SAFETY: a slab that was made; this is the holder of the class's lock.
            let descriptor = unsafe { &mut *self.geometry.slab(slab) };
            if descriptor.free == 0 {
                descriptor.listed = false;
                self.open_count -= 1;
                self.open.swap(which, self.open_count);
                self.position = 0;
            }
        }
        if let Order::Groups(neighbours) = settings.order {
            shuffle_groups(out, neighbours, random);
        }
    }

    fn open_slabs(&mut self, settings: &Settings) {
        while self.open_count < settings.open_slabs(self.made as usize) {
            let slab = self.first_waiting;
            let slab = if slab == NOBODY {
                self.make_slab()
            } else {
                // SAFETY: as in `take`.
                let descriptor = unsafe { &*self.geometry.slab(slab) };
                self.first_waiting = descriptor.next;
                slab
            };
            self.open[self.open_count & 7] = slab;
            self.open_count += 1;
        }
    }

    fn make_slab(&mut self) -> u32 {
        let slab = self.made;
        self.made += 1;
        let slots = self.geometry.slots();
        // SAFETY: as in `take`.
        let descriptor = unsafe { &mut *self.geometry.slab(slab) };
        descriptor.free = slots as u16;
        descriptor.listed = true;
        let first = slab << self.geometry.log;
        for base in (first..first + slots).step_by(64) {
            let (word, mask) = self.geometry.word(base);
            word.fetch_or(mask, Ordering::Relaxed);
        }
        slab
    }

    /// Takes slots out of an open slab, at most as many as belong together.
    fn take_run(&mut self, settings: &Settings, random: &mut Random, slab: u32, out: &mut [usize]) -> usize {
        let slots = self.geometry.slots();
        let first = slab << self.geometry.log;
        let words = slots.div_ceil(64);
        if settings.order == Order::Gaps {
            return self.take_with_gaps(random, slab, out);
        }
        let start = match settings.order {
            Order::GapsUpOrDown => self.position % words,
            Order::Ascending | Order::Groups(_) | Order::SlabRuns(_) => 0,
            _ => random.below(words),
        };
        let found = (0..words).find_map(|step| {
            let base = first + (start + step) % words * 64;
            let (word, mask) = self.geometry.word(base);
            let bits = word.load(Ordering::Relaxed) & mask;
            (bits != 0).then_some((base & !63, word, bits))
        });
        let Some((base, word, bits)) = found else { return 0 };
        let mut run = Run { out, taken: 0, gone: 0, base, geometry: &self.geometry };
        match settings.order {
            Order::Ascending | Order::Groups(_) | Order::Gaps => run.up(bits, 64),
            Order::SlabRuns(longest) => run.up(bits, longest),
            Order::Random => run.up(nth_bit(bits, random.below(bits.count_ones())), 1),
            Order::UpOrDown => run.up_or_down(bits, random),
            Order::GapsUpOrDown => {
                let kept = bits & (random.u64() | random.u64() | random.u64());
                run.up_or_down(if kept != 0 { kept } else { bits }, random);
                // The rest of a word that was more than the batch comes next; what was passed over waits for another turn.
                if run.taken < run.out.len() {
                    self.position = base.saturating_sub(first) / 64 + 1;
                }
            }
            _ if self.geometry.stride > ORDERED => run.up(nth_bit(bits, random.below(bits.count_ones())), 1),
            Order::HalfWords => {
                const LOW: u64 = 0xffff_ffff;
                let draws = random.u64() | random.u64() | random.u64();
                let halves = if random.u32() & 1 == 0 { [LOW, !LOW] } else { [!LOW, LOW] };
                for half in halves {
                    run.up(bits & draws & half, 64);
                    run.up(bits & !draws & half, 64);
                }
            }
            Order::ShortRuns => {
                let places = slots.min(64);
                let offset = bits.trailing_zeros() & !(places - 1);
                let behind = bits & (!0 << (offset + random.below(places)));
                let from = if behind != 0 { behind } else { bits };
                let kept = from & (random.u64() | random.u64());
                run.up(if kept != 0 { kept } else { from }, 8);
            }
        }
        let (taken, gone) = (run.taken, run.gone);
        word.fetch_and(!gone, Ordering::Relaxed);
        // SAFETY: as in `take`.
        unsafe { (*self.geometry.slab(slab)).free -= taken as u16 };
        taken
    }

    /// Goes on through the slab from where the last batch ended, and passes over one slot in eight; these wait for the
    /// next time round.
    fn take_with_gaps(&mut self, random: &mut Random, slab: u32, out: &mut [usize]) -> usize {
        let slots = self.geometry.slots();
        let first = slab << self.geometry.log;
        let mut taken = 0;
        // SAFETY: as in `take`.
        let descriptor = unsafe { &mut *self.geometry.slab(slab) };
        while taken < out.len() && descriptor.free > 0 {
            let index = first + self.position;
            let (word, _) = self.geometry.word(index);
            let bit = 1 << (index & 63);
            self.position = (self.position + 1) % slots;
            if word.load(Ordering::Relaxed) & bit != 0 && !random.u32().is_multiple_of(8) {
                word.fetch_and(!bit, Ordering::Relaxed);
                descriptor.free -= 1;
                out[taken] = self.geometry.chunk(index);
                taken += 1;
            }
        }
        taken
    }

    /// Takes slots back.
    pub(crate) fn give_back(&mut self, chunks: &[usize]) {
        for &chunk in chunks {
            let index = self.geometry.index(chunk);
            self.geometry.state(index).store(FREE, Ordering::Relaxed);
            let (word, _) = self.geometry.word(index);
            word.fetch_or(1 << (index & 63), Ordering::Relaxed);
            let slab = index >> self.geometry.log;
            // SAFETY: as in `take`.
            let descriptor = unsafe { &mut *self.geometry.slab(slab) };
            descriptor.free += 1;
            if !descriptor.listed {
                descriptor.listed = true;
                descriptor.next = NOBODY;
                if self.first_waiting == NOBODY {
                    self.first_waiting = slab;
                } else {
                    // SAFETY: as in `take`.
                    unsafe { (*self.geometry.slab(self.last_waiting)).next = slab };
                }
                self.last_waiting = slab;
            }
        }
    }
}

/// Slots of one word on their way out.
struct Run<'a> {
    out: &'a mut [usize],
    taken: usize,
    gone: u64,
    base: u32,
    geometry: &'a Geometry,
}

impl Run<'_> {
    fn up(&mut self, mut bits: u64, longest: usize) {
        let end = self.out.len().min(self.taken + longest);
        while bits != 0 && self.taken < end {
            self.put(bits.trailing_zeros());
            bits &= bits - 1;
        }
    }

    fn down(&mut self, mut bits: u64) {
        while bits != 0 && self.taken < self.out.len() {
            let bit = 63 - bits.leading_zeros();
            self.put(bit);
            bits &= !(1 << bit);
        }
    }

    fn up_or_down(&mut self, bits: u64, random: &mut Random) {
        if random.u32() & 1 == 0 {
            self.up(bits, 64);
        } else {
            self.down(bits);
        }
    }

    fn put(&mut self, bit: u32) {
        self.gone |= 1 << bit;
        self.out[self.taken] = self.geometry.chunk(self.base + bit);
        self.taken += 1;
    }
}

fn random_below(settings: &Settings, random: &mut Random, bound: u32) -> u32 {
    if bound == 1 || settings.order == Order::Ascending { 0 } else { random.below(bound) }
}

/// The set bit with this number, counted from the lowest.
fn nth_bit(mut bits: u64, number: u32) -> u64 {
    for _ in 0..number {
        bits &= bits - 1;
    }
    bits & bits.wrapping_neg()
}

/// Fisher and Yates, on groups instead of single slots. What does not fill a group stays at the end.
fn shuffle_groups(out: &mut [usize], neighbours: usize, random: &mut Random) {
    let groups = out.len() / neighbours;
    for last in (1..groups).rev() {
        let other = random.below(last as u32 + 1) as usize;
        for place in 0..neighbours {
            out.swap(last * neighbours + place, other * neighbours + place);
        }
    }
}
