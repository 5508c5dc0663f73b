//! What a heap says about itself is true: exact when it visits its chunks, consistent and never absurd when it reads its
//! counters.

use proptest::prelude::*;
use std::alloc::Layout;
use std::ptr::NonNull;
use testudo::{Heap, Options};

mod support;

use support::check::checks;
use support::{Profile, compile, preloaded};

checks! { of "statistics.c";
    an_exact_count_is_what_was_asked_for
    a_quick_count_knows_the_chunks_and_bounds_the_bytes
    a_class_is_counted_by_itself
    resident_memory_is_what_the_kernel_says
    mappings_are_counted
    numbers_stay_possible_while_threads_allocate
    the_infos_of_glibc_agree
    a_thread_with_the_least_stack_can_ask_everything
    every_question_takes_less_than_4_kib_of_stack
}

/// The XML as an independent parser sees it.
fn info(text: &str) -> roxmltree::Document<'_> {
    roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

fn number(node: roxmltree::Node<'_, '_>, name: &str) -> u64 {
    node.attribute(name).unwrap_or_else(|| panic!("no {name} in {node:?}")).parse().expect("a number")
}

#[test]
fn malloc_info_has_what_readers_of_glibc_look_for() {
    let program = compile::program(&["statistics.c"]);
    let output =
        preloaded(&program, Profile::Default).arg("holds_chunks_and_prints_info").output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    // The check's own line comes behind the document.
    let text = &text[..text.find("</malloc>").expect("a whole document") + "</malloc>".len()];
    let document = info(text);
    let root = document.root_element();
    assert_eq!((root.tag_name().name(), root.attribute("version")), ("malloc", Some("1")));
    let heap = root.children().find(|node| node.has_tag_name("heap")).expect("a heap");
    for place in [root, heap] {
        let of_type = |tag: &str, kind: &str| {
            let found = place.children().find(|node| node.has_tag_name(tag) && node.attribute("type") == Some(kind));
            number(found.unwrap_or_else(|| panic!("no {tag} {kind} in\n{text}")), "size")
        };
        let free = of_type("total", "rest");
        let current = of_type("system", "current");
        assert!(free > 0 && free < current && current <= of_type("system", "max"), "{text}");
        assert_eq!((of_type("total", "fast"), of_type("total", "mmap")), (0, 0));
        assert!(of_type("aspace", "total") >= current && of_type("aspace", "mprotect") > 0);
    }
    let sizes = heap.descendants().filter(|node| node.has_tag_name("size"));
    let class = sizes.clone().find(|size| number(*size, "from") <= 100 && 100 <= number(*size, "to"));
    assert!(number(class.expect("a class for 100 bytes"), "live") >= 3000, "{text}");
    let free: u64 = sizes.map(|size| number(size, "total")).sum();
    assert_eq!(
        free,
        root.children().find(|node| node.attribute("type") == Some("rest")).map_or(0, |rest| number(rest, "size"))
    );
}

/// In a private heap and, through C and the XML, in that of a process.
#[test]
fn guarded_chunks_are_counted() {
    let heap = Heap::new(Options { sample_rate: 1, guarded_slots: 16, ..Options::DEFAULT }).expect("a heap");
    let guarded = |heap: &Heap| {
        let exact = heap.check_stats().expect("nothing is damaged");
        let quick = heap.stats();
        let numbers = (exact.guarded_chunks, exact.guarded_allocated, exact.guarded_active);
        assert_eq!(numbers, (quick.guarded_chunks, quick.guarded_allocated, quick.guarded_active));
        assert!(exact.chunks >= numbers.0 && exact.allocated >= numbers.1 && exact.active >= numbers.2);
        numbers
    };
    assert_eq!(guarded(&heap), (0, 0, 0));
    let chunks = [100, 5000].map(|size| (heap.allocate(layout(size)).expect("memory"), size));
    // The longer one takes two pages.
    assert_eq!(guarded(&heap), (2, 5100, 3 * 4096));
    for (chunk, size) in chunks {
        free(&heap, chunk, size);
    }
    assert_eq!(guarded(&heap), (0, 0, 0));
    // Those that find no slot are ordinary chunks.
    for _ in 0..20 {
        heap.allocate(layout(100)).expect("memory");
    }
    let (chunks, bytes, _) = guarded(&heap);
    assert_eq!((chunks, bytes, heap.stats().chunks), (16, 1600, 20));

    let program = compile::program(&["statistics.c"]);
    let output = preloaded(&program, Profile::Fuzz).arg("holds_chunks_and_prints_info").output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let text = &text[..text.find("</malloc>").expect("a whole document") + "</malloc>".len()];
    let document = info(text);
    let ours = document.root_element().children().find(|node| node.has_tag_name("testudo")).expect("our element");
    // It holds 3,000 chunks of 100 bytes, and libraries some more.
    assert!((3000..=4096).contains(&number(ours, "guarded_chunks")), "{text}");
    assert!(number(ours, "guarded_allocated") >= 300_000, "{text}");
    assert!(number(ours, "guarded_active") >= 3000 * 4096, "{text}");
    let mappings = document.root_element().children().find(|node| node.has_tag_name("mappings")).expect("mappings");
    assert!(number(mappings, "used") > 0 && number(mappings, "used") < number(mappings, "limit"), "{text}");
}

/// Maps of a program under the library, with and without a kernel that names mappings: whole reservations are named, before the
/// program begins, and never again.
#[test]
fn what_is_reserved_at_start_is_named_where_the_kernel_can() {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = folder.path().join("names.so");
    let built = std::process::Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(support::root().join("tests/c/names_mappings.c"))
        .status()
        .expect("gcc runs");
    assert!(built.success());
    for refused in [false, true] {
        let mut command = std::process::Command::new("/usr/bin/python3");
        let work =
            "import os\nx = [bytearray(400000) for i in range(50)]\nos.write(1, open('/proc/self/maps','rb').read())";
        command
            .args(["-c", work])
            .env("LD_PRELOAD", format!("{}:{}", shim.display(), support::libtestudo().display()))
            .env("TESTUDO_OPTIONS", "heap_limit_mb=0");
        if refused {
            command.env("NAMES_REFUSED", "1");
        }
        let output = command.output().expect("python3 runs");
        assert!(output.status.success(), "{output:?}");
        let (named, maps) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        let names: Vec<&str> = named.lines().filter_map(|line| line.split(' ').nth(3)).collect();
        assert_eq!(names, ["testudo:slots", "testudo:tables"], "{named}");
        for line in named.lines() {
            // Begins where a mapping begins, and ends where one ends: naming cuts none in two.
            let number = |place: usize| {
                line.split(' ').nth(place).and_then(|word| u64::from_str_radix(word, 16).ok()).expect("a number")
            };
            let (start, end) = (number(1), number(1) + number(2));
            let bounds: Vec<(u64, u64)> = maps
                .lines()
                .filter_map(|line| line.split(' ').next()?.split_once('-'))
                .filter_map(|(from, to)| Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?)))
                .collect();
            assert!(bounds.iter().any(|(from, _)| *from == start), "{line}\n{maps}");
            assert!(bounds.iter().any(|(_, to)| *to == end), "{line}\n{maps}");
        }
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

/// Frees what must be freeable.
fn free(heap: &Heap, chunk: NonNull<u8>, size: usize) {
    // SAFETY: a live chunk of this layout, not used again.
    unsafe { heap.deallocate(chunk, layout(size)) }.expect("a correct free");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_heap_counts_like_its_user(steps in prop::collection::vec((any::<bool>(), 0_usize..70_000), 1..400)) {
        let heap = Heap::new(Options { ration_large: true, ..Options::DEFAULT }).expect("a heap");
        let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
        for (give_back, number) in steps {
            if give_back && !live.is_empty() {
                let (chunk, size) = live.swap_remove(number % live.len());
                free(&heap, chunk, size);
            } else {
                // Small, medium, large and none at all.
                let size = match number % 16 { 0 => number * 10, 1 => 0, 2..6 => number, _ => number % 1500 };
                live.push((heap.allocate(layout(size)).expect("memory"), size));
            }
        }
        let bytes: usize = live.iter().map(|(_, size)| size).sum();
        let exact = heap.check_stats().expect("nothing is damaged");
        prop_assert!(exact.exact);
        prop_assert_eq!((exact.chunks, exact.allocated), (live.len(), bytes));
        prop_assert_eq!(exact.zero_sized, live.iter().filter(|(_, size)| *size == 0).count());
        prop_assert_eq!(exact.active + exact.cached + exact.quarantined + exact.retained, exact.committed);
        let quick = heap.stats();
        prop_assert_eq!(quick.chunks, live.len());
        prop_assert_eq!(quick.active, exact.active);
        prop_assert!(quick.allocated >= bytes && quick.resident >= exact.resident);
        prop_assert!(quick.peak >= quick.committed && quick.empty <= quick.retained);
        for (quick, exact) in quick.classes().iter().zip(exact.classes()) {
            prop_assert_eq!(quick.live, exact.live);
            prop_assert!(exact.allocated <= exact.live * exact.size);
        }
    }
}

#[test]
fn violations_that_a_heap_returns_are_counted() {
    let heap = Heap::new(Options::DEFAULT).expect("a heap");
    let chunk = heap.allocate(layout(40)).expect("memory");
    free(&heap, chunk, 40);
    assert_eq!(heap.stats().violations, 0);
    // SAFETY: the mistake that the heap finds.
    assert!(unsafe { heap.deallocate(chunk, layout(40)) }.is_err());
    assert!(heap.size_of(chunk).is_err());
    assert_eq!(heap.stats().violations, 2);
    let full = Heap::new(Options { max_alloc_mb: 1, ..Options::DEFAULT }).expect("a heap");
    assert!(full.allocate(layout(2 << 20)).is_err());
    assert_eq!(full.stats().violations, 0, "a limit is no violation");
}

#[test]
fn counting_exactly_finds_damage_first() {
    let heap = Heap::new(Options::DEFAULT).expect("a heap");
    let chunk = heap.allocate(layout(40)).expect("memory");
    // SAFETY: the attack: the byte behind the chunk is slack of its slot.
    unsafe { chunk.add(40).write_volatile(0) };
    assert_eq!(heap.check_stats().expect_err("damage").what(), "buffer overflow");
}
