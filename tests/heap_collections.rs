//! Collections in a private heap, by way of `allocator-api2`: what works, what ends where, and that damage ends the process.

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box as HeapBox;
use allocator_api2::vec::Vec as HeapVec;
use hashbrown::HashMap;
use std::alloc::Layout;
use std::hash::RandomState;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use testudo::{Heap, Options};

fn heap(options: Options) -> Heap {
    Heap::new(options).expect("a heap")
}

/// Says which bug a child process is to commit.
const BUG: &str = "TESTUDO_TEST_BUG";

#[test]
fn a_vector_grows_shrinks_and_is_given_back() {
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
        let heap = heap(options);
        let mut numbers = HeapVec::new_in(&heap);
        for number in 0..200_000_u64 {
            numbers.push(number);
        }
        assert!(numbers.iter().copied().eq(0..200_000));
        assert_eq!(heap.stats().chunks, 1);
        numbers.truncate(10);
        numbers.shrink_to_fit();
        assert_eq!(numbers.as_slice(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(heap.check_stats().expect("nothing is damaged").allocated, 80);
        drop(numbers);
        assert_eq!(heap.stats().chunks, 0);
        heap.check().expect("nothing is damaged");
    }
}

#[test]
fn a_hash_map_lives_in_a_heap() {
    let heap = heap(Options::STRICT);
    let hasher = RandomState::new();
    let mut lengths = HashMap::with_hasher_in(hasher, &heap);
    for number in 0..10_000_usize {
        let mut text = HeapVec::new_in(&heap);
        text.extend_from_slice(number.to_string().as_bytes());
        lengths.insert(number, text);
    }
    lengths.retain(|number, _| number % 3 == 0);
    assert!(lengths.iter().all(|(number, text)| *text == number.to_string().as_bytes()));
    assert_eq!(heap.stats().chunks, lengths.len() + 1);
    drop(lengths);
    assert_eq!(heap.stats().chunks, 0);
    heap.check().expect("nothing is damaged");
}

#[test]
fn a_box_has_the_alignment_that_its_contents_want() {
    #[repr(align(256))]
    struct Wide([u8; 256]);
    let heap = heap(Options::DEFAULT);
    let boxed = HeapBox::new_in(Wide([7; 256]), &heap);
    assert!(std::ptr::from_ref(&*boxed).is_aligned());
    assert!(boxed.0.iter().all(|&byte| byte == 7));
}

#[test]
fn zeroed_memory_is_zero_in_every_profile() {
    for options in [Options::DEFAULT, Options::FAST] {
        let heap = heap(options);
        for size in [1, 24, 500, 5000, 400_000] {
            let layout = Layout::from_size_align(size, 8).expect("a layout");
            for _ in 0..100 {
                let chunk = (&heap).allocate_zeroed(layout).expect("memory");
                // SAFETY: the chunk has `size` bytes and is ours until it is given back; the layouts are right.
                unsafe {
                    assert!(chunk.as_ref().iter().all(|&byte| byte == 0));
                    chunk.cast::<u8>().write_bytes(0xaa, size);
                    let longer = Layout::from_size_align(size * 2, 8).expect("a layout");
                    let grown = (&heap).grow_zeroed(chunk.cast(), layout, longer).expect("memory");
                    assert!(grown.as_ref()[..size].iter().all(|&byte| byte == 0xaa));
                    assert!(grown.as_ref()[size..].iter().all(|&byte| byte == 0));
                    grown.cast::<u8>().write_bytes(0xaa, size * 2);
                    Allocator::deallocate(&&heap, grown.cast(), longer);
                }
            }
        }
    }
}

#[test]
fn another_alignment_keeps_the_contents() {
    let heap = heap(Options::DEFAULT);
    let (narrow, wide) = (Layout::from_size_align(40, 8), Layout::from_size_align(60, 512));
    let (narrow, wide) = (narrow.expect("a layout"), wide.expect("a layout"));
    let chunk = Allocator::allocate(&&heap, narrow).expect("memory");
    // SAFETY: the chunk is ours and of the layouts that are given.
    unsafe {
        chunk.cast::<u8>().write_bytes(5, 40);
        let moved = (&heap).grow(chunk.cast(), narrow, wide).expect("memory");
        assert!(moved.cast::<u8>().addr().get().is_multiple_of(512));
        assert!(moved.as_ref()[..40].iter().all(|&byte| byte == 5));
        let back = (&heap).shrink(moved.cast(), wide, narrow).expect("memory");
        assert!(back.as_ref().iter().all(|&byte| byte == 5));
        Allocator::deallocate(&&heap, back.cast(), narrow);
    }
    assert_eq!(heap.stats().chunks, 0);
}

#[test]
fn a_vector_beyond_the_limit_is_an_error_and_loses_nothing() {
    let heap = heap(Options { heap_limit_mb: 8, ..Options::DEFAULT });
    let mut bytes = HeapVec::new_in(&heap);
    bytes.extend_from_slice(b"kept");
    assert!(bytes.try_reserve(20 << 20).is_err());
    assert_eq!(bytes.as_slice(), b"kept");
    bytes.try_reserve(1 << 20).expect("room below the limit");
}

#[test]
fn threads_fill_collections_of_one_heap() {
    let heap = heap(Options::DEFAULT);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let heap = &heap;
            scope.spawn(move || {
                let mut rows = HeapVec::new_in(heap);
                for row in 0..300 {
                    let mut cells = HeapVec::new_in(heap);
                    cells.resize(row, thread);
                    rows.push(cells);
                }
                assert!(rows.iter().flatten().all(|&cell| cell == thread));
            });
        }
    });
    assert_eq!(heap.stats().chunks, 0);
}

/// Runs one of the tests below again in a process of its own, where it commits its bug.
fn child(test: &str) -> std::process::Output {
    let program = std::env::current_exe().expect("this program's path");
    Command::new(program).args(["--exact", test, "--nocapture"]).env(BUG, test).output().expect("the test program runs")
}

/// Claims that the bug ended the process with a report that begins so.
fn ends_with_report(test: &str, first: &str) {
    let ended = child(test);
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.lines().any(|line| line.starts_with(first)), "{text}");
}

#[test]
fn an_overflow_of_a_vector_ends_the_process() {
    const NAME: &str = "an_overflow_of_a_vector_ends_the_process";
    if std::env::var_os(BUG).is_some_and(|bug| bug == NAME) {
        let heap = heap(Options::DEFAULT);
        let mut bytes = HeapVec::with_capacity_in(20, &heap);
        bytes.push(1_u8);
        // SAFETY: the bug: the byte behind the chunk.
        unsafe { bytes.as_mut_ptr().add(20).write_volatile(1) };
        return;
    }
    ends_with_report(NAME, "testudo: buffer overflow");
}

#[test]
fn a_write_through_a_stale_pointer_ends_the_process_when_its_slot_comes_back() {
    const NAME: &str = "a_write_through_a_stale_pointer_ends_the_process_when_its_slot_comes_back";
    if std::env::var_os(BUG).is_some_and(|bug| bug == NAME) {
        let heap = heap(Options::DEFAULT);
        let mut stale = {
            let mut bytes = HeapVec::with_capacity_in(100, &heap);
            bytes.push(1_u8);
            std::ptr::NonNull::from(&mut bytes[0])
        };
        // SAFETY: the bug; the slot stays mapped.
        unsafe { stale.as_mut().clone_from(&7) };
        for _ in 0..10_000 {
            HeapVec::<u8, _>::with_capacity_in(100, &heap).push(1);
        }
        return;
    }
    ends_with_report(NAME, "testudo: write after free");
}

#[test]
fn the_report_says_who_gave_a_guarded_chunk_back_before() {
    const NAME: &str = "the_report_says_who_gave_a_guarded_chunk_back_before";
    if std::env::var_os(BUG).is_some_and(|bug| bug == NAME) {
        let heap = heap(Options::FUZZ);
        let mut bytes = HeapVec::with_capacity_in(100, &heap);
        bytes.push(1_u8);
        // SAFETY: the bug: a second owner of the chunk.
        let second = unsafe { HeapVec::from_raw_parts_in(bytes.as_mut_ptr(), 1, 100, &heap) };
        drop(bytes);
        drop(second);
        return;
    }
    ends_with_report(NAME, "testudo: double free");
    ends_with_report(NAME, "  freed by thread ");
    ends_with_report(NAME, "  allocated by thread ");
}

#[test]
fn without_a_bug_the_child_ends_well() {
    let ended = child("a_box_has_the_alignment_that_its_contents_want");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
