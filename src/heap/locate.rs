//! From an address to what is known about it, for everything that is not the fast path. Geometry and
//! out-of-band state first; only then is a header read.

use super::core::Core;
use super::free::Demand;
use crate::chunk::canary::{self, Damage};
use crate::chunk::checksum;
use crate::chunk::header::{Fields, Header, Origin};
use crate::guarded;
use crate::primary::region::{Region, Slot, ZERO_SIZED, state};
use crate::primary::zero_sized;
use crate::secondary;
use crate::secondary::table::Entry;
use crate::size_class::{ClassId, MIN_ALIGN};
use crate::violation::{Kind, Operation, Violation};
use core::sync::atomic::Ordering;

/// A live small chunk whose header and canaries were verified.
#[derive(Clone, Copy)]
pub(crate) struct Small<'a> {
    pub(crate) region: &'a Region,
    pub(crate) class: ClassId,
    pub(crate) slot: Slot<'a>,
    /// Where the slot's user area begins: the chunk itself, unless that is over-aligned.
    pub(crate) start: usize,
    pub(crate) fields: Fields,
}

impl Small<'_> {
    /// Bytes from the start of the user area to the end of what was asked for.
    pub(crate) fn end(&self) -> usize {
        over_aligned(self.start, self.fields) - self.start + self.fields.size()
    }
}

/// Where the chunk of a slot with these fields is.
pub(crate) fn over_aligned(start: usize, fields: Fields) -> usize {
    start.next_multiple_of((1_usize << fields.align_log2()).max(MIN_ALIGN))
}

/// A live chunk.
#[derive(Clone, Copy)]
pub(crate) enum Located<'a> {
    Small(Small<'a>),
    ZeroSized(&'a Region, Origin),
    Large(Entry),
    Guarded(guarded::Chunk),
}

impl Located<'_> {
    /// Requested size in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Small(small) => small.fields.size(),
            Self::ZeroSized(..) => 0,
            Self::Large(entry) => entry.size,
            Self::Guarded(chunk) => chunk.size,
        }
    }

    /// How it was allocated.
    pub(crate) fn origin(&self) -> Option<Origin> {
        match self {
            Self::Small(small) => small.fields.origin(),
            Self::ZeroSized(_, origin) => Some(*origin),
            Self::Large(entry) => Some(entry.origin),
            Self::Guarded(chunk) => Some(chunk.origin),
        }
    }

    /// Requested alignment; that of zero-sized chunks is not recorded.
    fn align_log2(&self) -> Option<u32> {
        match self {
            Self::Small(small) => Some(small.fields.align_log2()),
            Self::ZeroSized(..) => None,
            Self::Large(entry) => Some(u32::from(entry.align_log2)),
            Self::Guarded(chunk) => Some(chunk.align_log2),
        }
    }

    /// Whether it may be given back like this.
    pub(crate) fn check_demand(&self, chunk: usize, demand: &Demand, mismatch: bool) -> Result<(), Violation> {
        if !mismatch {
            return Ok(());
        }
        let (size, origin) = (self.size(), self.origin());
        let violation = |kind, detail| Violation::new(kind, Operation::Free, chunk, detail).chunk(size, origin);
        if origin.is_none_or(|origin| demand.origins & 1 << origin as u8 == 0) {
            return Err(violation(Kind::Mismatch, demand.function));
        }
        if let Some(given) = demand.size
            && given != size
        {
            return Err(violation(Kind::WrongSize, "a size was given back that was not asked for")
                .values(size as u64, given as u64));
        }
        if let (Some(given), Some(asked)) = (demand.align_log2, self.align_log2())
            && given != asked
        {
            return Err(violation(Kind::WrongAlignment, "an alignment was given back that was not asked for")
                .values(1 << asked, 1 << given));
        }
        Ok(())
    }
}

impl Core {
    /// The live chunk that starts at an address, verified.
    ///
    /// # Errors
    /// When there is none, or its header or canaries were damaged.
    #[inline(never)]
    pub(crate) fn locate(&self, chunk: usize, operation: Operation) -> Result<Located<'_>, Violation> {
        if let Some(region) = self.arena.region_of(chunk) {
            if region.class() == ZERO_SIZED && region.slots() != 0 {
                return self.locate_zero_sized(region, chunk, operation);
            }
            if let Some(class) = region.size_class()
                && let Some(slot) = region.slot_around(chunk, class.stride())
            {
                return self.locate_small(region, class, slot, chunk, operation).map(Located::Small);
            }
            return Err(Violation::new(Kind::NotAChunk, operation, chunk, "nothing was ever allocated here"));
        }
        if self.guarded.contains(chunk) {
            return self.guarded.find(self.guarded_ground(), chunk, operation).map(Located::Guarded);
        }
        match self.secondary.find(self.large_ground(), chunk, operation)? {
            secondary::Found::Live(entry) => Ok(Located::Large(entry)),
            secondary::Found::Freed(entry) => {
                Err(Violation::new(Kind::Freed, operation, chunk, "this large chunk was given back before")
                    .chunk(entry.size, Some(entry.origin)))
            }
            secondary::Found::Nothing => Err(Violation::new(
                Kind::NotAChunk,
                operation,
                chunk,
                "the address lies outside this heap, or inside a large chunk",
            )),
        }
    }

    fn locate_zero_sized<'a>(
        &'a self,
        region: &'a Region,
        chunk: usize,
        operation: Operation,
    ) -> Result<Located<'a>, Violation> {
        match self.zero_sized.lock().find(region, chunk) {
            zero_sized::Found::Live(origin) => Ok(Located::ZeroSized(region, origin)),
            zero_sized::Found::Freed => {
                Err(Violation::new(Kind::Freed, operation, chunk, "this zero-sized chunk was given back before")
                    .chunk(0, None))
            }
            zero_sized::Found::Nothing => {
                Err(Violation::new(Kind::NotAChunk, operation, chunk, "no zero-sized chunk has this address"))
            }
        }
    }

    fn locate_small<'a>(
        &self,
        region: &'a Region,
        class: ClassId,
        slot: Slot<'a>,
        chunk: usize,
        operation: Operation,
    ) -> Result<Small<'a>, Violation> {
        let start = region.chunk(slot.index, class.stride());
        let not_a_chunk = |detail| Violation::new(Kind::NotAChunk, operation, chunk, detail);
        match slot.state.load(Ordering::Acquire) {
            state::LIVE | state::RECORDED => self.locate_live(region, class, slot, chunk, operation),
            state::RESIZING => {
                let detail = "another thread is resizing the chunk at this moment";
                Err(Violation::new(Kind::DoubleFree, operation, chunk, detail).chunk(class.capacity(), None))
            }
            // Never sealed yet, or freed at least once or lying ready for the first time.
            state::UNSEALED | state::SEALED => Err(not_a_chunk("the slot at this address is not allocated")),
            _ => {
                let header = checksum::read(start);
                let fields = header.fields();
                let known = self.seal.expected(start, fields) == header.checksum() && !fields.is_allocated();
                Err(match fields.origin() {
                    Some(origin) if known && over_aligned(start, fields) == chunk => {
                        Violation::new(Kind::Freed, operation, chunk, "the chunk was given back before")
                            .chunk(fields.size(), Some(origin))
                    }
                    None if known && start == chunk => not_a_chunk("the slot at this address is not allocated"),
                    _ if !known && start == chunk => Violation::new(
                        Kind::Freed,
                        operation,
                        chunk,
                        "the chunk was given back before, and its header was written to since",
                    )
                    .chunk(class.capacity(), None),
                    _ => not_a_chunk("the address lies inside a slot that is not allocated"),
                })
            }
        }
    }

    /// The chunk of a slot whose state byte said that it is live. What contradicts that is damage, unless the byte says something
    /// else by now.
    fn locate_live<'a>(
        &self,
        region: &'a Region,
        class: ClassId,
        slot: Slot<'a>,
        chunk: usize,
        operation: Operation,
    ) -> Result<Small<'a>, Violation> {
        let start = region.chunk(slot.index, class.stride());
        let not_a_chunk = |detail| Violation::new(Kind::NotAChunk, operation, chunk, detail);
        let header = checksum::read(start);
        let fields = header.fields();
        let expected = self.seal.checksum(start, fields.0);
        if header.checksum() != expected || !fields.is_allocated() {
            if !state::is_live(slot.state.load(Ordering::Acquire)) {
                // Another thread has given it back in this instant.
                return Err(Violation::new(
                    Kind::DoubleFree,
                    operation,
                    chunk,
                    "two threads gave the chunk back at the same time",
                ));
            }
            if !chunk.is_multiple_of(MIN_ALIGN) {
                return Err(not_a_chunk("the address lies inside a chunk"));
            }
            return Err(corrupted(chunk, class, header, expected, operation));
        }
        if over_aligned(start, fields) != chunk {
            return Err(
                not_a_chunk("the address lies inside a chunk, not at its start").chunk(fields.size(), fields.origin())
            );
        }
        let small = Small { region, class, slot, start, fields };
        match self.verify_canaries(&small, header, operation) {
            Ok(()) => Ok(small),
            // Another thread has given the chunk back in this instant, and wiped it.
            Err(_) if !state::is_live(slot.state.load(Ordering::Acquire)) => Err(Violation::new(
                Kind::DoubleFree,
                operation,
                chunk,
                "two threads gave the chunk back at the same time",
            )
            .chunk(fields.size(), fields.origin())),
            Err(damaged) => Err(damaged),
        }
    }

    /// Compares the canaries of a chunk whose header was verified.
    pub(crate) fn verify_canaries(
        &self,
        small: &Small<'_>,
        header: Header,
        operation: Operation,
    ) -> Result<(), Violation> {
        if !self.options.canary {
            return Ok(());
        }
        let word = self.seal.secrets.canary(header.checksum());
        let memory = core::ptr::with_exposed_provenance::<u8>(small.start);
        let chunk = over_aligned(small.start, small.fields);
        let gap = chunk - small.start;
        // SAFETY: the slot is live; the gap in front and the slack behind lie inside it, and gap and capacity
        // are multiples of 8.
        unsafe {
            if let Err(damage) = canary::check(memory, 0, gap, word) {
                return Err(Violation::new(
                    Kind::CorruptHeader,
                    operation,
                    chunk,
                    "the bytes in front of an over-aligned chunk were changed",
                )
                .chunk(small.fields.size(), small.fields.origin())
                .values(damage.expected, damage.seen)
                .at(damage.offset as isize - gap as isize));
            }
            if let Err(damage) = canary::check(memory, small.end(), small.class.capacity(), word) {
                let damage = Damage { offset: damage.offset - gap, ..damage };
                return Err(overflowed(chunk, small.fields, damage, operation));
            }
        }
        Ok(())
    }
}

/// Canaries behind a chunk were changed.
#[cold]
#[inline(never)]
pub(crate) fn overflowed(chunk: usize, fields: Fields, damage: Damage, operation: Operation) -> Violation {
    Violation::new(Kind::Overflow, operation, chunk, "the canary behind the chunk was changed")
        .chunk(fields.size(), fields.origin())
        .values(damage.expected, damage.seen)
        .at(damage.offset as isize)
}

/// A live chunk's header does not match its checksum.
#[cold]
#[inline(never)]
pub(crate) fn corrupted(chunk: usize, class: ClassId, seen: Header, expected: u32, operation: Operation) -> Violation {
    Violation::new(Kind::CorruptHeader, operation, chunk, "the header does not match its checksum")
        .chunk(class.capacity(), None)
        .values(Header::seal(seen.fields(), expected).0, seen.0)
        .at(-8)
}

#[cfg(test)]
mod tests {
    use super::super::private::Heap;
    use super::Demand;
    use crate::chunk::header::Origin;
    use crate::options::Options;
    use crate::primary::region::state;
    use crate::size_class::HEADER;
    use crate::violation::{Kind, Operation, Violation};
    use core::alloc::Layout;
    use core::sync::atomic::Ordering;

    fn heap() -> Heap {
        Heap::new(Options { sample_rate: 0, ..Options::DEFAULT }).expect("a heap")
    }

    fn allocate(heap: &Heap, size: usize, align: usize) -> usize {
        let layout = Layout::from_size_align(size, align).expect("a layout");
        heap.allocate(layout).expect("memory").as_ptr().expose_provenance()
    }

    fn free(heap: &Heap, chunk: usize, size: usize, align: usize) {
        let layout = Layout::from_size_align(size, align).expect("a layout");
        let chunk = core::ptr::NonNull::new(core::ptr::with_exposed_provenance_mut(chunk)).expect("an address");
        // SAFETY: the tests do not use what they give back.
        unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
    }

    fn locate(heap: &Heap, address: usize) -> Result<(), Violation> {
        heap.core().locate(address, Operation::Free).map(|_| ())
    }

    fn kind(heap: &Heap, address: usize) -> Kind {
        locate(heap, address).expect_err("no chunk begins there").kind
    }

    fn flip(address: usize) {
        // SAFETY: the tests' own slots, or the attack.
        unsafe { *core::ptr::with_exposed_provenance_mut::<u8>(address) ^= 0x10 };
    }

    #[test]
    fn what_stands_in_the_state_byte_decides_and_not_the_header() {
        let heap = heap();
        let chunk = allocate(&heap, 100, 16);
        let byte = heap.core().arena.own_region(chunk).own_slot(chunk).state;
        for (now, expected) in [
            (state::RESIZING, Kind::DoubleFree),
            (state::UNSEALED, Kind::NotAChunk),
            (state::SEALED, Kind::NotAChunk),
            (state::FREE, Kind::Freed),
            (state::FIRST_MARK, Kind::Freed),
            (state::CHOSEN, Kind::Freed),
        ] {
            byte.store(now, Ordering::Relaxed);
            // The header is that of a live chunk all the while.
            assert_eq!(kind(&heap, chunk), expected, "state {now}");
        }
        for now in [state::LIVE, state::RECORDED] {
            byte.store(now, Ordering::Relaxed);
            assert_eq!(locate(&heap, chunk), Ok(()), "state {now}");
        }
    }

    /// Its state byte is taken to have said that it was live a moment ago.
    #[test]
    fn what_another_thread_gives_back_between_two_looks_is_freed_twice_and_not_damaged() {
        let heap = heap();
        let arena = &heap.core().arena;
        let slot = |chunk| arena.own_region(chunk).own_slot(chunk);
        let kind = |chunk| {
            let region = arena.own_region(chunk);
            let found = heap.core().locate_live(region, region.own_class(), slot(chunk), chunk, Operation::Free);
            found.map(|_| ()).expect_err("something is wrong").kind
        };
        // The header is that of a freed chunk by now.
        let chunk = allocate(&heap, 100, 16);
        free(&heap, chunk, 100, 16);
        assert_eq!(kind(chunk), Kind::DoubleFree);
        // The header is not changed yet, but what lay behind the chunk is wiped.
        let chunk = allocate(&heap, 100, 16);
        flip(chunk + 100);
        assert_eq!(kind(chunk), Kind::Overflow);
        slot(chunk).state.store(state::FIRST_MARK, Ordering::Relaxed);
        assert_eq!(kind(chunk), Kind::DoubleFree);
    }

    #[test]
    fn a_chunk_goes_back_only_as_it_was_asked_for() {
        let heap = heap();
        for (size, align) in [(100_usize, 16_usize), (100, 64), (300_000, 16)] {
            let chunk = allocate(&heap, size, align);
            let located = heap.core().locate(chunk, Operation::Free).expect("a chunk");
            let any = Demand::origin("by Rust", Origin::Rust, &[]);
            let log2 = align.ilog2();
            for right in [any, any.sized(size), any.aligned(log2), any.sized(size).aligned(log2)] {
                assert_eq!(located.check_demand(chunk, &right, true), Ok(()));
            }
            let of_malloc = Demand::origin("by free", Origin::Malloc, &[Origin::New]);
            for (wrong, kind, values) in [
                (of_malloc, Kind::Mismatch, (0, 0)),
                (any.sized(size + 1), Kind::WrongSize, (size as u64, size as u64 + 1)),
                (any.sized(size).aligned(12), Kind::WrongAlignment, (align as u64, 4096)),
            ] {
                let found = located.check_demand(chunk, &wrong, true).expect_err("wrong");
                assert_eq!((found.kind, (found.expected, found.seen)), (kind, values), "{size} bytes");
                assert_eq!(found.chunk.map(|chunk| chunk.size), Some(size));
                assert_eq!(located.check_demand(chunk, &wrong, false), Ok(()), "nobody asked");
            }
            assert_eq!(located.check_demand(chunk, &of_malloc, true).expect_err("wrong").detail, "by free");
        }
    }

    #[test]
    fn no_address_inside_a_slot_is_a_chunk_live_or_freed() {
        for (size, align) in [(100, 16), (1000, 16), (5000, 16), (100, 64), (3000, 256)] {
            let heap = heap();
            let chunk = allocate(&heap, size, align);
            let no_other_is_a_chunk = || {
                for address in (chunk - align.min(64) + 1..chunk + size).filter(|&address| address != chunk) {
                    let distance = address.wrapping_sub(chunk) as isize;
                    assert_eq!(kind(&heap, address), Kind::NotAChunk, "{distance} of {size} bytes");
                }
            };
            no_other_is_a_chunk();
            assert_eq!(locate(&heap, chunk), Ok(()));
            free(&heap, chunk, size, align);
            no_other_is_a_chunk();
            assert_eq!(kind(&heap, chunk), Kind::Freed);
        }
    }

    #[test]
    fn a_freed_chunk_whose_header_was_written_to_is_known_as_freed_all_the_same() {
        let heap = heap();
        let chunk = allocate(&heap, 100, 16);
        let live = crate::chunk::checksum::read(chunk);
        free(&heap, chunk, 100, 16);
        let found = locate(&heap, chunk).expect_err("freed");
        assert_eq!((found.kind, found.detail), (Kind::Freed, "the chunk was given back before"));
        flip(chunk - HEADER);
        let written = "the chunk was given back before, and its header was written to since";
        let found = locate(&heap, chunk).expect_err("freed");
        assert_eq!((found.kind, found.detail), (Kind::Freed, written));
        assert_eq!(kind(&heap, chunk + 16), Kind::NotAChunk);
        // The header of its life is true, and wrong by now.
        crate::chunk::checksum::write(chunk, live);
        let found = locate(&heap, chunk).expect_err("freed");
        assert_eq!((found.kind, found.detail), (Kind::Freed, written));
    }

    /// Slots that lie ready in the cache, of which the program has never heard.
    #[test]
    fn what_was_never_handed_out_was_not_given_back_either() {
        let heap = heap();
        let chunk = allocate(&heap, 100, 16);
        let region = heap.core().arena.own_region(chunk);
        let stride = region.own_class().stride();
        let mut ready = 0;
        for index in (0..region.frontier()).map(crate::primary::region::SlotIndex) {
            let slot = region.chunk(index, stride);
            if state::is_live(region.state(index).load(Ordering::Relaxed)) {
                continue;
            }
            ready += usize::from(region.state(index).load(Ordering::Relaxed) >= state::FIRST_MARK);
            for (address, told) in [(slot, "at this address is not allocated"), (slot + 16, "not allocated")] {
                let found = locate(&heap, address).expect_err("nobody has it");
                assert!(found.kind == Kind::NotAChunk && found.detail.contains(told), "{found:?}");
                assert_eq!(found.detail.contains("inside"), address != slot && owned(region, index), "{found:?}");
            }
        }
        assert!(ready > 0, "the cache took more than one");
    }

    /// Whether a cache has the slot.
    fn owned(region: &crate::primary::region::Region, index: crate::primary::region::SlotIndex) -> bool {
        !matches!(region.state(index).load(Ordering::Relaxed), state::UNSEALED | state::SEALED)
    }

    #[test]
    fn a_chunk_of_no_bytes_is_found_live_and_freed_and_nothing_beside_it() {
        let heap = heap();
        let layout = Layout::from_size_align(0, 1).expect("a layout");
        let chunk = heap.allocate(layout).expect("an address");
        let address = chunk.as_ptr().expose_provenance();
        let Ok(super::Located::ZeroSized(_, origin)) = heap.core().locate(address, Operation::Free) else {
            panic!("a chunk of no bytes")
        };
        assert_eq!(origin, Origin::Rust);
        assert_eq!(kind(&heap, address + 8), Kind::NotAChunk);
        // SAFETY: it has no bytes that anybody could use.
        unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
        let found = locate(&heap, address).expect_err("freed");
        assert_eq!((found.kind, found.chunk.map(|chunk| chunk.size)), (Kind::Freed, Some(0)));
    }

    /// What lies inside a chunk is no chunk, and no damaged one either.
    #[test]
    fn an_address_inside_a_chunk_whose_header_was_changed_is_not_reported_as_a_chunk() {
        let heap = heap();
        let chunk = allocate(&heap, 100, 16);
        flip(chunk - 4);
        assert_eq!(kind(&heap, chunk), Kind::CorruptHeader);
        for address in [chunk + 1, chunk + 8, chunk + 15, chunk + 99] {
            assert_eq!(kind(&heap, address), Kind::NotAChunk);
        }
    }

    #[test]
    fn every_byte_in_front_of_an_over_aligned_chunk_is_checked() {
        for align in [64, 256, 1024] {
            let heap = heap();
            let mut checked = 0;
            for _ in 0..8 {
                let chunk = allocate(&heap, 100, align);
                let Ok(super::Located::Small(small)) = heap.core().locate(chunk, Operation::Free) else {
                    panic!("a small chunk")
                };
                let start = small.start;
                for address in start..chunk {
                    flip(address);
                    let found = locate(&heap, chunk).expect_err("an underflow");
                    assert_eq!(found.kind, Kind::CorruptHeader);
                    assert_eq!(found.offset, Some(address as isize - chunk as isize));
                    flip(address);
                    checked += 1;
                }
                assert_eq!(locate(&heap, chunk), Ok(()));
            }
            assert!(checked > 0, "all eight slots began at a multiple of {align}");
        }
    }

    #[test]
    fn an_overflow_of_an_over_aligned_chunk_is_told_by_its_distance_from_the_chunk() {
        let heap = heap();
        for align in [64, 256, 1024] {
            for _ in 0..8 {
                let chunk = allocate(&heap, 100, align);
                flip(chunk + 101);
                let found = locate(&heap, chunk).expect_err("an overflow");
                assert_eq!((found.kind, found.address, found.offset), (Kind::Overflow, chunk, Some(101)));
                flip(chunk + 101);
            }
        }
    }

    #[test]
    fn an_address_of_a_region_that_no_class_has_or_has_not_reached_is_nothing() {
        let heap = heap();
        let chunk = allocate(&heap, 100, 16);
        let arena = &heap.core().arena;
        let size = arena.region_bytes();
        let mut others = 0;
        for step in -511..512_isize {
            let address = chunk.wrapping_add_signed(step * size.cast_signed());
            if arena.region_of(address).is_some_and(|found| !core::ptr::eq(found, arena.own_region(chunk))) {
                assert_eq!(kind(&heap, address), Kind::NotAChunk);
                others += 1;
            }
        }
        assert!(others > 0, "an arena has several regions");
        let region = arena.own_region(chunk);
        let class = region.own_class();
        let beyond = region.chunk(crate::primary::region::SlotIndex(region.frontier()), class.stride());
        assert_eq!(kind(&heap, beyond), Kind::NotAChunk);
        assert_eq!(kind(&heap, beyond + 5 * class.stride()), Kind::NotAChunk);
    }
}
