//! Guarded slots on private heaps, in process.

use std::alloc::Layout;
use std::ptr::NonNull;
use testudo::{AllocateError, Heap, Kind, Options};

const SIZES: [usize; 9] = [1, 8, 24, 100, 1000, 4096, 4097, 20_000, 65_536];

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

fn fuzz() -> Heap {
    Heap::new(Options::FUZZ).expect("a heap")
}

/// The byte at an offset that may lie outside the chunk.
fn byte(chunk: NonNull<u8>, at: isize) -> *mut u8 {
    chunk.as_ptr().wrapping_offset(at)
}

/// Whether a chunk ends, or begins, at the edge of a page.
fn at_an_edge(chunk: NonNull<u8>, size: usize) -> bool {
    chunk.as_ptr().addr().is_multiple_of(4096) || (chunk.as_ptr().addr() + size).is_multiple_of(4096)
}

#[test]
fn chunks_of_every_layout_are_aligned_filled_and_end_or_begin_at_a_page() {
    let heap = fuzz();
    for size in SIZES {
        for align in [1, 2, 8, 16, 64, 4096] {
            let layout = layout(size, align);
            for _ in 0..50 {
                let chunk = heap.allocate(layout).expect("memory");
                assert_eq!(chunk.as_ptr().addr() % align, 0);
                assert!(!size.is_multiple_of(align) || at_an_edge(chunk, size), "{layout:?} at {chunk:?}");
                // SAFETY: so many bytes are ours.
                unsafe {
                    let bytes = std::slice::from_raw_parts_mut(chunk.as_ptr(), size);
                    assert!(bytes.iter().all(|&byte| byte == 0xaa));
                    bytes.fill(1);
                }
                assert_eq!(heap.size_of(chunk), Ok(size));
                // SAFETY: a live chunk of this layout.
                unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
            }
        }
    }
    assert_eq!(heap.stats().chunks, 0);
}

#[test]
fn a_second_free_and_a_free_inside_are_told_apart() {
    let heap = fuzz();
    for size in SIZES {
        let layout = layout(size, 1);
        let chunk = heap.allocate(layout).expect("memory");
        if size > 1 {
            let inside = NonNull::new(byte(chunk, 1)).expect("not null");
            // SAFETY: the attack; what is wrong with the pointer is checked.
            assert_eq!(unsafe { heap.deallocate(inside, layout) }.expect_err("inside").kind, Kind::NotAChunk);
        }
        // SAFETY: a live chunk of this layout, and then the attack.
        unsafe {
            heap.deallocate(chunk, layout).expect("a correct free");
            assert_eq!(heap.deallocate(chunk, layout).expect_err("a second free").what(), "double free");
        }
    }
}

#[test]
fn a_wrong_layout_is_found_and_the_chunk_stays() {
    let heap = fuzz();
    let chunk = heap.allocate(layout(100, 4)).expect("memory");
    // SAFETY: the attack, twice, and then a correct free.
    unsafe {
        assert_eq!(heap.deallocate(chunk, layout(101, 4)).expect_err("a wrong size").kind, Kind::WrongSize);
        assert_eq!(heap.deallocate(chunk, layout(100, 8)).expect_err("a wrong alignment").kind, Kind::WrongAlignment);
        heap.deallocate(chunk, layout(100, 4)).expect("a correct free");
    }
}

#[test]
fn what_alignment_leaves_is_canary_and_checked_by_free_and_check() {
    for by_check in [false, true] {
        for at in [100, 101, 111] {
            let heap = fuzz();
            let layout = layout(100, 16);
            let chunk = heap.allocate(layout).expect("memory");
            if chunk.as_ptr().addr().is_multiple_of(4096) {
                continue;
            }
            // SAFETY: the attack: the twelve bytes up to the end of the page are mapped.
            unsafe { *byte(chunk, at) ^= 1 };
            // SAFETY: a live chunk, whatever surrounds it.
            let found = if by_check { heap.check() } else { unsafe { heap.deallocate(chunk, layout) } };
            let found = found.expect_err("an overflow");
            assert_eq!((found.kind, found.offset), (Kind::Overflow, Some(at)));
        }
    }
}

#[test]
fn what_lies_in_front_is_canary_and_checked() {
    let heap = fuzz();
    for at in 1..=256 {
        let layout = layout(100, 4);
        let chunk = heap.allocate(layout).expect("memory");
        if chunk.as_ptr().addr().is_multiple_of(4096) {
            continue;
        }
        // SAFETY: the attack: the chunk is right-aligned, so its page begins far in front.
        unsafe { *byte(chunk, -at) ^= 0x20 };
        // SAFETY: a live chunk, whatever surrounds it.
        let found = unsafe { heap.deallocate(chunk, layout) }.expect_err("an underflow");
        assert_eq!((found.kind, found.offset), (Kind::CorruptHeader, Some(-at)));
        // SAFETY: as above.
        unsafe {
            *byte(chunk, -at) ^= 0x20;
            heap.deallocate(chunk, layout).expect("nothing is wrong any more");
        }
    }
}

/// In `fuzz`, where every overflow should fault; elsewhere it would cost a mapping.
#[test]
fn what_is_too_long_for_a_guarded_slot_has_a_mapping_where_every_chunk_is_guarded_and_nowhere_else() {
    const LONGEST: usize = 65_536;
    let mapped = |options: Options, size: usize| {
        let heap = Heap::new(options).expect("a heap");
        for _ in 0..20 {
            heap.allocate(layout(size, 16)).expect("memory");
        }
        heap.stats().large_chunks
    };
    assert_eq!(mapped(Options::FUZZ, LONGEST + 1), 20);
    assert_eq!(mapped(Options::FUZZ, LONGEST), 0);
    assert_eq!(mapped(Options { guarded_slots: 1, ..Options::FUZZ }, LONGEST), 0, "there is no slot left");
    assert_eq!(mapped(Options { sample_rate: 2, ..Options::FUZZ }, LONGEST + 1), 0);
}

#[test]
fn a_slot_comes_back_late() {
    let heap = Heap::new(Options { guarded_slots: 100, ..Options::FUZZ }).expect("a heap");
    let layout = layout(64, 8);
    let page = |chunk: NonNull<u8>| chunk.as_ptr().addr() / 4096;
    let mut last = std::collections::HashMap::new();
    for round in 0..5000 {
        let chunk = heap.allocate(layout).expect("memory");
        if let Some(before) = last.insert(page(chunk), round) {
            assert!(round - before > 80, "a slot of 100 came back after {}", round - before);
        }
        // SAFETY: a live chunk of this layout.
        unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
    }
    assert_eq!(last.len(), 100);
}

#[test]
fn a_chunk_moves_with_its_contents() {
    let heap = fuzz();
    for (from, to) in [(24, 100), (100, 24), (5000, 90_000), (300_000, 200), (60_000, 1)] {
        let chunk = heap.allocate(layout(from, 8)).expect("memory");
        // SAFETY: so many bytes are ours; the old address is not used after.
        unsafe {
            chunk.as_ptr().write_bytes(7, from);
            let moved = heap.reallocate(chunk, layout(from, 8), to).expect("memory");
            let bytes = std::slice::from_raw_parts(moved.as_ptr(), to);
            assert!(bytes.iter().take(from).all(|&byte| byte == 7));
            assert!(bytes.iter().skip(from).all(|&byte| byte == 0xaa));
            heap.deallocate(moved, layout(to, 8)).expect("a correct free");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_addresses() {
    let addresses = |seed| {
        let heap = Heap::new(Options { seed, sample_rate: 7, ..Options::DEFAULT }).expect("a heap");
        (1..2000).map(|size| heap.allocate(layout(size, 8)).expect("memory").as_ptr().addr()).collect::<Vec<_>>()
    };
    // One after the other, so that both find the same addresses free.
    let first = addresses(11);
    assert_eq!(first, addresses(11));
    assert_ne!(first, addresses(12));
}

#[test]
fn the_rate_is_as_asked_for() {
    for rate in [1, 10, 64, 300, 2000] {
        let slots = 8192;
        let heap = Heap::new(Options { sample_rate: rate, guarded_slots: slots, ..Options::DEFAULT }).expect("a heap");
        // Ordinary chunks begin at multiples of 16, so none of this size ends at a page.
        let layout = layout(47, 1);
        let (mut guarded, mut all) = (0_u32, 0_u32);
        for round in 0..400_000 {
            let chunk = heap.allocate(layout).expect("memory");
            all += 1;
            guarded += u32::from((chunk.as_ptr().addr() + 47).is_multiple_of(4096));
            // SAFETY: a live chunk of this layout.
            unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
            if rate < 100 && round > 30_000 {
                break;
            }
        }
        let expected = f64::from(all) / f64::from(rate) * 7.0 / 8.0;
        let found = f64::from(guarded);
        assert!(
            found > expected * 0.6 && found < expected * 1.4,
            "one in {rate}: {found} of {all}, not about {expected}"
        );
    }
}

#[test]
fn a_limit_counts_guarded_pages() {
    let heap = Heap::new(Options { heap_limit_mb: 4, max_alloc_mb: 1, ..Options::FUZZ }).expect("a heap");
    let mut chunks = Vec::new();
    while let Ok(chunk) = heap.allocate(layout(8000, 8)) {
        chunks.push(chunk);
        assert!(chunks.len() < 600);
    }
    assert!(chunks.len() > 300, "{}", chunks.len());
    assert_eq!(heap.allocate(layout(2 << 20, 8)), Err(AllocateError::OutOfMemory));
    for chunk in chunks {
        // SAFETY: live chunks of this layout.
        unsafe { heap.deallocate(chunk, layout(8000, 8)) }.expect("a correct free");
    }
}

#[test]
fn threads_share_guarded_slots() {
    let heap = Heap::new(Options { guarded_slots: 64, ..Options::FUZZ }).expect("a heap");
    std::thread::scope(|scope| {
        for number in 0..4 {
            let heap = &heap;
            scope.spawn(move || {
                for round in 0..2000 {
                    let layout = layout(1 + (round * 37 + number * 101) % 9000, 8);
                    let chunk = heap.allocate(layout).expect("memory");
                    // SAFETY: so many bytes are ours, and then a correct free.
                    unsafe {
                        chunk.as_ptr().write_bytes(number as u8, layout.size());
                        heap.deallocate(chunk, layout).expect("a correct free");
                    }
                }
            });
        }
    });
    heap.check().expect("nothing is damaged");
    assert_eq!(heap.stats().chunks, 0);
    heap.purge().expect("nothing is damaged");
}

#[test]
fn without_slots_or_a_rate_nothing_is_guarded() {
    for options in [Options { guarded_slots: 0, ..Options::FUZZ }, Options { sample_rate: 0, ..Options::FUZZ }] {
        let heap = Heap::new(options).expect("a heap");
        let chunk = heap.allocate(layout(48, 16)).expect("memory");
        for _ in 0..200 {
            let other = heap.allocate(layout(48, 16)).expect("memory");
            // SAFETY: a live chunk.
            assert_eq!(unsafe { *other.as_ptr() }, 0xaa);
        }
        // SAFETY: a live chunk, freed once.
        unsafe {
            assert_eq!(*chunk.as_ptr(), 0xaa);
            heap.deallocate(chunk, layout(48, 16)).expect("a correct free");
            assert_eq!(heap.deallocate(chunk, layout(48, 16)).expect_err("twice").what(), "double free");
        }
    }
}
