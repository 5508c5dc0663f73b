//! What makes a private heap a world of its own: addresses, secrets, limits, quarantine, its end, threads and forks.

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use testudo::{AllocateError, Heap, Kind, Options};

const SIZES: [usize; 6] = [1, 24, 100, 1000, 20_000, 300_000];

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

fn heap() -> Heap {
    Heap::new(Options::DEFAULT).expect("a heap")
}

fn allocate(heap: &Heap, size: usize) -> NonNull<u8> {
    heap.allocate(layout(size)).expect("memory")
}

fn free(heap: &Heap, chunk: NonNull<u8>, size: usize) {
    // SAFETY: the tests forget what they give back.
    unsafe { heap.deallocate(chunk, layout(size)) }.expect("a correct free");
}

#[test]
fn a_heap_can_be_sent_and_shared() {
    const fn claim<T: Send + Sync>() {}
    const { claim::<Heap>() };
}

#[test]
fn a_heap_moves_with_its_chunks_to_another_thread() {
    let heap = heap();
    let addresses: Vec<usize> = SIZES.iter().map(|&size| allocate(&heap, size).as_ptr().expose_provenance()).collect();
    std::thread::spawn(move || {
        for (&size, address) in SIZES.iter().zip(addresses) {
            let chunk = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null");
            free(&heap, chunk, size);
        }
        assert_eq!(heap.stats().chunks, 0);
    })
    .join()
    .expect("the other thread found nothing wrong");
}

#[test]
fn heaps_share_no_addresses_and_refuse_each_others_chunks() {
    let heaps = [heap(), heap(), heap()];
    let mut taken = BTreeSet::new();
    for size in SIZES {
        for (number, mine) in heaps.iter().enumerate() {
            let chunk = allocate(mine, size);
            assert!(taken.insert(chunk.as_ptr().addr()));
            for (_, other) in heaps.iter().enumerate().filter(|(other, _)| *other != number) {
                // SAFETY: the mistake that the heap must find.
                let found = unsafe { other.deallocate(chunk, layout(size)) }.expect_err("another heap's chunk");
                assert_eq!(found.kind, Kind::NotAChunk);
            }
            assert_eq!(mine.size_of(chunk), Ok(size));
        }
    }
}

/// The header of the chunk that a heap hands out first, and its address.
fn first_header(options: Options) -> (usize, u64) {
    let heap = Heap::new(options).expect("a heap");
    let chunk = allocate(&heap, 100);
    // SAFETY: the header lies in front of the chunk.
    (chunk.as_ptr().addr(), unsafe { chunk.as_ptr().sub(8).cast::<u64>().read() })
}

#[test]
fn every_heap_has_secrets_and_places_of_its_own() {
    let drawn: BTreeSet<_> = (0..20).map(|_| first_header(Options::DEFAULT)).collect();
    let (addresses, headers): (BTreeSet<_>, BTreeSet<_>) = drawn.into_iter().unzip();
    assert_eq!((addresses.len(), headers.len()), (20, 20));
}

#[test]
fn a_seed_makes_a_heap_repeat_itself() {
    let options = Options { seed: 7, ..Options::DEFAULT };
    assert_eq!(first_header(options), first_header(options));
}

#[test]
fn the_limit_of_one_heap_is_not_that_of_another() {
    let limited = Heap::new(Options { heap_limit_mb: 4, ..Options::DEFAULT }).expect("a heap");
    let other = heap();
    let mut chunks = Vec::new();
    while let Ok(chunk) = limited.allocate(layout(50_000)) {
        chunks.push(chunk);
        assert!(chunks.len() < 200, "a limit that does not limit");
    }
    for _ in 0..200 {
        allocate(&other, 50_000);
    }
    for chunk in chunks {
        free(&limited, chunk, 50_000);
    }
    allocate(&limited, 50_000);
}

#[test]
fn a_flood_of_frees_in_one_heap_pushes_nothing_out_of_anothers_quarantine() {
    let (quiet, busy) = (heap(), heap());
    for size in [24, 1000] {
        // The ring of the size has grown.
        for _ in 0..200 {
            free(&quiet, allocate(&quiet, size), size);
        }
        let freed = allocate(&quiet, size);
        free(&quiet, freed, size);
        for _ in 0..10_000 {
            free(&busy, allocate(&busy, size), size);
        }
        let next = [(); 3].map(|()| allocate(&quiet, size));
        assert!(!next.contains(&freed));
    }
}

/// How a child of `fork` ended that ran `work`.
fn in_child(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child calls nothing but `work`, which keeps to the heaps under test, and `_exit`.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork");
        if child == 0 {
            // A child that waits for a lock for ever fails the test instead of hanging it.
            libc::alarm(800);
            libc::_exit(i32::from(!work()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    }
}

/// Lines of the list of mappings, counted without allocating.
fn mappings() -> usize {
    let mut list = std::fs::File::open("/proc/self/maps").expect("the list of mappings");
    let (mut count, mut part) = (0, [0; 4096]);
    while let Ok(length @ 1..) = list.read(&mut part) {
        count += part[..length].iter().filter(|&&byte| byte == b'\n').count();
    }
    count
}

#[test]
fn dropping_heaps_leaves_no_mapping_behind() {
    const HEAPS: usize = 500;
    let came_and_went = || {
        (0..HEAPS).all(|_| {
            let Ok(heap) = Heap::new(Options::DEFAULT) else { return false };
            SIZES.iter().all(|&size| match [(); 2].map(|()| heap.allocate(layout(size))) {
                // SAFETY: nobody uses the chunk.
                [Ok(chunk), Ok(_)] => unsafe { heap.deallocate(chunk, layout(size)) }.is_ok(),
                _ => false,
            })
        })
    };
    // In a child, because other tests make heaps at the same time here: one mapping left of each heap would be found.
    let status = in_child(|| {
        let before = mappings();
        came_and_went() && mappings() < before + HEAPS / 5
    });
    assert_eq!(status, 0);
}

/// Uses a heap as a child must be able to, without a word to standard error.
fn works(heap: &Heap) -> bool {
    let used = SIZES.iter().all(|&size| {
        (0..50).all(|_| match heap.allocate(layout(size)) {
            // SAFETY: nobody uses the chunk.
            Ok(chunk) => unsafe { heap.deallocate(chunk, layout(size)) }.is_ok(),
            Err(_) => false,
        })
    });
    used && heap.check().is_ok() && heap.purge().is_ok()
}

#[test]
fn a_child_goes_on_with_heaps_that_other_threads_were_in() {
    let heaps = [heap(), Heap::new(Options::STRICT).expect("a heap"), Heap::new(Options::FAST).expect("a heap")];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for heap in &heaps {
            let done = &done;
            scope.spawn(move || {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    let size = SIZES[round % SIZES.len()];
                    free(heap, allocate(heap, size), size);
                    round += 1;
                }
            });
        }
        let ends: Vec<i32> = (0..40).map(|_| in_child(|| heaps.iter().all(works))).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(|&status| status == 0), "{ends:?}");
    });
    assert!(heaps.iter().all(works));
}

#[test]
fn heaps_may_come_and_go_while_others_fork() {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let (first, second) = (heap(), heap());
                    allocate(&second, 100);
                    drop(first);
                    allocate(&second, 100);
                }
            });
        }
        let kept = heap();
        let ends: Vec<i32> = (0..40)
            .map(|_| in_child(|| works(&kept) && Heap::new(Options::DEFAULT).is_ok_and(|fresh| works(&fresh))))
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(|&status| status == 0), "{ends:?}");
        assert!(works(&kept));
    });
}

#[test]
fn children_place_chunks_where_neither_parent_nor_sisters_do() {
    let heap = heap();
    // The class has slots lying ready, which parent and children share; what comes after them is drawn anew.
    let places: BTreeSet<usize> = (0..8)
        .map(|_| {
            let (mut from, mut to) = std::io::pipe().expect("a pipe");
            let status = in_child(|| {
                use std::io::Write;
                let place = heap.allocate(layout(400_000)).map_or(0, |chunk| chunk.as_ptr().addr());
                to.write_all(&place.to_ne_bytes()).is_ok()
            });
            assert_eq!(status, 0);
            let mut place = [0; 8];
            std::io::Read::read_exact(&mut from, &mut place).expect("an address");
            usize::from_ne_bytes(place)
        })
        .chain([allocate(&heap, 400_000).as_ptr().addr()])
        .collect();
    assert!(!places.contains(&0));
    assert_eq!(places.len(), 9, "{places:x?}");
}

#[test]
fn a_request_beyond_all_bounds_is_an_error() {
    let heap = heap();
    for size in [isize::MAX as usize - 15, 1 << 50, 200 << 40] {
        assert_eq!(heap.allocate(layout(size)), Err(AllocateError::OutOfMemory));
    }
    assert!(works(&heap));
}
