//! The guarantees on private heaps, in process: what a check finds is a value.

use proptest::prelude::*;
use std::alloc::Layout;
use std::ptr::NonNull;
use testudo::{AllocateError, Heap, Kind, Options, Violation};

const SIZES: [usize; 8] = [1, 8, 24, 100, 1000, 4096, 20_000, 300_000];

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

/// A heap in which nothing is sampled: guarded chunks have tests of their own, and here one in thousands would differ.
fn heap(options: Options) -> Heap {
    Heap::new(Options { sample_rate: 0, ..options }).expect("a heap")
}

fn both(test: impl Fn(&Heap, usize)) {
    for options in [Options::DEFAULT, Options::STRICT] {
        for size in SIZES {
            test(&heap(options), size);
        }
    }
}

fn allocate(heap: &Heap, size: usize) -> NonNull<u8> {
    heap.allocate(layout(size)).expect("memory")
}

fn free(heap: &Heap, chunk: NonNull<u8>, size: usize) -> Result<(), Violation> {
    // SAFETY: the tests do not use chunks that were taken back, but for what the heap must find out.
    unsafe { heap.deallocate(chunk, layout(size)) }
}

fn offset(chunk: NonNull<u8>, by: isize) -> NonNull<u8> {
    NonNull::new(chunk.as_ptr().wrapping_offset(by)).expect("not null")
}

/// Writes where a program must not.
fn write(chunk: NonNull<u8>, at: isize, value: u8) {
    // SAFETY: the attack: within the mappings of the heap, by construction of the test.
    unsafe { offset(chunk, at).write_volatile(value) };
}

#[test]
fn a_chunk_is_zeroed_writable_and_aligned() {
    both(|heap, size| {
        for align in [1, 2, 16, 64, 4096, 65_536] {
            let layout = Layout::from_size_align(size, align).expect("a layout");
            let chunk = heap.allocate(layout).expect("memory");
            assert_eq!(chunk.as_ptr().addr() % align, 0);
            // SAFETY: the chunk has so many bytes and is ours.
            unsafe {
                let bytes = std::slice::from_raw_parts_mut(chunk.as_ptr(), size);
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(0x5a);
                heap.deallocate(chunk, layout).expect("a correct free");
            }
        }
    });
}

#[test]
fn a_double_free_is_found() {
    both(|heap, size| {
        let chunk = allocate(heap, size);
        free(heap, chunk, size).expect("the first free");
        assert_eq!(free(heap, chunk, size).expect_err("the second").what(), "double free");
    });
}

#[test]
fn a_double_free_is_found_after_thousands_of_others() {
    both(|heap, size| {
        let chunk = allocate(heap, size);
        let others: Vec<_> = (0..3000).map(|_| allocate(heap, 40)).collect();
        free(heap, chunk, size).expect("the first free");
        for other in others {
            free(heap, other, 40).expect("a correct free");
        }
        if size <= 24 || size >= 100 {
            assert!(free(heap, chunk, size).is_err());
        }
    });
}

#[test]
fn an_address_that_is_no_chunk_start_is_refused() {
    both(|heap, size| {
        let chunk = allocate(heap, size);
        let local = 0_u64;
        let steps = [1, 8, 16, 32].into_iter().filter(|step| *step < size as isize);
        for wrong in steps.map(|step| offset(chunk, step)).chain([offset(chunk, -16), NonNull::from(&local).cast()]) {
            let found = free(heap, wrong, size).expect_err("not a chunk");
            assert_eq!(found.kind, Kind::NotAChunk, "{found}");
        }
        free(heap, chunk, size).expect("the chunk is still there");
    });
}

#[test]
fn a_restored_header_does_not_make_a_second_free_pass() {
    both(|heap, size| {
        let chunk = allocate(heap, size);
        let header = offset(chunk, -8).cast::<u64>();
        // SAFETY: the header lies in front of the chunk.
        let old = unsafe { header.read() };
        free(heap, chunk, size).expect("the first free");
        if size < 200_000 {
            // SAFETY: the attack; small chunks stay mapped.
            unsafe { header.write(old) };
        }
        assert!(free(heap, chunk, size).is_err());
    });
}

#[test]
fn an_overflow_by_one_byte_is_found_at_free() {
    for options in [Options::DEFAULT, Options::STRICT] {
        for size in (1..600).chain([1000, 1016, 1017, 4096, 4097, 20_000, 200_000, 300_001]) {
            for value in [0, b'A', 0xff] {
                let heap = heap(options);
                let chunk = allocate(&heap, size);
                write(chunk, size as isize, value);
                let found = free(&heap, chunk, size).expect_err("an overflow");
                assert_eq!(found.kind, Kind::Overflow, "size {size}, byte {value}: {found}");
            }
        }
    }
}

#[test]
fn an_overflow_anywhere_in_the_slack_is_found_at_free() {
    for options in [Options::DEFAULT, Options::STRICT] {
        for size in [1, 9, 17, 100, 500, 1017, 1100, 1300, 4097, 20_000, 150_000] {
            let heap = heap(options);
            let chunk = allocate(&heap, size);
            // Of a slot with one chunk in it: less the header.
            let capacity = heap.stats().active - 8;
            for at in size..capacity {
                // SAFETY: the byte lies in the slack.
                let old = unsafe { offset(chunk, at as isize).read() };
                write(chunk, at as isize, 0);
                let found = free(&heap, chunk, size).expect_err("an overflow");
                assert_eq!(found.kind, Kind::Overflow, "size {size}, byte {at}: {found}");
                write(chunk, at as isize, old);
            }
            free(&heap, chunk, size).expect("the damage was undone");
        }
    }
}

#[test]
fn an_underflow_is_found_at_free() {
    both(|heap, size| {
        for at in 1..=8 {
            let chunk = allocate(heap, size);
            // SAFETY: the byte lies in the header.
            let old = unsafe { offset(chunk, -at).read() };
            write(chunk, -at, old ^ 0x21);
            let found = free(heap, chunk, size).expect_err("an underflow");
            assert_eq!(found.kind, Kind::CorruptHeader, "size {size}, {at} in front: {found}");
        }
    });
}

#[test]
fn every_flipped_bit_of_a_header_is_found() {
    both(|heap, size| {
        for bit in 0..64 {
            let chunk = allocate(heap, size);
            write_bit(chunk, bit);
            assert!(free(heap, chunk, size).is_err(), "bit {bit}");
        }
    });
}

fn write_bit(chunk: NonNull<u8>, bit: u32) {
    let at = -8 + (bit / 8) as isize;
    // SAFETY: the byte lies in the header.
    let old = unsafe { offset(chunk, at).read() };
    write(chunk, at, old ^ 1 << (bit % 8));
}

#[test]
fn the_difference_of_two_headers_forges_no_third() {
    let heap = heap(Options::DEFAULT);
    for _ in 0..1000 {
        let [a, b, c] = [100, 101, 101].map(|size| allocate(&heap, size));
        let header = |chunk| offset(chunk, -8).cast::<u64>();
        // SAFETY: headers of live chunks.
        unsafe {
            let difference = header(a).read() ^ header(b).read();
            header(c).write(header(c).read() ^ difference);
        }
        assert_eq!(free(&heap, c, 100).expect_err("forged").kind, Kind::CorruptHeader);
    }
}

#[test]
fn a_write_after_free_is_found_at_reuse() {
    for options in [Options::DEFAULT, Options::STRICT] {
        for size in [1, 8, 24, 100, 1000, 4096, 20_000, 200_000] {
            for at in [0, size / 2, size - 1] {
                let heap = heap(options);
                let chunk = allocate(&heap, size);
                free(&heap, chunk, size).expect("a correct free");
                write(chunk, at as isize, 0x41);
                let found = (0..10_000).find_map(|_| match heap.allocate(layout(size)) {
                    Ok(other) => free(&heap, other, size).err(),
                    Err(AllocateError::Violation(violation)) => Some(violation),
                    Err(AllocateError::OutOfMemory) => None,
                });
                assert_eq!(found.map(|found| found.kind), Some(Kind::WriteAfterFree), "size {size}, byte {at}");
            }
        }
    }
}

/// A purge gives pages of freed chunks back between others that are live: what was written to one is gone or found.
#[test]
fn a_write_after_free_never_shows_in_new_memory_after_a_purge() {
    for options in [Options::DEFAULT, Options::STRICT] {
        for size in [5000, 9000, 20_000, 100_000] {
            for at in [0, size / 4, size / 2, size - 1] {
                let heap = heap(Options { quarantine_kb: 0, ..options });
                let chunks: Vec<_> = (0..200).map(|_| allocate(&heap, size)).collect();
                let freed: Vec<_> = chunks.into_iter().enumerate().filter(|(number, _)| number % 9 != 0).collect();
                for &(_, chunk) in &freed {
                    free(&heap, chunk, size).expect("a correct free");
                }
                for &(_, chunk) in &freed {
                    write(chunk, at as isize, 0x41);
                }
                // It may find what was written, and end early; then that is what everything else finds, too.
                let _ = heap.purge();
                for _ in 0..200 {
                    match heap.allocate(layout(size)) {
                        Ok(chunk) => {
                            // SAFETY: the chunk has so many bytes.
                            let bytes = unsafe { std::slice::from_raw_parts(chunk.as_ptr(), size) };
                            assert!(bytes.iter().all(|&byte| byte == 0), "{size} bytes, at {at}");
                        }
                        Err(AllocateError::Violation(found)) => assert_eq!(found.kind, Kind::WriteAfterFree),
                        Err(AllocateError::OutOfMemory) => panic!("there is memory"),
                    }
                }
            }
        }
    }
}

#[test]
fn a_write_to_the_header_of_a_freed_chunk_is_found_at_reuse() {
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
        for size in [1, 24, 100, 1000, 4096, 20_000, 200_000] {
            for at in -8..0 {
                let heap = heap(options);
                let chunk = allocate(&heap, size);
                free(&heap, chunk, size).expect("a correct free");
                // SAFETY: the byte lies in the header.
                let old = unsafe { offset(chunk, at).read() };
                write(chunk, at, old ^ 0x20);
                let found = (0..10_000).find_map(|_| match heap.allocate(layout(size)) {
                    Ok(other) => {
                        assert_ne!(other, chunk, "a slot whose header was changed was handed out");
                        free(&heap, other, size).err()
                    }
                    Err(AllocateError::Violation(violation)) => Some(violation),
                    Err(AllocateError::OutOfMemory) => None,
                });
                // The chunk in front may be what looks first, and to it this is an overflow: in strict any, else one that
                // fills its slot.
                let in_front = |found: Violation| {
                    let looks = options.neighbours || options.canary && found.offset == Some(size as isize);
                    looks && found.kind == Kind::Overflow
                };
                let expected = |found: Violation| found.kind == Kind::WriteAfterFree || in_front(found);
                assert!(found.is_some_and(expected), "size {size}, byte {at}: {found:?}");
            }
        }
    }
}

#[test]
fn a_wrong_layout_is_found() {
    both(|heap, size| {
        let chunk = allocate(heap, size);
        assert_eq!(free(heap, chunk, size + 1).expect_err("a wrong size").kind, Kind::WrongSize);
        let other = Layout::from_size_align(size, 8).expect("a layout");
        // SAFETY: the attack.
        let found = unsafe { heap.deallocate(chunk, other) }.expect_err("a wrong alignment");
        assert_eq!(found.kind, Kind::WrongAlignment);
        free(heap, chunk, size).expect("the chunk is still there");
    });
}

/// A header has 20 bits for sizes and 4 for the logarithm of the alignment.
#[test]
fn a_layout_that_is_wrong_beyond_the_headers_bits_is_found() {
    both(|heap, size| {
        let chunk = allocate(heap, size);
        for bit in 20..62 {
            assert_eq!(free(heap, chunk, size + (1 << bit)).expect_err("a wrong size").kind, Kind::WrongSize);
        }
        for align_log2 in [20, 36, 52] {
            let other = Layout::from_size_align(size, 1 << align_log2).expect("a layout");
            // SAFETY: the attack.
            let found = unsafe { heap.deallocate(chunk, other) }.expect_err("a wrong alignment");
            assert_eq!(found.kind, Kind::WrongAlignment, "2^{align_log2}");
        }
        free(heap, chunk, size).expect("the chunk is still there");
    });
}

/// Where an over-aligned chunk's slot begins stands a true header, but no chunk.
#[test]
fn the_slot_of_an_over_aligned_chunk_is_no_chunk_of_that_alignment() {
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
        let heap = heap(options);
        let layout = Layout::from_size_align(100, 64).expect("a layout");
        let mut inside = 0;
        for _ in 0..200 {
            let chunk = heap.allocate(layout).expect("memory");
            for gap in [16, 32, 48] {
                // SAFETY: the attack.
                let found = unsafe { heap.deallocate(offset(chunk, -gap), layout) }.expect_err("not a chunk");
                inside += usize::from(found.chunk.is_some());
            }
        }
        assert!(inside > 50, "most of these chunks lie inside their slots: {inside}");
    }
}

#[test]
fn limits_give_an_error_and_lose_nothing() {
    let heap = heap(Options { heap_limit_mb: 8, max_alloc_mb: 2, ..Options::DEFAULT });
    assert_eq!(heap.allocate(layout(3 << 20)), Err(AllocateError::OutOfMemory));
    let mut chunks = Vec::new();
    while let Ok(chunk) = heap.allocate(layout(100_000)) {
        chunks.push(chunk);
    }
    assert!(chunks.len() > 40 && chunks.len() < 90, "{}", chunks.len());
    heap.check().expect("nothing is damaged");
    for chunk in chunks {
        free(&heap, chunk, 100_000).expect("a correct free");
    }
    heap.purge().expect("nothing is damaged");
    allocate(&heap, 1 << 20);
}

#[test]
fn what_is_freed_can_be_had_again_for_ever() {
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
        let heap = heap(Options { heap_limit_mb: 8, ..options });
        for size in [16, 100, 1000, 5000] {
            let count = (1 << 20) / size;
            for _ in 0..40 {
                let chunks: Vec<_> = (0..count).map(|_| allocate(&heap, size)).collect();
                for chunk in chunks {
                    free(&heap, chunk, size).expect("a correct free");
                }
            }
            heap.purge().expect("nothing is damaged");
        }
    }
}

/// Whether the kernel can read a byte there for us.
fn readable(address: *const u8) -> bool {
    let (_from, to) = std::io::pipe().expect("a pipe");
    // SAFETY: the kernel says EFAULT where nothing is.
    unsafe { libc::write(std::os::fd::AsRawFd::as_raw_fd(&to), address.cast(), 1) == 1 }
}

#[test]
fn a_chunk_of_no_bytes_is_inaccessible_and_given_back_once() {
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
        let heap = heap(options);
        assert!(readable(allocate(&heap, 1).as_ptr()));
        for align in [1, 16, 64, 4096] {
            let layout = Layout::from_size_align(0, align).expect("a layout");
            let chunks = [(); 3].map(|()| heap.allocate(layout).expect("an address"));
            for chunk in chunks {
                assert!(!readable(chunk.as_ptr()));
                assert_eq!(chunk.as_ptr().addr() % align, 0);
                // SAFETY: nobody uses the chunk.
                unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
                // SAFETY: the attack.
                let again = unsafe { heap.deallocate(chunk, layout) }.expect_err("the second");
                assert_eq!(again.what(), "double free");
            }
        }
    }
}

#[test]
fn dropping_a_heap_gives_everything_back() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
        text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages")
    };
    let before = resident();
    for _ in 0..100 {
        let heap = heap(Options::DEFAULT);
        for size in [100, 5000, 1 << 20] {
            for _ in 0..20 {
                let chunk = allocate(&heap, size);
                // SAFETY: so many bytes are ours.
                unsafe { chunk.as_ptr().write_bytes(1, size) };
            }
        }
    }
    // A twentieth of what there was in all; other tests of this process have some at the same time.
    assert!(resident() < before + 25_000, "{before} pages before, {} after", resident());
}

#[test]
fn threads_share_a_heap() {
    let heap = heap(Options::STRICT);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let heap = &heap;
            scope.spawn(move || {
                for round in 0..3000 {
                    let size = 1 + (round * 37 + number * 101) % 3000;
                    let chunk = allocate(heap, size);
                    free(heap, chunk, size).expect("a correct free");
                }
            });
        }
    });
    heap.check().expect("nothing is damaged");
    assert_eq!(heap.stats().chunks, 0);
}

/// A step of the shadow model.
#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, align_log2: u32 },
    Free(prop::sample::Index),
    Resize(prop::sample::Index, usize),
    Check,
    Purge,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1_usize..600, 3 => 600_usize..10_000, 1 => 10_000_usize..1_500_000]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (size(), prop_oneof![6 => 0_u32..5, 1 => 5_u32..17]).prop_map(|(size, align_log2)| Step::Allocate { size, align_log2 }),
        6 => any::<prop::sample::Index>().prop_map(Step::Free),
        4 => (any::<prop::sample::Index>(), size()).prop_map(|(which, size)| Step::Resize(which, size)),
        1 => Just(Step::Check),
        1 => Just(Step::Purge),
    ]
}

/// A chunk that the model knows: every byte holds its tag.
struct Known {
    chunk: NonNull<u8>,
    layout: Layout,
    tag: u8,
}

impl Known {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the chunk is live and so long.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.as_ptr(), self.layout.size()) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_byte_keeps_its_owner(steps in prop::collection::vec(step(), 1..250), profile in 0..3) {
        let options = [Options::DEFAULT, Options::STRICT, Options::FAST][profile as usize];
        let zeroed = options.zero_on_free;
        let heap = heap(options);
        let mut known: Vec<Known> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Allocate { size, align_log2 } => {
                    let layout = Layout::from_size_align(size, 1 << align_log2).expect("a layout");
                    let mut new = Known { chunk: heap.allocate(layout).expect("memory"), layout, tag: number as u8 };
                    prop_assert_eq!(new.chunk.as_ptr().addr() % layout.align(), 0);
                    prop_assert!(!zeroed || new.bytes().iter().all(|&byte| byte == 0));
                    new.bytes().fill(number as u8);
                    known.push(new);
                }
                Step::Free(which) if !known.is_empty() => {
                    let mut gone = known.swap_remove(which.index(known.len()));
                    let tag = gone.tag;
                    prop_assert!(gone.bytes().iter().all(|&byte| byte == tag));
                    // SAFETY: the model forgets the chunk.
                    unsafe { heap.deallocate(gone.chunk, gone.layout) }.expect("a correct free");
                }
                Step::Resize(which, size) if !known.is_empty() => {
                    let which = which.index(known.len());
                    let one = &mut known[which];
                    let (old, tag) = (one.layout.size(), one.tag);
                    // SAFETY: the model forgets the old address.
                    one.chunk = unsafe { heap.reallocate(one.chunk, one.layout, size) }.expect("memory");
                    one.layout = Layout::from_size_align(size, one.layout.align()).expect("a layout");
                    let bytes = one.bytes();
                    prop_assert!(bytes.iter().take(old).all(|&byte| byte == tag));
                    prop_assert!(!zeroed || bytes.iter().skip(old).all(|&byte| byte == 0));
                    bytes.fill(tag);
                }
                Step::Free(_) | Step::Resize(..) => {}
                Step::Check => heap.check().expect("nothing is damaged"),
                Step::Purge => _ = heap.purge().expect("nothing is damaged"),
            }
        }
        for one in &mut known {
            let tag = one.tag;
            prop_assert!(one.bytes().iter().all(|&byte| byte == tag));
        }
        heap.check().expect("nothing is damaged");
        prop_assert_eq!(heap.stats().chunks, known.len());
    }
}
