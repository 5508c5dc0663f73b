//! Free memory goes back to the system, by itself after a while and at once when asked, and nothing that is live notices.

#[path = "support/control_group.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod control_group;
#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use control_group::ControlGroup;
use proptest::prelude::*;
use std::alloc::Layout;
use std::ptr::NonNull;
use std::time::{Duration, Instant};
use testudo::{Heap, Options};

/// After this long something that should happen by itself counts as not happening. Generous: a slow machine must not
/// fail a test.
const DEADLINE: Duration = Duration::from_secs(120);

const PAGE: usize = 4096;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

/// A chunk and the byte that it is filled with.
struct Filled {
    chunk: NonNull<u8>,
    size: usize,
    byte: u8,
}

impl Filled {
    fn new(heap: &Heap, size: usize, byte: u8) -> Self {
        let chunk = heap.allocate(layout(size)).expect("memory");
        // SAFETY: the chunk has so many bytes and is ours.
        let bytes = unsafe { std::slice::from_raw_parts_mut(chunk.as_ptr(), size) };
        assert!(bytes.iter().all(|&byte| byte == 0), "fresh chunks are zeroed");
        bytes.fill(byte);
        Self { chunk, size, byte }
    }

    fn is_as_it_was(&self) -> bool {
        // SAFETY: live, so many bytes.
        unsafe { std::slice::from_raw_parts(self.chunk.as_ptr(), self.size) }.iter().all(|&byte| byte == self.byte)
    }

    fn free(self, heap: &Heap) {
        assert!(self.is_as_it_was());
        // SAFETY: a live chunk of this layout, not used again.
        unsafe { heap.deallocate(self.chunk, layout(self.size)) }.expect("a correct free");
    }
}

/// 16 MiB of chunks of which one in 100 stays.
fn spike(heap: &Heap, size: usize) -> Vec<Filled> {
    let all: Vec<_> = (0..(16 << 20) / size).map(|number| Filled::new(heap, size, number as u8 | 1)).collect();
    let (mut kept, mut count) = (Vec::new(), 0);
    for filled in all {
        count += 1;
        if count % 100 == 0 { kept.push(filled) } else { filled.free(heap) }
    }
    kept
}

fn resident(heap: &Heap) -> usize {
    heap.check_stats().expect("nothing is damaged").resident
}

/// At least so much stays: the pages of the chunks that live.
fn pages_of(kept: &[Filled]) -> usize {
    let pages = |filled: &Filled| {
        let start = filled.chunk.as_ptr().addr() - 8;
        (start / PAGE..=(start + filled.size) / PAGE).collect::<Vec<_>>()
    };
    let all: std::collections::BTreeSet<usize> = kept.iter().flat_map(pages).collect();
    all.len() * PAGE
}

#[test]
fn what_was_asked_back_is_gone_at_once_to_the_page() {
    for options in [Options::DEFAULT, Options::STRICT, Options { guard_pages: false, ..Options::DEFAULT }] {
        for size in [100, 1000, 3000, 20_000] {
            let heap = Heap::new(options).expect("a heap");
            let before = resident(&heap);
            let kept = spike(&heap, size);
            heap.purge().expect("nothing is damaged");
            let surplus = resident(&heap).saturating_sub(before + pages_of(&kept));
            // Tables, and the slack of long slots.
            assert!(surplus < 1 << 20, "{surplus} bytes of free {size}-byte slots stay");
            assert!(kept.iter().all(Filled::is_as_it_was));
            heap.check().expect("nothing is damaged");
            // And it comes back.
            let again = spike(&heap, size);
            for filled in kept.into_iter().chain(again) {
                filled.free(&heap);
            }
            heap.purge().expect("nothing is damaged");
            assert!(resident(&heap) < before + (1 << 20));
        }
    }
}

#[test]
fn a_purge_tells_whether_anything_went_back() {
    // A loop that purges until nothing does ends.
    let purges = |heap: &Heap| [0; 3].map(|_| heap.purge().expect("nothing is damaged"));
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST] {
        let heap = Heap::new(Options { sample_rate: 0, ..options }).expect("a heap");
        assert_eq!(purges(&heap), [false; 3], "there is nothing yet");
        let live = [40, 1000, 20_000, 300_000].map(|size| heap.allocate(layout(size)).expect("memory"));
        purges(&heap);
        assert_eq!(purges(&heap), [false; 3], "what lives stays");
        for size in [40, 1000, 20_000] {
            let chunks: Vec<_> = (0..1000).map(|_| heap.allocate(layout(size)).expect("memory")).collect();
            for &chunk in chunks.iter().step_by(100) {
                // SAFETY: a live chunk of this layout, not used again.
                unsafe { heap.deallocate(chunk, layout(size)) }.expect("a correct free");
            }
            assert_eq!(purges(&heap)[1..], [false; 2], "what lay free among what lives is gone");
            for (_, &chunk) in chunks.iter().enumerate().filter(|(number, _)| number % 100 != 0) {
                // SAFETY: as above.
                unsafe { heap.deallocate(chunk, layout(size)) }.expect("a correct free");
            }
            assert_eq!(purges(&heap), [true, false, false], "slabs of {size} bytes");
        }
        let large = heap.allocate(layout(500_000)).expect("memory");
        // SAFETY: a live chunk of this layout, not used again.
        unsafe { heap.deallocate(large, layout(500_000)) }.expect("a correct free");
        assert!(heap.stats().cached >= 500_000);
        assert_eq!(purges(&heap), [true, false, false], "a kept mapping");
        assert_eq!(heap.stats().chunks, live.len());
    }
    let heap = Heap::new(Options { sample_rate: 1, guarded_slots: 16, ..Options::DEFAULT }).expect("a heap");
    let guarded = Filled::new(&heap, 5000, 1);
    assert_eq!((heap.stats().guarded_chunks, purges(&heap)), (1, [false; 3]));
    guarded.free(&heap);
    assert_eq!(purges(&heap), [true, false, false], "a guarded slot");
}

/// Lets time pass, with a little work of another size, until `done` or the deadline.
fn quiet(heap: &Heap, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        for _ in 0..200 {
            Filled::new(heap, 40, 1).free(heap);
        }
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn what_nobody_uses_goes_back_by_itself_while_the_program_does_other_things() {
    let heap = Heap::new(Options { release_interval_ms: 50, ..Options::DEFAULT }).expect("a heap");
    let before = resident(&heap);
    let kept = spike(&heap, 1000);
    let most = before + pages_of(&kept) + (1 << 20);
    assert!(quiet(&heap, || resident(&heap) < most), "{} bytes stay, {most} would do", resident(&heap));
    assert!(kept.iter().all(Filled::is_as_it_was));
}

#[test]
fn kept_mappings_of_large_chunks_go_back_by_themselves() {
    let heap = Heap::new(Options { release_interval_ms: 50, ..Options::DEFAULT }).expect("a heap");
    // More than are made inaccessible at once. Freed one after the other, faster than one in a millisecond; a machine that was
    // busy meanwhile gets another chance.
    let started = Instant::now();
    while heap.stats().cached <= 300_000 {
        assert!(started.elapsed() < DEADLINE, "a hot loop keeps no mapping");
        for filled in (0..200).map(|_| Filled::new(&heap, 300_000, 1)).collect::<Vec<_>>() {
            filled.free(&heap);
        }
    }
    assert!(quiet(&heap, || heap.stats().cached < 300_000));
}

#[test]
fn with_minus_one_nothing_goes_back_unasked() {
    let heap = Heap::new(Options { release_interval_ms: -1, ..Options::DEFAULT }).expect("a heap");
    for filled in (0..5000).map(|_| Filled::new(&heap, 1000, 1)).collect::<Vec<_>>() {
        filled.free(&heap);
    }
    assert!(heap.stats().committed > 4 << 20);
    heap.purge().expect("nothing is damaged");
    assert!(heap.stats().committed < 1 << 20);
}

#[test]
fn with_zero_empty_slabs_go_back_at_once() {
    let heap = Heap::new(Options { release_interval_ms: 0, ..Options::DEFAULT }).expect("a heap");
    for filled in (0..5000).map(|_| Filled::new(&heap, 1000, 1)).collect::<Vec<_>>() {
        filled.free(&heap);
    }
    assert_eq!(heap.stats().empty, 0);
}

/// The kernel keeps all of a huge page while a part of it is in use, though the process does not have it any more.
#[test]
fn what_goes_back_of_huge_pages_is_the_systems_again() {
    const MIB: u64 = 1 << 20;
    let Some(group) = ControlGroup::with_memory(1024) else {
        return real::say_skipped("no control group can be made");
    };
    let folder = real::folder();
    for profile in ["default", "strict"] {
        let mut command = real::command(
            &support::compile::program(&["huge_pages.c"]),
            folder.path(),
            Some(&format!("profile={profile}")),
        );
        group.enclose(command.arg(group.memory_in_use()));
        let ended = real::to_the_end(&mut command);
        assert!(ended.status.success(), "{ended:?}");
        let numbers: Vec<u64> = ended.out().split_whitespace().map(|word| word.parse().expect("a number")).collect();
        let [before, after] = numbers[..] else { panic!("{ended:?}") };
        // 420 pages of chunks stay, and as much of tables.
        assert!(before > 256 * MIB && after < 48 * MIB, "{profile}: {before} and then {after} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Purges at any moment, between any chunks: what lives keeps its bytes and headers, what is handed out is zeroed, and
    /// every audit passes.
    #[test]
    fn nothing_that_lives_notices(
        guard_pages: bool,
        randomize: bool,
        size in prop::sample::select(vec![8_usize, 100, 500, 1016, 2000, 5000, 40_000]),
        steps in prop::collection::vec((0_u8..8, any::<usize>()), 1..60),
    ) {
        let heap = Heap::new(Options { guard_pages, randomize, ..Options::STRICT }).expect("a heap");
        let mut live = Vec::new();
        for (step, number) in steps {
            match step {
                // A stretch of neighbours comes or goes.
                0..4 => live.extend((0..1 + number % 300).map(|place| Filled::new(&heap, size, place as u8 | 1))),
                4..7 if !live.is_empty() => {
                    let start = number % live.len();
                    let end = (start + 1 + number / 7 % 400).min(live.len());
                    for filled in live.drain(start..end) {
                        filled.free(&heap);
                    }
                }
                _ => {
                    heap.purge().expect("nothing is damaged");
                    heap.check().expect("nothing is damaged");
                    prop_assert!(live.iter().all(Filled::is_as_it_was));
                }
            }
        }
        let stats = heap.check_stats().expect("nothing is damaged");
        prop_assert_eq!(stats.chunks, live.len());
        for filled in live {
            filled.free(&heap);
        }
        heap.purge().expect("nothing is damaged");
        prop_assert_eq!(heap.stats().committed, 0);
    }
}
