//! Claims about what is found at an address.

use super::super::private::Heap;
use super::{Demand, Located};
use crate::chunk::checksum;
use crate::chunk::header::Origin;
use crate::options::Options;
use crate::primary::region::{Region, SlotIndex, state};
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

fn resize(heap: &Heap, chunk: usize, size: usize, new_size: usize) -> usize {
    let layout = Layout::from_size_align(size, 16).expect("a layout");
    let chunk = core::ptr::NonNull::new(core::ptr::with_exposed_provenance_mut(chunk)).expect("an address");
    // SAFETY: a live chunk of this layout.
    unsafe { heap.reallocate(chunk, layout, new_size) }.expect("memory").as_ptr().expose_provenance()
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

/// The state byte says "live" before and after; only the header tells that something went on in between.
#[test]
fn what_another_thread_resizes_between_two_looks_is_given_back_twice_and_not_damaged() {
    for (size, new_size) in [(100, 98), (98, 100), (20_000, 19_999)] {
        let heap = heap();
        let chunk = allocate(&heap, size, 16);
        let Ok(Located::Small(small)) = heap.core().locate(chunk, Operation::Free) else { panic!("a small chunk") };
        let header = checksum::read(chunk);
        let kind = || heap.core().verify_live(small, header, Operation::Free).map(|_| ()).map_err(|found| found.kind);
        assert_eq!(kind(), Ok(()));
        assert_eq!(resize(&heap, chunk, size, new_size), chunk, "in its slot");
        assert_eq!(kind(), Err(Kind::DoubleFree));
        assert_eq!(resize(&heap, chunk, new_size, size), chunk, "in its slot");
        assert_eq!(kind(), Ok(()));
        flip(chunk + size);
        assert_eq!(kind(), Err(Kind::Overflow));
    }
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
    let live = checksum::read(chunk);
    free(&heap, chunk, 100, 16);
    let found = locate(&heap, chunk).expect_err("freed");
    assert_eq!((found.kind, found.detail), (Kind::Freed, "the chunk was given back before"));
    flip(chunk - HEADER);
    let written = "the chunk was given back before, and its header was written to since";
    let found = locate(&heap, chunk).expect_err("freed");
    assert_eq!((found.kind, found.detail), (Kind::Freed, written));
    assert_eq!(kind(&heap, chunk + 16), Kind::NotAChunk);
    // The header of its life is true, and wrong by now.
    checksum::write(chunk, live);
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
    for index in (0..region.frontier()).map(SlotIndex) {
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
fn owned(region: &Region, index: SlotIndex) -> bool {
    !matches!(region.state(index).load(Ordering::Relaxed), state::UNSEALED | state::SEALED)
}

#[test]
fn a_chunk_of_no_bytes_is_found_live_and_freed_and_nothing_beside_it() {
    let heap = heap();
    let layout = Layout::from_size_align(0, 1).expect("a layout");
    let chunk = heap.allocate(layout).expect("an address");
    let address = chunk.as_ptr().expose_provenance();
    let Ok(Located::ZeroSized(_, origin)) = heap.core().locate(address, Operation::Free) else {
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
            let Ok(Located::Small(small)) = heap.core().locate(chunk, Operation::Free) else { panic!("a small chunk") };
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
    let beyond = region.chunk(SlotIndex(region.frontier()), class.stride());
    assert_eq!(kind(&heap, beyond), Kind::NotAChunk);
    assert_eq!(kind(&heap, beyond + 5 * class.stride()), Kind::NotAChunk);
}
