//! A size class: which of its slots are handed out next, and which of its slabs go back to the system.
//!
//! Threads take and return slots in batches, under the lock of the class. A batch is an ascending run of slots that
//! passes over some of them for later. Where runs begin is random: in which open slab, and where in it; then a cache
//! stays with its slab for several batches. So the place of the next run can't be foreseen, nor which slots it passes
//! over, while a program's later walk over its objects meets ascending lines over many pages, which is what hardware
//! prefetching needs (SECURITY.md has both figures). In `strict` each short run goes on in another
//! slab or another part of one, out of the way of other caches.

use super::arena::Arena;
use super::huge_pages::HugePages;
use super::region::{OwnedSlot, Region, SlotIndex, state};
use super::slab::{List, Place, Slab, SlabId, Slabs, slots_log2};
use super::tables::{self, Extent};
use crate::budget::Budget;
use crate::chunk::checksum::Seal;
use crate::options::Options;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil, page_floor};
use crate::random::Random;
use crate::size_class::{ClassId, HEADER};
use core::sync::atomic::{AtomicU64, Ordering};

/// The most slabs that are open at a time.
const MAX_OPEN: usize = 8;

/// Slots with longer strides than this, in bytes, are taken one by one: order helps no prefetcher there.
pub(super) const ORDERED: usize = 1024;

/// So many caches have an open slab of their own for short runs, even where the class is small. With runs of others in between each
/// free would write to, and look at its neighbours in, cache lines that other threads write to.
const APART: usize = 4;

/// In so many places short runs of a cache go on, in all of its open slabs together: what prefetchers can follow.
const LANES: u32 = 16;

/// The most slabs that are made accessible together.
const MAX_RUN_SLABS: u32 = 1024;

/// The most addresses that pass between a cache and a class at once.
pub(crate) const BATCH: usize = 64;

/// What a class stands on.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) budget: &'a Budget,
    pub(crate) options: &'a Options,
    pub(crate) seal: &'a Seal,
    /// Number of the release interval that is passing.
    pub(crate) epoch: u32,
}

/// A slot came back that its cache did not own: it was given back twice by racing threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotOwned(pub(crate) usize);

/// What a class has: slabs with memory behind them and their slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Census {
    pub(crate) slabs: usize,
    /// Slabs whose slots are all free.
    pub(crate) empty_slabs: usize,
    /// Free slots.
    pub(crate) free: usize,
    /// Slots in caches and in the program's hands.
    pub(crate) out: usize,
}

/// The shared state of a size class; reached under its lock.
pub(crate) struct Class {
    pub(super) id: ClassId,
    /// The region that grows, and the number of its next slab.
    region: Option<usize>,
    next_slab: u32,
    /// Slabs with memory behind them, and those of them that are all free.
    pub(super) slabs_in_use: u32,
    /// Free slots of slabs with memory behind them.
    pub(super) free_slots: usize,
    pub(super) open: [Open; MAX_OPEN],
    pub(super) open_count: usize,
    pub(super) partial: List,
    pub(super) empty: List,
    pub(super) released: List,
    /// The epoch in which a slot was last taken or given back; zero when the open slabs have been trimmed since.
    pub(super) used_in: u32,
    /// Whether a slab was released since the tables were looked at.
    pub(super) tables_to_release: bool,
    pub(super) huge_pages: HugePages,
}

/// Where a cache took slots the last time: in which open slab, and in which of its words of free bits. State bytes and short
/// chunks of one word share cache lines, which two threads that have slots of it write to in turn for as long as they have them.
/// So each cache begins a word of its own.
#[derive(Clone, Copy)]
pub(crate) struct Preferred {
    slab: u8,
    word: u8,
}

impl Preferred {
    pub(crate) const NONE: Self = Self { slab: u8::MAX, word: u8::MAX };
}

/// A slab that slots are taken from, and the word of free bits where the next cache begins, or the lanes of short runs.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub(super) slab: SlabId,
    word: u32,
    /// The mark of the cache that took short runs from it last; zero for none.
    taker: u8,
}

impl Open {
    fn is_free_for(&self, mark: u8) -> bool {
        self.taker == 0 || self.taker == mark
    }
}

/// Descriptors, found through the regions' tables.
pub(super) struct Descriptors<'a>(pub(super) &'a Arena);

impl Slabs for Descriptors<'_> {
    fn slab(&mut self, id: SlabId) -> &mut Slab {
        let address = self.0.region(id.region()).tables().descriptor(id.number());
        // SAFETY: descriptors up to the frontier are mapped and zeroed (a valid `Slab`), and the holder of the class
        // lock, who alone makes a `Descriptors`, is the only one to use them.
        unsafe { &mut *core::ptr::with_exposed_provenance_mut(address) }
    }
}

impl Class {
    pub(crate) const fn new(id: ClassId) -> Self {
        Self {
            id,
            region: None,
            next_slab: 0,
            slabs_in_use: 0,
            free_slots: 0,
            open: [Open { slab: SlabId::new(0, 0), word: 0, taker: 0 }; MAX_OPEN],
            open_count: 0,
            partial: List::new(),
            empty: List::new(),
            released: List::new(),
            used_in: 0,
            tables_to_release: false,
            huge_pages: HugePages::None,
        }
    }

    pub(super) fn slots(&self) -> u32 {
        1 << slots_log2(self.id)
    }

    /// Whether it can have slots without another region.
    pub(crate) fn has_room(&self, arena: &Arena) -> bool {
        let grows = |number| self.next_slab < arena.region(number).slots() >> slots_log2(self.id);
        self.free_slots > 0 || self.released.oldest().is_some() || self.region.is_some_and(grows)
    }

    /// Words of free bits of a slab.
    fn words(&self) -> u32 {
        self.slots().div_ceil(64)
    }

    pub(super) fn slab_bytes(&self) -> usize {
        self.id.stride() << slots_log2(self.id)
    }

    /// Takes up to `out.len()` slots for the cache with this mark and writes them to
    /// `out`; returns how many.
    ///
    /// # Errors
    /// When there is not one slot and no memory for more.
    pub(crate) fn take(
        &mut self,
        ground: Ground<'_>,
        mark: u8,
        random: &mut Random,
        preferred: &mut Preferred,
        out: &mut [OwnedSlot],
    ) -> Result<usize, OutOfMemory> {
        self.used_in = ground.epoch;
        let mut taken = 0;
        while taken < out.len() {
            match self.open_slabs(ground, mark, random) {
                Ok(()) => {}
                Err(refused) if taken == 0 => return Err(refused),
                Err(_) => break,
            }
            let which = self.choose(ground.options, mark, random, preferred);
            let Some(&open) = self.open.get(which) else { break };
            let rest = out.get_mut(taken..).unwrap_or_default();
            let (count, word) = self.take_run(ground, open, preferred, mark, random, rest);
            taken += count;
            if Descriptors(ground.arena).slab(open.slab).free == 0 {
                self.close(ground, which);
                preferred.word = u8::MAX;
            } else if let Some(open) = self.open.get_mut(which) {
                open.word = word;
            }
        }
        Ok(taken)
    }

    /// The open slab to take from: mostly the one that the cache took from the last time, so that what it hands out
    /// lies in order over many batches and threads keep out of each other's slabs; now and then any other.
    fn choose(&mut self, options: &Options, mark: u8, random: &mut Random, preferred: &mut Preferred) -> usize {
        const STAY: u32 = 8;
        if !options.randomize {
            return 0;
        }
        if self.in_lanes(options) {
            return self.choose_own(mark, random);
        }
        let short_runs = self.short_runs(options);
        if short_runs || usize::from(preferred.slab) >= self.open_count || random.below(STAY) == 0 {
            let slab = random.below(self.open_count as u32) as u8;
            if slab != preferred.slab {
                *preferred = Preferred { slab, word: u8::MAX };
            }
        }
        usize::from(preferred.slab)
    }

    /// Whether each run begins elsewhere: asked for by `run_slots`, and costs nothing where slots are so long that their order helps no
    /// prefetcher.
    fn short_runs(&self, options: &Options) -> bool {
        options.run_slots < Options::RUNS_UNBOUNDED || self.id.stride() > ORDERED
    }

    /// Whether short runs go on in lanes.
    fn in_lanes(&self, options: &Options) -> bool {
        options.randomize && options.run_slots < Options::RUNS_UNBOUNDED && self.id.stride() <= ORDERED
    }

    /// How many open slabs no other cache has taken from since this one did.
    fn own_slabs(&self, mark: u8) -> usize {
        self.open.iter().take(self.open_count).filter(|open| open.is_free_for(mark)).count()
    }

    /// Any of the open slabs that no other cache takes from; if there is none, any of them.
    fn choose_own(&mut self, mark: u8, random: &mut Random) -> usize {
        let own = self.own_slabs(mark);
        let among = if own > 0 { own } else { self.open_count };
        let number = random.below(among as u32) as usize;
        let open = self.open.iter_mut().take(self.open_count).enumerate();
        let mut candidates = open.filter(|(_, open)| own == 0 || open.is_free_for(mark));
        let Some((which, open)) = candidates.nth(number) else { return 0 };
        open.taker = mark;
        which
    }

    fn close(&mut self, ground: Ground<'_>, which: usize) {
        let Some(last) = self.open_count.checked_sub(1) else { return };
        if let Some(&Open { slab, .. }) = self.open.get(which) {
            Descriptors(ground.arena).slab(slab).place = Place::Full;
        }
        self.open.swap(which, last);
        self.open_count = last;
    }

    /// Opens slabs until there are as many as this class should have: one for every 16 in use, so that what is
    /// open and not yet used stays a small part of the heap, and for a few caches one of their own.
    fn open_slabs(&mut self, ground: Ground<'_>, mark: u8, random: &mut Random) -> Result<(), OutOfMemory> {
        let wanted = if ground.options.randomize { (1 + self.slabs_in_use as usize / 16).min(MAX_OPEN) } else { 1 };
        let apart = self.in_lanes(ground.options) && self.open_count < APART && self.own_slabs(mark) == 0;
        let wanted = if apart { wanted.max(self.open_count + 1) } else { wanted };
        while self.open_count < wanted {
            let slab = match self.find_slab(ground, random) {
                Ok(slab) => slab,
                Err(_) if self.open_count > 0 => return Ok(()),
                Err(refused) => return Err(refused),
            };
            Descriptors(ground.arena).slab(slab).place = Place::Open;
            let word = if ground.options.randomize { random.below(self.words()) } else { 0 };
            if let Some(place) = self.open.get_mut(self.open_count) {
                *place = Open { slab, word, taker: 0 };
                self.open_count += 1;
            }
        }
        Ok(())
    }

    /// The next slab to open: one in partial use, a warm empty one, one without memory, a new one.
    fn find_slab(&mut self, ground: Ground<'_>, random: &mut Random) -> Result<SlabId, OutOfMemory> {
        let mut slabs = Descriptors(ground.arena);
        if let Some(slab) = self.partial.oldest() {
            self.partial.remove(&mut slabs, slab);
            return Ok(slab);
        }
        if let Some(slab) = self.empty.newest() {
            self.empty.remove(&mut slabs, slab);
            ground.budget.end_idle(self.slab_bytes());
            return Ok(slab);
        }
        if self.released.oldest().is_none() {
            self.grow(ground, random)?;
        }
        let slab = self.released.oldest().ok_or(OutOfMemory)?;
        self.revive(ground, slab)?;
        self.released.remove(&mut slabs, slab);
        Ok(slab)
    }

    /// Puts memory behind a released slab: all its slots are free and unsealed.
    fn revive(&mut self, ground: Ground<'_>, id: SlabId) -> Result<(), OutOfMemory> {
        ground.budget.pay(self.slab_bytes(), || self.make_accessible(ground, id))?;
        let mut slabs = Descriptors(ground.arena);
        let slab = slabs.slab(id);
        slab.free = self.slots() as u16;
        let first = id.number() << slots_log2(self.id);
        for_each_word(ground.arena.region(id.region()), first, self.slots(), |word, mask| {
            word.store(word.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
        });
        self.slabs_in_use += 1;
        self.free_slots += self.slots() as usize;
        Ok(())
    }

    /// Makes the next run of slabs accessible: half as many as there are, so that the number of mappings
    /// grows with the logarithm of the heap. Between runs one slab's worth of addresses stays
    /// inaccessible.
    fn grow(&mut self, ground: Ground<'_>, random: &mut Random) -> Result<(), OutOfMemory> {
        let log = slots_log2(self.id);
        let number = match self.region {
            Some(number) if self.next_slab < ground.arena.region(number).slots() >> log => number,
            _ => {
                let number = ground.arena.open_region(Some(self.id), random)?;
                self.region = Some(number);
                self.next_slab = 0;
                number
            }
        };
        let region = ground.arena.region(number);
        let room = (region.slots() >> log) - self.next_slab;
        let run = (self.slabs_in_use / 2).clamp(1, MAX_RUN_SLABS).min(room);
        // Near a limit on memory a long run may be refused where there is room for a short one.
        self.open_run(ground, number, run).or_else(|_| self.open_run(ground, number, 1))
    }

    /// Makes the next `run` slabs of a region accessible.
    pub(super) fn open_run(&mut self, ground: Ground<'_>, number: usize, run: u32) -> Result<(), OutOfMemory> {
        let log = slots_log2(self.id);
        let stride = self.id.stride();
        let region = ground.arena.region(number);
        let (first, end) = (self.next_slab << log, (self.next_slab + run) << log);
        // Up to and including the header behind the last slot, which tells of an overflow of that slot.
        let start = page_floor(region.slot_start(SlotIndex(first), stride));
        let stop = page_ceil(region.slot_start(SlotIndex(end), stride) + HEADER);
        mapping::commit(start, stop - start)?;
        let guard = ground.options.guard_pages && self.next_slab + run < region.slots() >> log;
        let before = Extent { slots: region.frontier(), slabs: self.next_slab };
        tables::commit(region, before, Extent { slots: end, slabs: self.next_slab + run + u32::from(guard) })?;
        self.use_huge_pages(start, stop);
        if guard {
            Descriptors(ground.arena).slab(SlabId::new(number, self.next_slab + run)).place = Place::Guard;
        }
        region.set_frontier(end);
        for slab in self.next_slab..self.next_slab + run {
            self.released.push(&mut Descriptors(ground.arena), SlabId::new(number, slab), Place::Released);
        }
        self.next_slab += run + u32::from(ground.options.guard_pages);
        Ok(())
    }

    /// Takes one run of slots out of an open slab: ascending, and passing some over. Returns how many, and the word where
    /// the next cache begins.
    fn take_run(
        &mut self,
        ground: Ground<'_>,
        open: Open,
        preferred: &mut Preferred,
        mark: u8,
        random: &mut Random,
        out: &mut [OwnedSlot],
    ) -> (usize, u32) {
        let Open { slab: id, word: start, .. } = open;
        let region = ground.arena.region(id.region());
        let first = id.number() << slots_log2(self.id);
        let words = self.words();
        let short_runs = self.short_runs(ground.options);
        let (start, offset) = self.beginning(ground.options, start, mark, random);
        let own = (u32::from(preferred.word) < words && !short_runs).then_some(u32::from(preferred.word));
        let others = (0..=words).map(|step| (start + step) % words);
        let found = own.into_iter().chain(others).enumerate().find_map(|(step, number)| {
            let base = first + number * 64;
            let (word, mask) = word_of(region, base, self.slots());
            let mask = if step == 0 { mask & (!0 << offset) } else { mask };
            let bits = word.load(Ordering::Relaxed) & mask;
            (bits != 0).then_some((number, base, word, bits))
        });
        let Some((number, base, word, bits)) = found else { return (0, start) };
        let bits = if self.id.stride() >= PAGE { self.warm(region, base & !63, bits) } else { bits };
        let mut taken = 0;
        let mut gone = 0;
        for mut part in self.order(ground.options, bits, random) {
            while part != 0
                && let Some(place) = out.get_mut(taken)
            {
                let bit = part.trailing_zeros();
                part &= part - 1;
                gone |= 1 << bit;
                *place = self.prepare(ground, region, SlotIndex((base & !63) + bit), mark);
                taken += 1;
            }
        }
        word.store(word.load(Ordering::Relaxed) & !gone, Ordering::Relaxed);
        Descriptors(ground.arena).slab(id).free -= taken as u16;
        self.free_slots -= taken;
        if short_runs || own == Some(number) {
            return (taken, open.word);
        }
        preferred.word = number as u8;
        (taken, (number + 1) % words)
    }

    /// In which word, and how many slots behind its first, a run looks for slots in a slab with this word.
    ///
    /// Short runs go on in any of a few lanes of the slab: so they interleave at random, and each lane ascends, which is all that a
    /// prefetcher needs.
    pub(super) fn beginning(&self, options: &Options, word: u32, mark: u8, random: &mut Random) -> (u32, u32) {
        if !options.randomize || !self.short_runs(options) {
            return (word, 0);
        }
        if self.id.stride() > ORDERED {
            return (random.below(self.words()), 0);
        }
        let lanes = (LANES / self.own_slabs(mark).max(1) as u32).max(1);
        // Where the lanes begin is another place in each slab that is opened.
        let slot = word * 64 + random.below(lanes) * (self.slots() / lanes);
        (slot / 64 % self.words(), slot % 64)
    }

    /// The free slots of a word as parts that are taken one after the other, each ascending.
    ///
    /// A whole word goes to one cache if it wants so many: its state bytes share a cache line. Some of its slots, an eighth,
    /// are passed over and taken at the end. Where short runs are wanted, it is a quarter, they are left, and the
    /// run starts at a random place; longer slots are taken one by one.
    fn order(&self, options: &Options, bits: u64, random: &mut Random) -> [u64; 2] {
        if !options.randomize {
            return [bits, 0];
        }
        if self.short_runs(options) {
            let long = self.id.stride() > ORDERED;
            let run = if long { 1 } else { u32::from(options.run_slots) };
            let from = if long { from_random_place(bits, self.slots().min(64), random) } else { bits };
            let kept = from & (random.u64() | random.u64());
            let mut part = if kept != 0 { kept } else { from };
            // No more than a run at once: the next one begins elsewhere.
            let mut chosen = 0;
            for _ in 0..run {
                chosen |= part & part.wrapping_neg();
                part &= part.wrapping_sub(1);
            }
            return [chosen, 0];
        }
        let draws = random.u64() | random.u64() | random.u64();
        [bits & draws, bits & !draws]
    }

    /// Those of a word's free slots that were in use before, if there are such: their pages are there already. Random
    /// choice among all would make a whole slab resident for the sake of a few slots.
    fn warm(&self, region: &Region, base: u32, bits: u64) -> u64 {
        let mut warm = 0;
        let mut rest = bits;
        while rest != 0 {
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            if region.state(SlotIndex(base + bit)).load(Ordering::Relaxed) == state::FREE {
                warm |= 1 << bit;
            }
        }
        if warm != 0 { warm } else { bits }
    }

    /// Marks a slot as the cache's, and sees to it that it and the slot behind it have a header.
    fn prepare(&self, ground: Ground<'_>, region: &Region, index: SlotIndex, mark: u8) -> OwnedSlot {
        let chunk = region.chunk(index, self.id.stride());
        let slot = region.state(index);
        if slot.load(Ordering::Relaxed) == state::UNSEALED {
            ground.seal.write_fresh(chunk);
        }
        slot.store(mark, Ordering::Relaxed);
        let next = SlotIndex(index.0 + 1);
        if region.state(next).load(Ordering::Relaxed) == state::UNSEALED {
            // An unsealed slot belongs to the holder of the class lock: to us.
            ground.seal.write_fresh(chunk + self.id.stride());
            region.state(next).store(state::SEALED, Ordering::Relaxed);
        }
        OwnedSlot::new(chunk, slot)
    }

    /// Takes back chunks that belong to the cache with this mark.
    ///
    /// # Errors
    /// The first one that does not: two racing threads gave it back, and each thought it was first.
    pub(crate) fn give_back(&mut self, ground: Ground<'_>, mark: u8, slots: &[OwnedSlot]) -> Result<(), NotOwned> {
        self.used_in = ground.epoch;
        let mut slabs = Descriptors(ground.arena);
        let mut emptied = false;
        for &OwnedSlot { chunk, .. } in slots {
            let region = ground.arena.own_region(chunk);
            let slot = region.own_slot(chunk);
            if slot.state.load(Ordering::Relaxed) != mark && !slot.return_chosen() {
                return Err(NotOwned(chunk));
            }
            slot.state.store(state::FREE, Ordering::Relaxed);
            let (word, _) = word_of(region, slot.index.0 & !63, 64);
            word.store(word.load(Ordering::Relaxed) | 1 << (slot.index.0 & 63), Ordering::Relaxed);
            let id = SlabId::new(ground.arena.number_of(region), slot.index.0 >> slots_log2(self.id));
            let all = self.slots() as u16;
            let slab = slabs.slab(id);
            slab.free += 1;
            slab.changed_in = ground.epoch;
            self.free_slots += 1;
            match slab.place {
                Place::Full => self.partial.push(&mut slabs, id, Place::Partial),
                Place::Partial if slab.free == all => {
                    self.partial.remove(&mut slabs, id);
                    self.empty.push(&mut slabs, id, Place::Empty);
                    ground.budget.lay_idle(self.slab_bytes());
                    emptied = true;
                }
                _ => {}
            }
        }
        if emptied {
            self.release_surplus(ground);
        }
        Ok(())
    }

    /// Closes open slabs whose slots are all free.
    pub(super) fn close_empty(&mut self, ground: Ground<'_>) {
        let mut which = 0;
        while let Some(&Open { slab, .. }) = self.open.get(which).filter(|_| which < self.open_count) {
            if Descriptors(ground.arena).slab(slab).free == self.slots() as u16 {
                self.close(ground, which);
                self.empty.push(&mut Descriptors(ground.arena), slab, Place::Empty);
                ground.budget.lay_idle(self.slab_bytes());
            } else {
                which += 1;
            }
        }
    }

    /// Whether a slab has memory behind it.
    pub(crate) fn has_memory(&self, ground: Ground<'_>, id: SlabId) -> bool {
        !matches!(Descriptors(ground.arena).slab(id).place, Place::Released | Place::Guard)
    }

    /// What the class has, from its counters.
    pub(crate) fn census(&self) -> Census {
        let slabs = self.slabs_in_use as usize;
        Census {
            slabs,
            empty_slabs: self.empty.length() as usize,
            free: self.free_slots,
            out: slabs * self.slots() as usize - self.free_slots,
        }
    }
}

/// The free slots of a word behind a random one of its `slots`, or all where there are none.
fn from_random_place(bits: u64, slots: u32, random: &mut Random) -> u64 {
    let offset = bits.trailing_zeros() & !(slots - 1);
    let behind = bits & (!0 << (offset + random.below(slots)));
    if behind != 0 { behind } else { bits }
}

/// The word of free bits that begins with slot `base` (or contains it, for slabs of less than 64 slots), and the mask
/// of the bits that belong to the slab.
fn word_of(region: &Region, base: u32, slots: u32) -> (&AtomicU64, u64) {
    let address = region.tables().free_word(base / 64);
    let mask = if slots >= 64 { !0 } else { ((1 << slots) - 1) << (base & 63) };
    // SAFETY: free bits up to the frontier are mapped; only ever used as atomics (relaxed: the class lock orders
    // them).
    (unsafe { &*core::ptr::with_exposed_provenance(address) }, mask)
}

fn for_each_word(region: &Region, first: u32, slots: u32, change: impl Fn(&AtomicU64, u64)) {
    let mut base = first;
    while base < first + slots {
        let (word, mask) = word_of(region, base, slots);
        change(word, mask);
        base += 64;
    }
}
