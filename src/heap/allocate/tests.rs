//! Claims about requests: room under a limit, and what the report says of a write after free.

use super::super::private::{AllocateError, Heap};
use crate::chunk::checksum;
use crate::options::Options;
use crate::os::mapping;
use crate::random::Random;
use crate::size_class::{ClassId, SMALL_MAX};
use crate::thread_cache::ThreadCache;
use crate::violation::{Kind, Violation};
use core::alloc::Layout;
use core::ptr::NonNull;

const LIMIT_MB: u32 = 4;

fn heap(options: Options) -> Heap {
    Heap::new(Options { sample_rate: 0, ..options }).expect("a heap")
}

fn limited() -> Heap {
    heap(Options { heap_limit_mb: LIMIT_MB, release_interval_ms: 3_600_000, ..Options::DEFAULT })
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

fn allocate(heap: &Heap, size: usize) -> NonNull<u8> {
    heap.allocate(layout(size)).expect("memory")
}

fn free(heap: &Heap, chunk: NonNull<u8>, size: usize) {
    // SAFETY: the tests do not use what they give back, unless that is the attack.
    unsafe { heap.deallocate(chunk, layout(size)) }.expect("a correct free");
}

/// Allocates until the limit is reached.
fn fill(heap: &Heap, size: usize) -> Vec<NonNull<u8>> {
    let mut chunks = Vec::new();
    loop {
        match heap.allocate(layout(size)) {
            Ok(chunk) => chunks.push(chunk),
            Err(refused) => {
                assert_eq!(refused, AllocateError::OutOfMemory);
                return chunks;
            }
        }
    }
}

/// Gives the slots in the heap's cache back to their slabs, and no slab to the system but those that are too many.
fn flush(heap: &Heap) {
    let cache = heap.core().shared.lock();
    // SAFETY: the heap's only cache, under its lock.
    heap.core().flush(unsafe { &mut *core::ptr::with_exposed_provenance_mut::<ThreadCache>(*cache) }).expect("order");
}

/// Leaves idle slabs of many classes behind.
fn touch_classes(heap: &Heap) {
    let before = heap.stats();
    for size in (1..20).map(|number| number * 24) {
        let chunk = allocate(heap, size);
        free(heap, chunk, size);
    }
    flush(heap);
    let stats = heap.stats();
    assert!(stats.committed - before.committed > 1 << 20, "idle slabs: {}", stats.committed);
    assert_eq!(stats.chunks, before.chunks);
}

/// Whatever freed chunks of the size have left, whatever new chunks hold otherwise; and of a long one no page is touched for that.
#[test]
fn a_chunk_that_is_to_be_zero_is_and_a_large_one_takes_no_memory_for_it() {
    const SMALLEST_LARGE: usize = SMALL_MAX + 1;
    for options in [Options::DEFAULT, Options::FAST, Options { guarded_slots: 20, ..Options::FUZZ }] {
        let heap = Heap::new(options).expect("a heap");
        for size in [1, 100, 1016, 5000, 70_000, SMALL_MAX, SMALLEST_LARGE, 300_000, 900_000] {
            for _ in 0..40 {
                let chunk = heap.allocate_zeroes(layout(size)).expect("memory");
                // SAFETY: a live chunk of so many bytes.
                let bytes = unsafe { core::slice::from_raw_parts_mut(chunk.as_ptr(), size) };
                assert!(bytes.iter().all(|&byte| byte == 0), "{size} bytes");
                bytes.fill(0xaa);
                let has_slot = heap.core().arena.region_of(chunk.addr().get()).is_some();
                let has_mapping = !has_slot && !heap.core().guarded.contains(chunk.addr().get());
                // Where all chunks are guarded, what is too long for that has a mapping.
                assert!(!has_mapping || size >= SMALLEST_LARGE || options.sample_rate == 1, "{size} bytes");
                assert!(!has_slot || size < SMALLEST_LARGE, "{size} bytes");
                free(&heap, chunk, size);
            }
        }
        for size in [3 << 20, 64 << 20] {
            let chunk = heap.allocate_zeroes(layout(size)).expect("memory");
            // The edges are written to; on some systems that takes a huge page.
            assert!(mapping::resident(chunk.addr().get(), size) < size / 4 * 3, "{size} bytes");
            free(&heap, chunk, size);
        }
    }
}

#[test]
fn under_a_limit_a_class_gets_what_the_idle_slabs_of_others_hold() {
    let untouched = fill(&limited(), 1000).len();
    assert!(untouched > 3000, "{untouched} chunks in 4 MiB");
    let heap = limited();
    touch_classes(&heap);
    assert_eq!(fill(&heap, 1000).len(), untouched);
}

#[test]
fn under_a_limit_a_medium_or_large_chunk_gets_what_the_idle_slabs_of_classes_hold() {
    for size in [100_000, 300_000, 3 << 20] {
        let untouched = fill(&limited(), size).len();
        let heap = limited();
        touch_classes(&heap);
        let found = fill(&heap, size).len();
        // Medium chunks lie in slabs or, where there is no room for one, in mappings, of which more may fit.
        assert!(found >= untouched, "{found} of {untouched} chunks of {size} bytes");
    }
}

#[test]
fn under_a_limit_a_large_chunk_grows_into_what_is_idle_or_kept() {
    let (old, new) = (3 << 19, 7 << 19);
    for kept in [false, true] {
        let heap = limited();
        let chunk = allocate(&heap, old);
        if kept {
            let others = [(); 3].map(|()| allocate(&heap, 600_000));
            others.into_iter().for_each(|other| free(&heap, other, 600_000));
        } else {
            touch_classes(&heap);
        }
        let committed = heap.stats().committed;
        assert!(committed + (new - old) > (LIMIT_MB as usize) << 20, "{committed} bytes: there is room without that");
        // SAFETY: a live chunk, whose old address is forgotten.
        let grown = unsafe { heap.reallocate(chunk, layout(old), new) };
        free(&heap, grown.expect("room"), new);
    }
}

/// As it was, and with what it held.
#[test]
fn a_large_chunk_that_may_not_grow_stays_where_it_is() {
    for (options, new) in [
        (Options { heap_limit_mb: LIMIT_MB, ..Options::DEFAULT }, (LIMIT_MB as usize + 1) << 20),
        (Options { max_alloc_mb: 1, ..Options::DEFAULT }, 2 << 20),
        (Options::DEFAULT, isize::MAX as usize - (1 << 31)),
    ] {
        let heap = heap(options);
        let chunk = allocate(&heap, 500_000);
        touch_classes(&heap);
        let committed = heap.stats().committed;
        // SAFETY: a live chunk, so long, whose old address is used only where it was not moved.
        unsafe {
            chunk.as_ptr().write_bytes(7, 500_000);
            assert_eq!(heap.reallocate(chunk, layout(500_000), new), Err(AllocateError::OutOfMemory));
            let bytes = core::slice::from_raw_parts(chunk.as_ptr(), 500_000);
            assert!(bytes.iter().all(|&byte| byte == 7));
        }
        assert_eq!(heap.stats().committed, committed, "idle slabs stay for requests that can be met");
        free(&heap, chunk, 500_000);
    }
}

#[test]
fn under_a_limit_over_aligned_chunks_are_refused_when_neither_slot_nor_mapping_is_to_be_had() {
    let heap = limited();
    let aligned = |size| heap.allocate(Layout::from_size_align(size, 256).expect("a layout"));
    let mut count = 0;
    while aligned(2000).is_ok() {
        count += 1;
    }
    assert!(count > 500, "{count}");
    assert_eq!(aligned(1000), Err(AllocateError::OutOfMemory));
    assert_eq!(heap.check(), Ok(()));
}

/// Leaves no region to a class that has none yet, as in a small arena.
fn take_all_regions(heap: &Heap) {
    let mut random = Random::from_number(3);
    while heap.core().arena.open_region(ClassId::new(0), &mut random).is_ok() {}
}

/// Which cost a program under `ulimit -v` all sizes that it asked for late.
#[test]
fn a_small_chunk_whose_class_has_no_region_has_a_slot_of_another_or_a_mapping() {
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
        for others_have_slots in [true, false] {
            let heap = heap(Options { release_interval_ms: 0, ..options });
            let other = others_have_slots.then(|| allocate(&heap, 2000));
            let large = allocate(&heap, 300_000);
            free(&heap, large, 300_000);
            let waiting = heap.stats().large_quarantined;
            take_all_regions(&heap);
            let mut chunks = Vec::new();
            for size in (1..2000).step_by(7) {
                let chunk = allocate(&heap, size);
                let has_slot = heap.core().arena.region_of(chunk.addr().get()).is_some();
                assert_eq!(has_slot, others_have_slots, "{size} bytes");
                // SAFETY: a live chunk of so many bytes.
                let bytes = unsafe { core::slice::from_raw_parts_mut(chunk.as_ptr(), size) };
                assert!(bytes.iter().all(|&byte| byte == 0), "{size} bytes");
                bytes.fill(size as u8);
                chunks.push((chunk, size));
            }
            assert!(heap.stats().large_quarantined >= waiting, "memory was not what there was too little of");
            assert_eq!(heap.check(), Ok(()));
            for (number, (chunk, size)) in chunks.into_iter().enumerate() {
                let mut chunk = chunk;
                let mut size = size;
                if number % 2 == 0 {
                    for new in [size + 1, size / 2 + 1] {
                        let kept = size.min(new);
                        // SAFETY: a live chunk, whose old address is forgotten.
                        chunk = unsafe { heap.reallocate(chunk, layout(size), new) }.expect("room");
                        // SAFETY: it is live, and so long.
                        let bytes = unsafe { core::slice::from_raw_parts(chunk.as_ptr(), kept) };
                        assert!(
                            bytes.iter().all(|&byte| byte == bytes[0]) && bytes[0] != 0 || kept == 0,
                            "{size} bytes"
                        );
                        size = new;
                    }
                }
                free(&heap, chunk, size);
                // SAFETY: the attack.
                let again = unsafe { heap.deallocate(chunk, layout(size)) }.expect_err("a second free");
                assert_eq!(again.kind, Kind::Freed, "{size} bytes");
            }
            if let Some(other) = other {
                free(&heap, other, 2000);
            }
            assert_eq!(heap.check(), Ok(()));
        }
    }
}

/// All of the slack is canary, though it is longer than that of the chunk's own class.
#[test]
fn an_overflow_of_a_small_chunk_in_a_slot_of_another_class_is_found() {
    for offset in [0, 1, 15, 16, 100, 1000] {
        let heap = heap(Options::DEFAULT);
        allocate(&heap, 2000);
        take_all_regions(&heap);
        let chunk = allocate(&heap, 40);
        // SAFETY: the attack; the byte lies in the slot.
        unsafe { *chunk.as_ptr().add(40 + offset) ^= 0x10 };
        // SAFETY: nobody uses it any more.
        let found = unsafe { heap.deallocate(chunk, layout(40)) }.expect_err("an overflow");
        assert_eq!((found.kind, found.offset), (Kind::Overflow, Some((40 + offset).cast_signed())));
    }
}

/// As in a small arena, whose regions other classes have.
#[test]
fn chunks_of_no_bytes_have_mappings_of_their_own_where_no_region_is_left() {
    let heap = heap(Options::DEFAULT);
    take_all_regions(&heap);
    let chunks = [(); 3].map(|()| allocate(&heap, 0));
    for chunk in chunks {
        let address = chunk.addr().get();
        assert!(
            address.is_multiple_of(16) && !mapping::is_accessible(address) && !mapping::is_accessible(address + 4000)
        );
        free(&heap, chunk, 0);
        // SAFETY: the attack.
        let again = unsafe { heap.deallocate(chunk, layout(0)) }.expect_err("a second free");
        assert_eq!(again.kind, Kind::Freed);
    }
    assert_ne!(chunks[0], chunks[1]);
}

#[test]
fn under_a_limit_a_class_gets_what_is_kept_of_large_chunks() {
    let untouched = fill(&limited(), 100).len();
    let heap = limited();
    let chunk = allocate(&heap, 500_000);
    free(&heap, chunk, 500_000);
    assert!(heap.stats().committed >= 500_000, "kept for the next large chunk");
    assert_eq!(fill(&heap, 100).len(), untouched);
}

/// Whoever can exhaust the limit must not thereby make the addresses of freed large chunks come back sooner.
#[test]
fn a_class_that_finds_no_room_leaves_the_address_quarantine_alone() {
    let heap = limited();
    let chunk = heap.allocate(Layout::from_size_align(100, 1 << 16).expect("a layout")).expect("memory");
    // SAFETY: nobody uses it any more.
    unsafe { heap.deallocate(chunk, Layout::from_size_align(100, 1 << 16).expect("a layout")) }.expect("order");
    let large = allocate(&heap, 300_000);
    free(&heap, large, 300_000);
    heap.purge().expect("order");
    let before = heap.stats().large_quarantined;
    assert!(before >= 300_000, "{before} bytes wait");
    fill(&heap, 100);
    assert_eq!(heap.stats().large_quarantined, before);
}

#[test]
fn requests_beyond_the_limit_take_no_idle_slab_away() {
    let heap = limited();
    touch_classes(&heap);
    let before = heap.stats().committed;
    for size in [(LIMIT_MB as usize + 1) << 20, 1 << 40] {
        assert_eq!(heap.allocate(layout(size)), Err(AllocateError::OutOfMemory));
    }
    assert_eq!(heap.stats().committed, before);
}

#[test]
fn max_alloc_mb_is_the_largest_size_that_is_granted() {
    const MOST: usize = 1 << 20;
    let heap = heap(Options { max_alloc_mb: 1, ..Options::DEFAULT });
    let chunk = allocate(&heap, MOST);
    assert_eq!(heap.allocate(layout(MOST + 1)), Err(AllocateError::OutOfMemory));
    // SAFETY: a live chunk, moved nowhere by a refusal.
    let grown = unsafe { heap.reallocate(chunk, layout(MOST), MOST + 1) };
    assert_eq!(grown, Err(AllocateError::OutOfMemory));
    let shorter = allocate(&heap, MOST / 2);
    // SAFETY: a live chunk, whose old address is forgotten.
    let grown = unsafe { heap.reallocate(shorter, layout(MOST / 2), MOST) };
    free(&heap, grown.expect("memory"), MOST);
    free(&heap, chunk, MOST);
}

/// Slots that lie ready and were never handed out are looked at whole where they are no longer than a page.
#[test]
fn a_stray_write_to_a_slot_before_its_first_use_is_found_when_it_is_handed_out() {
    for (size, at) in [(100, 50), (1000, 500), (3000, 1500), (3000, 2999)] {
        let heap = heap(Options { randomize: false, ..Options::DEFAULT });
        let [first, second] = [(); 2].map(|()| allocate(&heap, size));
        let next = second.as_ptr().addr() + (second.as_ptr().addr() - first.as_ptr().addr());
        // SAFETY: the attack: the slot behind the second chunk.
        unsafe { *core::ptr::with_exposed_provenance_mut::<u8>(next + at) = 1 };
        let found = (0..100).find_map(|_| match heap.allocate(layout(size)) {
            Err(AllocateError::Violation(found)) => Some(found),
            outcome => {
                assert_ne!(outcome.map(|chunk| chunk.as_ptr().addr()), Ok(next));
                None
            }
        });
        let found = found.expect("a write after free");
        assert_eq!((found.kind, found.address, found.offset), (Kind::WriteAfterFree, next, Some(at.cast_signed())));
    }
}

/// Writes to a freed chunk, and allocates until that is found.
fn damage(size: usize, at: isize, value: u8) -> (NonNull<u8>, Violation, u64) {
    let heap = heap(Options::DEFAULT);
    let chunk = allocate(&heap, size);
    free(&heap, chunk, size);
    let header = checksum::read(chunk.as_ptr().expose_provenance()).0;
    // SAFETY: the attack: a byte of a free slot or of its header.
    unsafe { *chunk.as_ptr().offset(at) ^= value };
    for _ in 0..100_000 {
        match heap.allocate(layout(size)) {
            Ok(other) => free(&heap, other, size),
            Err(AllocateError::Violation(found)) => return (chunk, found, header),
            Err(AllocateError::OutOfMemory) => break,
        }
    }
    panic!("a write at {at} of a freed chunk of {size} bytes was not found");
}

/// What the report says of a write after free.
#[test]
fn a_write_to_a_freed_chunk_is_told_with_its_place_and_what_was_written() {
    // The slack, and the middle of a slot of more than a page, too.
    for (size, at) in [(100, 0), (100, 43), (100, 103), (5000, 2500), (5000, 5127), (20_000, 9001)] {
        let (chunk, found, _) = damage(size, at, 0x41);
        assert_eq!((found.kind, found.address), (Kind::WriteAfterFree, chunk.as_ptr().addr()), "{size} bytes");
        assert_eq!(found.offset, Some(at));
        assert_eq!((found.expected, found.seen), (0, 0x41 << (at % 8 * 8)), "{size} bytes, at {at}");
        assert_eq!(found.chunk.map(|chunk| (chunk.size, chunk.origin)), Some((size, Some("Rust"))));
        assert!(found.detail.contains("not zero any more"), "{}", found.detail);
    }
}

#[test]
fn a_write_to_a_freed_chunks_header_is_told_with_its_place_and_what_was_there() {
    for size in [100, 5000] {
        for at in [-8, -1] {
            let (chunk, found, header) = damage(size, at, 0x10);
            assert_eq!((found.kind, found.address), (Kind::WriteAfterFree, chunk.as_ptr().addr()), "{size} bytes");
            assert_eq!(found.offset, Some(-8));
            assert_eq!(found.seen, header ^ 0x10 << ((at + 8) * 8));
            assert!(at != -1 || found.expected == header, "{found:?}");
            assert!(found.detail.contains("header of a free slot"), "{}", found.detail);
        }
    }
}
