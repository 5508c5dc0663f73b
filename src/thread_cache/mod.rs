//! A thread's own stock of slots: ready ones to hand out, freed ones in quarantine.
//!
//! Slots in a cache carry its mark in their state byte, so a slot has one owner at any time, and what
//! two racing threads both put away is noticed by the one that does not own it. Slots pass to and from
//! the shared slabs in batches, in both directions, so that memory freed by a consumer finds its way back to the
//! producer.

mod ready;
mod stock;

use crate::byte_sampling::ByteSampler;
use crate::chunk::extent::Extent;
use crate::options::Options;
use crate::os::mapping::{self, OutOfMemory, PAGE, page_ceil};
use crate::os::process;
use crate::primary::class::Preferred;
use crate::primary::region::{OwnedSlot, state};
use crate::protections::Set;
use crate::quarantine::{self, Ring, RingSlots};
use crate::random::Random;
use crate::sampling::Sampler;
use crate::size_class::{CLASSES, ClassId, FINE_MAX, HEADER};
use crate::trace::Window;
use crate::trace::remembered::Remembered;
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;
use ready::{Ready, ReadySlots, most_ready, places_of};
pub(crate) use stock::Stock;

/// What a cache knows of one class; a cache line.
#[repr(C, align(64))]
pub(crate) struct Bin {
    /// Bytes that a chunk of the class can hold, and what follows from that.
    pub(crate) extent: Extent,
    /// Where slots were taken from the last time.
    pub(crate) preferred: Preferred,
    pub(crate) ready: Ready,
    pub(crate) ring: Ring,
}

impl Bin {
    /// # Safety
    /// The places outlive the value and are used by nobody else.
    unsafe fn new(class: ClassId, quarantine_bytes: usize, ring_slots: *mut RingSlots) -> Self {
        let stride = class.stride();
        // A class may have a 64th of the thread's quarantine, and eight places even if that is less: what waits there is pushed
        // out of the caches by what lives.
        let places = (quarantine_bytes / 64 / stride).clamp(8, quarantine::PLACES) as u8;
        let places = if quarantine_bytes == 0 { 0 } else { places };
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                ready: Ready::CLOSED,
                ring: Ring::new(ring_slots, places, stride > FINE_MAX + HEADER),
                extent: Extent::new(class.capacity()),
                preferred: Preferred::NONE,
            }
        }
    }
}

const _: () = assert!(size_of::<Bin>() == 64, "a bin is one cache line");

/// The cache of one thread, or the one that all threads without their own share.
#[repr(C)]
pub(crate) struct ThreadCache {
    /// The heap that it belongs to, for the fast path of the process-wide heap.
    pub(crate) core: usize,
    /// The state byte of slots in this cache.
    pub(crate) mark: u8,
    /// The compiled set of checks that fast paths run on it; `None` while every allocation has to be counted, because one
    /// that is to be sampled is near.
    pub(crate) set: Option<Set>,
    /// Which set of checks slow paths run on it; that of fast paths, when they run.
    pub(crate) checks: Set,
    /// Bytes that the quarantine may still grow by.
    pub(crate) quarantine_room: isize,
    pub(crate) random: Random,
    pub(crate) sampler: Sampler,
    /// Which slots will be recorded in the heap profile.
    pub(crate) byte_sampler: ByteSampler,
    /// Whether new chunks are filled, which fast paths do not do.
    fills: bool,
    /// How many forks this process descends from; a change means that the randomness is the parent's too.
    pub(crate) generation: u32,
    /// Next cache of the heap, in use or free.
    pub(crate) next: usize,
    pub(crate) in_use: bool,
    /// Not in use, and not flushed.
    pub(crate) warm: bool,
    /// Not in use, and without memory behind all but its first page.
    pub(crate) bare: bool,
    /// The epoch in which its last thread left it.
    pub(crate) left_in: u32,
    /// Turns of rings, truncated.
    pub(crate) turns: u8,
    /// The kernel's number of its thread, or [`ASK`]; zero where threads share the cache.
    pub(crate) thread: i32,
    /// What is known of that thread's stack.
    pub(crate) window: Window,
    /// Walks up it that need not be taken again.
    pub(crate) remembered: Remembered,
    /// How often the destructor of its thread has been put off.
    pub(crate) rounds: u8,
    /// Bytes of ready slots that a class may have.
    ready_bytes: u32,
    pub(crate) bins: [Bin; CLASSES],
    /// When a slot of a class was last freed, as far as [`Self::note_rare_free`] was told, in milliseconds, truncated.
    freed_at: [u32; CLASSES],
    /// The bins point into these, so a cache stays where it was made.
    ready_slots: UnsafeCell<ReadySlots>,
    ring_slots: UnsafeCell<[RingSlots; CLASSES]>,
}

/// The thread's number was not needed yet: the kernel is asked as late as that, because sandboxes may forbid it.
pub(crate) const ASK: i32 = -1;

/// Milliseconds after which one more free of a class counts as rare: giving back 100 KiB and faulting them in again takes 50
/// microseconds, so all classes together spend a few per cent on it at worst.
const RARE: u32 = 10;

/// Bytes of a cache.
pub(crate) const CACHE_BYTES: usize = page_ceil(size_of::<ThreadCache>());

const _: () =
    assert!(core::mem::offset_of!(ThreadCache, bins) <= PAGE, "what a bare cache is to know lies on its first page");

/// Bytes of a cache with a guard page on each side.
const MAPPING_BYTES: usize = CACHE_BYTES + 2 * PAGE;

impl ThreadCache {
    /// Maps a cache between guard pages; returns its address.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub(crate) fn map(
        core: usize,
        mark: u8,
        set: Set,
        options: &Options,
        stock: Stock,
        generation: u32,
        mut random: Random,
    ) -> Result<usize, OutOfMemory> {
        let start = mapping::reserve(0, MAPPING_BYTES)?;
        if let Err(refused) = mapping::commit(start + PAGE, CACHE_BYTES) {
            mapping::unmap(start, MAPPING_BYTES);
            return Err(refused);
        }
        let address = start + PAGE;
        let cache = core::ptr::with_exposed_provenance_mut::<Self>(address);
        // SAFETY: fresh zeroed memory, large enough and page-aligned. Every field is written before a reference exists, except
        // for the places of slots, which are only ever reached through the bins.
        unsafe {
            (&raw mut (*cache).core).write(core);
            (&raw mut (*cache).mark).write(mark);
            (&raw mut (*cache).sampler).write(Sampler::new(options.sample_rate, &mut random));
            let profile_bytes = (options.heap_profile_kb as usize) << 10;
            (&raw mut (*cache).byte_sampler).write(ByteSampler::new(profile_bytes, &mut random));
            (&raw mut (*cache).checks).write(set);
            (&raw mut (*cache).thread).write(0);
            (&raw mut (*cache).window).write(Window::UNKNOWN);
            (&raw mut (*cache).remembered).write(Remembered::NOWHERE);
            (&raw mut (*cache).fills).write(options.fill_pattern);
            (&raw mut (*cache).turns).write(0);
            (&raw mut (*cache).rounds).write(0);
            (&raw mut (*cache).random).write(random);
            (&raw mut (*cache).generation).write(generation);
            (&raw mut (*cache).set).write(None);
            (&raw mut (*cache).next).write(0);
            (&raw mut (*cache).in_use).write(true);
            (&raw mut (*cache).warm).write(false);
            (&raw mut (*cache).left_in).write(0);
            Self::furnish(cache, options, stock);
            (*cache).resume_fast_paths();
        }
        Ok(address)
    }

    /// Gives a cache its bins, and as much room as there is for one: a new cache, or a bare one.
    ///
    /// # Safety
    /// `cache` is mapped, and nobody else's; what lies behind its bins is zero.
    pub(crate) unsafe fn furnish(cache: *mut Self, options: &Options, stock: Stock) {
        let quarantine_bytes = stock.quarantine((options.quarantine_kb as usize) << 10);
        // SAFETY: the caller's promise. The bins own the places that they are given.
        unsafe {
            (&raw mut (*cache).bare).write(false);
            (&raw mut (*cache).ready_bytes).write(stock.ready() as u32);
            (&raw mut (*cache).quarantine_room).write(quarantine_bytes.cast_signed());
            for class in ClassId::all() {
                let number = class.index();
                let ring_slots = (&raw mut (*cache).ring_slots).cast::<RingSlots>().add(number);
                let bin = Bin::new(class, quarantine_bytes, ring_slots);
                (&raw mut (*cache).bins).cast::<Bin>().add(number).write(bin);
            }
        }
    }

    /// Gives back the memory of a cache that is flushed and not in use, but for its first page; `false` where the system
    /// does not take it. It can be [`Self::furnish`]ed again without asking the system, which could refuse then.
    ///
    /// # Safety
    /// `cache` is mapped, and nobody else's.
    pub(crate) unsafe fn strip(cache: *mut Self) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            (*cache).remembered.unmap();
            (*cache).bare = mapping::release(cache.expose_provenance() + PAGE, CACHE_BYTES - PAGE).is_ok();
            (*cache).bare
        }
    }

    /// Lets fast paths run until the next sample is near.
    pub(crate) fn resume_fast_paths(&mut self) {
        self.set = if self.sampler.counts_every_one() || self.fills { None } else { Some(self.checks) };
    }

    /// So many allocations have passed uncounted.
    pub(crate) fn pass_allocations(&mut self, allocations: usize) {
        if self.set.is_some() && self.sampler.pass(allocations, &mut self.random) {
            self.set = None;
        }
    }

    /// Slots of the cache that are about to lie ready, each of which will be handed out once or given back: chooses those that
    /// the heap profile will record.
    pub(crate) fn choose_for_profile(&mut self, class: ClassId, slots: &[OwnedSlot]) {
        choose(&mut self.byte_sampler, &mut self.random, self.mark, class, slots);
    }

    /// The same for a slot that leaves the quarantine of a class, and those that will follow it until the next turn.
    pub(crate) fn choose_leaving_for_profile(&mut self, class: ClassId, first: OwnedSlot) {
        let Self { byte_sampler, random, mark, bins, .. } = self;
        choose(byte_sampler, random, *mark, class, &[first]);
        if let Some(bin) = bins.get(class.index()) {
            choose(byte_sampler, random, *mark, class, bin.ring.leaving());
        }
    }

    /// Unmaps a cache.
    pub(crate) fn unmap(address: usize) {
        // SAFETY: mapped, and nobody uses it any more.
        unsafe { (*core::ptr::with_exposed_provenance_mut::<Self>(address)).remembered.unmap() };
        mapping::unmap(address - PAGE, MAPPING_BYTES);
    }

    /// How many slots of a class lie ready, and how many in quarantine, in a cache that its thread may be using at this
    /// moment: what it is just doing may be missing. For statistics, so that the fast path need not publish anything.
    ///
    /// # Safety
    /// `cache` is the address of a cache that stays mapped, and does not change hands meanwhile.
    pub(crate) unsafe fn peek(cache: usize, class: ClassId) -> (usize, usize) {
        let cache = core::ptr::with_exposed_provenance::<Self>(cache);
        // SAFETY: the caller's promise. No reference is made, and an aligned word is read whole.
        unsafe {
            // Not to be looked at: even that would map pages.
            if (*cache).bare {
                return (0, 0);
            }
            let bin = (&raw const (*cache).bins).cast::<Bin>().add(class.index());
            (Ready::peek_length(&raw const (*bin).ready), Ring::peek_length(&raw const (*bin).ring))
        }
    }

    /// Notes that a slot of the class is freed; tells whether none was for a while before.
    pub(crate) fn note_rare_free(&mut self, class: ClassId) -> bool {
        let now = process::milliseconds() as u32;
        let Some(freed_at) = self.freed_at.get_mut(class.index()) else { return false };
        now.wrapping_sub(core::mem::replace(freed_at, now)) > RARE
    }

    /// The part of a class.
    #[inline(always)]
    pub(crate) fn bin(&mut self, class: ClassId) -> &mut Bin {
        self.random_and_bin(class).1
    }

    /// The part of a class, with room for ready slots.
    pub(crate) fn open_bin(&mut self, class: ClassId) -> &mut Bin {
        let places = places_of(self.ready_slots.get(), class);
        let ready_bytes = self.ready_bytes as usize;
        let bin = self.bin(class);
        if bin.ready.most == 0 {
            let most = most_ready(class, ready_bytes) as u16;
            // SAFETY: the class's own places, as many as the most that any cache has, which are only used through its bin.
            unsafe { bin.ready.open(places, most) };
            // Of longer slots every one has pages of its own, which the header makes resident.
            if class.stride() > FINE_MAX + HEADER {
                bin.ready.batch = 1;
            }
        }
        bin
    }

    /// The mark and the part of a class. The mark is lent, so that it is loaded where it is used.
    #[inline(always)]
    pub(crate) fn mark_and_bin(&mut self, class: ClassId) -> (&u8, &mut Bin) {
        // SAFETY: as in `random_and_bin`.
        (&self.mark, unsafe { self.bins.get_unchecked_mut(class.index()) })
    }

    /// The randomness and the part of a class.
    #[inline(always)]
    pub(crate) fn random_and_bin(&mut self, class: ClassId) -> (&mut Random, &mut Bin) {
        // SAFETY: numbers of classes are below CLASSES; said here because a bounds check on every call is more than the
        // call does.
        (&mut self.random, unsafe { self.bins.get_unchecked_mut(class.index()) })
    }
}

fn choose(sampler: &mut ByteSampler, random: &mut Random, mark: u8, class: ClassId, slots: &[OwnedSlot]) {
    sampler.pass(slots.len(), class.stride(), random, |number| {
        if let Some(slot) = slots.get(number) {
            // Fails where another thread has given the same chunk back: that is found when it is handed out.
            let _ = slot.state().compare_exchange(mark, state::CHOSEN, Ordering::AcqRel, Ordering::Relaxed);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{Stock, ThreadCache};
    use crate::options::Options;
    use crate::primary::region::OwnedSlot;
    use crate::primary::region::state::{CHOSEN, FIRST_MARK, LIVE};
    use crate::protections::Set;
    use crate::quarantine::{Pushed, Turned};
    use crate::random::Random;
    use crate::size_class::ClassId;
    use core::sync::atomic::{AtomicU8, Ordering};

    /// A cache of no heap, with what a set of options says.
    fn cache(options: Options) -> &'static mut ThreadCache {
        let random = Random::from_number(1);
        let address = ThreadCache::map(0, FIRST_MARK, Set::Mixed, &options, Stock::beside(0, usize::MAX), 0, random)
            .expect("memory");
        // SAFETY: just mapped, and left mapped.
        unsafe { &mut *core::ptr::with_exposed_provenance_mut(address) }
    }

    #[test]
    fn a_bin_has_room_for_32_kib_of_slots_but_for_two_at_least_and_long_ones_come_one_by_one() {
        let cache = cache(Options::DEFAULT);
        for class in ClassId::all() {
            let stride = class.stride();
            let ready = &mut cache.open_bin(class).ready;
            let most = usize::from(ready.most);
            assert!(most >= 2 && (most == 2 || most * stride <= 32 << 10), "{stride} bytes: {most}");
            assert!(most == 128 || (most + 1) * stride > 32 << 10, "{stride} bytes: {most}");
            let first = if stride > 1024 { 1 } else { 8 };
            assert_eq!(ready.next_batch(), first.min(most.div_ceil(2)), "{stride} bytes");
        }
    }

    #[test]
    fn the_quarantine_may_grow_by_what_the_option_says_and_rings_have_their_share() {
        let cache = cache(Options { quarantine_kb: 100, ..Options::DEFAULT });
        assert_eq!(cache.quarantine_room, 100 << 10);
        for class in ClassId::all() {
            // A 64th of it, and eight places at least.
            let share = ((100 << 10) / 64 / class.stride()).clamp(8, 32);
            let ring = &mut cache.bin(class).ring;
            let mut random = Random::from_number(2);
            let grown = (0..40).filter(|&number| {
                let slot = OwnedSlot::numbered(number + 1);
                ring.exchange(slot) == Pushed::AtTurn && ring.turn(slot, true, &mut random) == Turned::Grown
            });
            assert_eq!((grown.count(), ring.length()), (share, share), "{} bytes", class.stride());
            assert_eq!(ring.is_scattered(), class.stride() > 1024);
        }
    }

    #[test]
    fn a_look_at_a_cache_tells_what_each_class_has_ready_and_in_quarantine() {
        let cache = cache(Options::DEFAULT);
        let address = core::ptr::from_mut(cache).expose_provenance();
        let slot = OwnedSlot::numbered(1);
        for class in ClassId::all() {
            // SAFETY: a cache that stays mapped.
            let seen = || unsafe { ThreadCache::peek(address, class) };
            assert_eq!(seen(), (0, 0), "not opened yet");
            let bin = cache.open_bin(class);
            let ready = (0..1 + class.index()).take_while(|_| bin.ready.push(slot)).count();
            let held = 1 + class.index() % 8;
            let mut random = Random::from_number(2);
            (0..held).for_each(|_| assert_eq!(bin.ring.turn(slot, true, &mut random), Turned::Grown));
            assert_eq!(seen(), (ready, held), "{} bytes", class.stride());
        }
    }

    #[test]
    fn without_a_quarantine_nothing_is_held_back() {
        let cache = cache(Options { quarantine_kb: 0, ..Options::DEFAULT });
        assert_eq!(cache.quarantine_room, 0);
        for class in ClassId::all() {
            let (slot, mut random) = (OwnedSlot::numbered(16), Random::from_number(2));
            let ring = &mut cache.bin(class).ring;
            assert_eq!(ring.exchange(slot), Pushed::AtTurn);
            assert_eq!(ring.turn(slot, true, &mut random), Turned::Left(slot));
        }
    }

    #[test]
    fn a_free_is_rare_when_none_of_its_class_came_a_moment_before() {
        let cache = cache(Options::DEFAULT);
        let [class, other] = [60, 61].map(|number| ClassId::new(number).expect("in range"));
        assert!(cache.note_rare_free(class));
        // The test may be held up between two of these, but not each time.
        assert!((0..100).any(|_| !cache.note_rare_free(class)));
        assert!(cache.note_rare_free(other));
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(cache.note_rare_free(class) && cache.note_rare_free(other));
    }

    /// Fast paths count nothing and fill nothing, so they may not run where every allocation counts or is filled.
    #[test]
    fn fast_paths_run_unless_chunks_are_filled_or_counted_one_by_one() {
        let runs = |options| cache(options).set.is_some();
        assert!(runs(Options { sample_rate: 5000, ..Options::DEFAULT }));
        assert!(runs(Options { sample_rate: 0, ..Options::DEFAULT }));
        assert!(!runs(Options { sample_rate: 1, ..Options::DEFAULT }));
        assert!(!runs(Options { sample_rate: 0, fill_pattern: true, ..Options::DEFAULT }));
    }

    #[test]
    fn fast_paths_stop_when_a_sample_is_near_and_not_before() {
        let sampled = cache(Options { sample_rate: 5000, ..Options::DEFAULT });
        let passed = (0..20_000).take_while(|_| {
            sampled.pass_allocations(1);
            sampled.set.is_some()
        });
        // The interval is below 10,000; that it is below 50 has a chance of one in 200, and the seed is fixed.
        assert!((50..10_000).contains(&passed.count()));
        sampled.pass_allocations(1);
        assert!(sampled.set.is_none());
        sampled.resume_fast_paths();
        assert!(sampled.set.is_some());
        let never = cache(Options { sample_rate: 0, ..Options::DEFAULT });
        never.pass_allocations(1 << 40);
        assert!(never.set.is_some());
    }

    /// Slots that the heap profile will record, and no others, leave the fast path's hands.
    #[test]
    fn slots_are_chosen_for_the_heap_profile_among_those_that_the_cache_owns() {
        let class = ClassId::new(20).expect("in range");
        let states = [FIRST_MARK, FIRST_MARK + 1, FIRST_MARK, LIVE].map(AtomicU8::new);
        let slots = [0, 1, 2, 3].map(|number| OwnedSlot::new(number * 16 + 16, &states[number]));
        let seen = || [0, 1, 2, 3].map(|number: usize| states[number].load(Ordering::Relaxed));
        let before = seen();
        let off = cache(Options { heap_profile_kb: 0, ..Options::DEFAULT });
        off.choose_for_profile(class, &slots);
        assert_eq!(seen(), before);
        // One in a KiB on average: a thousand slots have it many times over.
        let on = cache(Options { heap_profile_kb: 1, ..Options::DEFAULT });
        for _ in 0..1000 {
            on.choose_for_profile(class, &slots);
        }
        assert_eq!(seen(), [CHOSEN, FIRST_MARK + 1, CHOSEN, LIVE]);
    }

    #[test]
    fn slots_that_leave_the_quarantine_are_chosen_too() {
        let class = ClassId::new(20).expect("in range");
        let cache = cache(Options { heap_profile_kb: 1, ..Options::DEFAULT });
        let states: Vec<AtomicU8> = (0..40).map(|_| AtomicU8::new(FIRST_MARK)).collect();
        let slot = |number: usize| OwnedSlot::new(number * 16 + 16, &states[number]);
        let length = {
            let (random, bin) = cache.random_and_bin(class);
            for number in 0..39 {
                if bin.ring.exchange(slot(number)) == Pushed::AtTurn {
                    bin.ring.turn(slot(number), true, random);
                }
            }
            bin.ring.leaving().len()
        };
        assert!(length > 0);
        for _ in 0..1000 {
            cache.choose_leaving_for_profile(class, slot(39));
        }
        let chosen = states.iter().filter(|state| state.load(Ordering::Relaxed) == CHOSEN).count();
        assert_eq!(chosen, 1 + length);
        assert_eq!(states[39].load(Ordering::Relaxed), CHOSEN);
    }
}
