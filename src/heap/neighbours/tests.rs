//! Claims about what lies before and behind a chunk.

use super::super::core::Core;
use super::super::locate::Small;
use super::super::private::Heap;
use super::{LOOKS, look_again};
use crate::chunk::checksum;
use crate::options::Options;
use crate::primary::region::{SlotIndex, state};
use crate::protections::{Mixture, Native, Protections, StrictProfile};
use crate::size_class::{ClassId, FINE_MAX, SMALL_MAX};
use crate::violation::{Kind, Operation, Violation};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

const SIZE: usize = 100;
const LAYOUT: Layout = Layout::new::<[u8; SIZE]>();

fn heap(options: Options) -> Heap {
    Heap::new(Options { sample_rate: 0, randomize: false, ..options }).expect("a heap")
}

fn free(heap: &Heap, chunk: usize) -> Result<(), Violation> {
    let chunk = NonNull::new(core::ptr::with_exposed_provenance_mut(chunk)).expect("an address");
    // SAFETY: what is wrong with the chunk is checked, and the tests do not use what they give back.
    unsafe { heap.deallocate(chunk, LAYOUT) }
}

fn flip(address: usize) {
    // SAFETY: the attack: a byte of the heap's slots.
    unsafe { *core::ptr::with_exposed_provenance_mut::<u8>(address) ^= 0x10 };
}

/// Three chunks that lie one behind the other, and their distance.
fn three(heap: &Heap) -> ([usize; 3], usize) {
    let chunks = [(); 3].map(|()| heap.allocate(LAYOUT).expect("memory").as_ptr().expose_provenance());
    let stride = chunks[1] - chunks[0];
    assert!(stride == chunks[2] - chunks[1] && stride > SIZE, "they are neighbours");
    (chunks, stride)
}

/// `strict` finds at the next free beside it what `default` finds when the damaged chunk itself is freed.
#[test]
fn damage_to_either_neighbour_is_found_at_free_and_only_in_strict() {
    // Canary and header, of the chunk in front and of the one behind.
    for (neighbour, at, kind) in [
        (0, SIZE as isize, Kind::Overflow),
        (0, -8, Kind::CorruptHeader),
        (0, -1, Kind::CorruptHeader),
        (2, SIZE as isize, Kind::Overflow),
        (2, -1, Kind::CorruptHeader),
        (2, -8, Kind::CorruptHeader),
    ] {
        for strict in [true, false] {
            let heap = heap(if strict { Options::STRICT } else { Options::DEFAULT });
            let (chunks, _) = three(&heap);
            let damaged = chunks[neighbour].wrapping_add_signed(at);
            flip(damaged);
            let found = free(&heap, chunks[1]);
            if strict {
                let found = found.expect_err("a damaged neighbour");
                // What lies behind is at first the header of the next slot, which an overflow has reached.
                let expected = if neighbour == 2 && at < 0 { Kind::Overflow } else { kind };
                assert_eq!(found.kind, expected, "neighbour {neighbour}, byte {at}");
                let at_fault = if expected == kind { chunks[neighbour] } else { chunks[1] };
                assert_eq!(found.address, at_fault);
                assert_eq!(at_fault.wrapping_add_signed(found.offset.expect("where")) & !7, damaged & !7);
                flip(damaged);
                assert_eq!(free(&heap, chunks[1]), Ok(()), "the chunk itself was in order");
            } else {
                assert_eq!(found, Ok(()));
                assert!(neighbour == 2 && at < 0 || free(&heap, chunks[neighbour]).is_err());
            }
        }
    }
}

#[test]
fn every_byte_behind_a_neighbour_is_looked_at_up_to_the_next_header() {
    // Without slack, with little, and with more than a canary window.
    for size in [8, 104, 1000, 1016, 1017, 5000, 20_000] {
        let heap = heap(Options::STRICT);
        let layout = Layout::array::<u8>(size).expect("a layout");
        let chunks = [(); 3].map(|()| heap.allocate(layout).expect("memory").as_ptr().expose_provenance());
        let stride = chunks[1] - chunks[0];
        assert_eq!(stride, chunks[2] - chunks[1], "they are neighbours");
        let give_back = || {
            let chunk = NonNull::new(core::ptr::with_exposed_provenance_mut(chunks[1])).expect("an address");
            // SAFETY: as in `free`.
            unsafe { heap.deallocate(chunk, layout) }
        };
        for neighbour in [chunks[0], chunks[2]] {
            for at in (size..stride).filter(|at| neighbour == chunks[2] || *at < stride - 8) {
                flip(neighbour + at);
                // Behind the slack it is the header of the next slot, which is only looked at where there is no slack.
                let found = give_back();
                let looked_at = at < stride - 8 || size == stride - 8;
                assert_eq!(found.map_err(|found| found.address), if looked_at { Err(neighbour) } else { Ok(()) });
                flip(neighbour + at);
                if !looked_at {
                    break;
                }
            }
        }
    }
}

#[test]
fn freed_neighbours_are_no_reason_to_refuse() {
    let heap = heap(Options::STRICT);
    let (chunks, _) = three(&heap);
    for which in [0, 2, 1] {
        assert_eq!(free(&heap, chunks[which]), Ok(()));
    }
}

/// It was live at a first look: what stands around it by now is no damage.
#[test]
fn a_neighbour_that_is_given_back_before_it_is_verified_is_in_order() {
    let heap = heap(Options::STRICT);
    let (chunks, _) = three(&heap);
    let region = heap.core().arena.own_region(chunks[2]);
    let verified = || {
        let index = region.own_slot(chunks[2]).index;
        heap.core().verify_slot(region, index, region.own_class(), Operation::Free)
    };
    flip(chunks[2] + SIZE);
    assert_eq!(verified().map_err(|found| found.kind), Err(Kind::Overflow));
    flip(chunks[2] + SIZE);
    assert_eq!(free(&heap, chunks[2]), Ok(()));
    flip(chunks[2] + SIZE);
    assert_eq!(verified(), Ok(()));
}

/// `testudo_check_heap`, and the audit at exit.
#[test]
fn the_audit_finds_damage_to_live_and_to_freed_chunks_and_nothing_else() {
    for options in [Options::DEFAULT, Options::STRICT] {
        let heap = heap(options);
        let (chunks, stride) = three(&heap);
        assert_eq!(heap.check(), Ok(()));
        for at in [SIZE as isize, -1, -8] {
            let damaged = chunks[1].wrapping_add_signed(at);
            flip(damaged);
            assert!(heap.check().is_err(), "live, byte {at}");
            flip(damaged);
            assert_eq!(heap.check(), Ok(()));
        }
        free(&heap, chunks[1]).expect("a correct free");
        assert_eq!(heap.check(), Ok(()));
        for at in [0, 50, stride as isize - 9, -1, -8] {
            let damaged = chunks[1].wrapping_add_signed(at);
            flip(damaged);
            assert!(heap.check().is_err(), "freed, byte {at}");
            flip(damaged);
            assert_eq!(heap.check(), Ok(()));
        }
    }
}

/// The header behind a full chunk is its canary: the audit tells an overflow, which changes the lowest byte first, from an
/// underflow of the chunk behind, which does not.
#[test]
fn the_audit_finds_damage_to_the_header_behind_a_full_chunk() {
    let heap = heap(Options::DEFAULT);
    let full = Layout::new::<[u8; 104]>();
    let chunk = heap.allocate(full).expect("memory").as_ptr().expose_provenance();
    for at in 0..8 {
        flip(chunk + 104 + at);
        let found = heap.check().expect_err("a damaged header");
        assert!(matches!(found.kind, Kind::Overflow | Kind::CorruptHeader), "byte {at}: {found:?}");
        assert!(at != 7 || found.kind == Kind::CorruptHeader, "{found:?}");
        flip(chunk + 104 + at);
        assert_eq!(heap.check(), Ok(()));
    }
}

/// What the fast path of `free` asks about the neighbours of a chunk.
fn in_order<P: Protections, const LONGEST: usize>(core: &Core, chunk: usize) -> bool {
    let small = small(core, chunk);
    core.neighbours_are_in_order::<P, LONGEST>(
        small.region,
        small.slot.index,
        small.class,
        small.class.capacity(),
        chunk,
    )
}

/// A live chunk, found without being verified.
fn small(core: &Core, start: usize) -> Small<'_> {
    let region = core.arena.own_region(start);
    let fields = checksum::read(start).fields();
    Small { region, class: region.own_class(), slot: region.own_slot(start), start, fields }
}

fn chunks<const COUNT: usize>(heap: &Heap, layout: Layout) -> [usize; COUNT] {
    let chunks = [(); COUNT].map(|()| heap.allocate(layout).expect("memory").as_ptr().expose_provenance());
    let stride = ClassId::for_size(layout.size()).expect("a small size").stride();
    assert!(chunks.windows(2).all(|pair| pair[1] - pair[0] == stride), "they are neighbours");
    chunks
}

fn free_of(heap: &Heap, chunk: usize, layout: Layout) {
    let chunk = NonNull::new(core::ptr::with_exposed_provenance_mut(chunk)).expect("an address");
    // SAFETY: a live chunk of this layout, which the tests do not use any more.
    unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
}

/// Both are live, free, or one of each; in all of them nothing is left to the slow path.
#[test]
fn a_first_look_finds_intact_neighbours_in_order() {
    for (size, align) in [(8, 1), (100, 8), (104, 16), (FINE_MAX, 16), (5000, 16), (5128, 1)] {
        let layout = Layout::from_size_align(size, align).expect("a layout");
        for freed in [&[][..], &[0], &[2], &[0, 2]] {
            let heap = heap(Options::STRICT);
            let chunks = chunks::<3>(&heap, layout);
            freed.iter().for_each(|&which| free_of(&heap, chunks[which], layout));
            assert!(in_order::<StrictProfile, SMALL_MAX>(heap.core(), chunks[1]), "{size} bytes, freed {freed:?}");
            assert!(in_order::<Mixture<Native>, SMALL_MAX>(heap.core(), chunks[1]), "{size} bytes");
            if size <= FINE_MAX {
                assert!(in_order::<StrictProfile, FINE_MAX>(heap.core(), chunks[1]), "{size} bytes");
            }
        }
    }
}

#[test]
fn a_first_look_finds_damage_to_either_neighbour() {
    for size in [100, 104, FINE_MAX - 1, FINE_MAX, 5000, 5128] {
        let heap = heap(Options::STRICT);
        let chunks = chunks::<3>(&heap, Layout::array::<u8>(size).expect("a layout"));
        let sees = || {
            let any = !in_order::<StrictProfile, SMALL_MAX>(heap.core(), chunks[1]);
            assert_eq!(any, !in_order::<Mixture<Native>, SMALL_MAX>(heap.core(), chunks[1]));
            assert!(size > FINE_MAX || any != in_order::<StrictProfile, FINE_MAX>(heap.core(), chunks[1]));
            any
        };
        for neighbour in [chunks[0], chunks[2]] {
            for damaged in [neighbour - 8, neighbour - 1, neighbour + size] {
                flip(damaged);
                assert!(sees(), "{size} bytes, {:+}", damaged.wrapping_sub(neighbour).cast_signed());
                flip(damaged);
                assert!(!sees());
            }
        }
    }
}

/// Of a free neighbour only the header behind the chunk is looked at: it is the chunk's own canary.
#[test]
fn a_first_look_finds_damage_to_the_header_of_a_free_slot_behind() {
    let heap = heap(Options::STRICT);
    let (chunks, _) = three(&heap);
    free(&heap, chunks[0]).expect("a correct free");
    free(&heap, chunks[2]).expect("a correct free");
    for (damaged, seen) in [(chunks[2] - 8, true), (chunks[2] - 1, true), (chunks[0] - 1, false), (chunks[2], false)] {
        flip(damaged);
        assert_eq!(in_order::<StrictProfile, SMALL_MAX>(heap.core(), chunks[1]), !seen);
        flip(damaged);
    }
}

/// Without canaries the bytes behind a chunk say nothing, while its header does.
#[test]
fn a_first_look_goes_without_canaries_where_there_are_none() {
    let heap = heap(Options { canary: false, ..Options::STRICT });
    let (chunks, _) = three(&heap);
    let looks = || in_order::<Mixture<Native>, SMALL_MAX>(heap.core(), chunks[1]);
    assert!(looks());
    for (damaged, intact) in [(chunks[2] + SIZE, true), (chunks[2] - 1, false), (chunks[0] - 1, false)] {
        flip(damaged);
        assert_eq!(looks(), intact);
        flip(damaged);
    }
}

/// The place of its canaries is for the slow path to find.
#[test]
fn a_first_look_leaves_over_aligned_neighbours_alone() {
    let heap = heap(Options::STRICT);
    // 100 bytes at a multiple of 64 take a slot of up to 148.
    let aligned = Layout::from_size_align(100, 64).expect("a layout");
    let slot = |chunk: usize| {
        let region = heap.core().arena.own_region(chunk);
        let first = region.chunk(SlotIndex(0), region.own_class().stride());
        chunk - (chunk - first) % region.own_class().stride()
    };
    let before = heap.allocate(aligned).expect("memory").as_ptr().expose_provenance();
    let region = heap.core().arena.own_region(before);
    let layout = Layout::array::<u8>(region.own_class().capacity()).expect("a layout");
    let chunk = heap.allocate(layout).expect("memory").as_ptr().expose_provenance();
    assert_eq!(slot(before) + region.own_class().stride(), chunk, "they are neighbours");
    assert!(!in_order::<StrictProfile, SMALL_MAX>(heap.core(), chunk));
    free_of(&heap, before, aligned);
    assert!(in_order::<StrictProfile, SMALL_MAX>(heap.core(), chunk));
    heap.allocate(aligned).expect("memory");
    assert!(!in_order::<StrictProfile, SMALL_MAX>(heap.core(), chunk), "the one behind");
    free_of(&heap, chunk, layout);
}

/// The chunk keeps its own slab from being released, but no other: a live slot there may be gone at the next instruction.
#[test]
fn a_first_look_stays_within_the_slab() {
    const SLOTS: usize = 16;
    let heap = heap(Options { guard_pages: false, ..Options::STRICT });
    let layout = Layout::new::<[u8; 5000]>();
    let chunks = chunks::<{ 3 * SLOTS }>(&heap, layout);
    let looks = |number: usize| in_order::<StrictProfile, SMALL_MAX>(heap.core(), chunks[number]);
    for number in 0..chunks.len() {
        assert_eq!(looks(number), ![15, 16, 31, 32].contains(&number), "slot {number}");
    }
    free_of(&heap, chunks[16], layout);
    assert!(looks(15), "the slot behind is free, and its header lies beside the chunk");
    free_of(&heap, chunks[31], layout);
    assert!(looks(32), "the slot in front is free");
}

/// What is damaged in a neighbour is found across the edge of a slab, too.
#[test]
fn damage_to_a_neighbour_in_another_slab_is_found_at_free() {
    let layout = Layout::new::<[u8; 5000]>();
    for (freed, neighbour) in [(15, 16), (16, 15)] {
        let heap = heap(Options { guard_pages: false, ..Options::STRICT });
        let chunks = chunks::<32>(&heap, layout);
        flip(chunks[neighbour] + layout.size());
        let chunk = NonNull::new(core::ptr::with_exposed_provenance_mut(chunks[freed])).expect("an address");
        // SAFETY: nobody uses the chunk any more.
        let found = unsafe { heap.deallocate(chunk, layout) }.expect_err("a damaged neighbour");
        assert_eq!((found.kind, found.address), (Kind::Overflow, chunks[neighbour]));
    }
}

#[test]
fn what_is_in_order_at_a_later_look_is_not_reported() {
    let suspicion = Violation::new(Kind::Overflow, Operation::Free, 16, "");
    for (wrong, reported) in [(0, false), (1, false), (LOOKS - 1, false), (LOOKS, true), (usize::MAX, true)] {
        let mut looks = 0;
        let outcome = look_again(|| {
            looks += 1;
            if looks > wrong { Ok(()) } else { Err(suspicion) }
        });
        assert_eq!(outcome, if reported { Err(suspicion) } else { Ok(()) });
        assert_eq!(looks, LOOKS.min(wrong.saturating_add(1)));
    }
}

/// The second look at the header behind a chunk comes after a first one that found it out of order.
#[test]
fn a_header_that_is_in_order_by_now_is_no_damage() {
    let heap = heap(Options::DEFAULT);
    let ([chunk, next, _], _) = three(&heap);
    let core = heap.core();
    let small = small(core, chunk);
    let look = || core.look_at_next_header(&small, Operation::Free);
    assert_eq!(look(), Ok(()));
    flip(next - 1);
    assert_eq!(look().map_err(|found| (found.kind, found.address)), Err((Kind::Overflow, chunk)));
    flip(next - 1);
    // A page that was never used, or given back, has zeroes for headers; one of a slot that is out has not.
    let header = checksum::read(next);
    checksum::write(next, crate::chunk::header::Header(0));
    assert_eq!(look().map_err(|found| found.kind), Err(Kind::Overflow));
    let slot = small.region.own_slot(next).state;
    slot.store(state::UNSEALED, Ordering::Relaxed);
    assert_eq!(look(), Ok(()));
    flip(next - 1);
    assert_eq!(look().map_err(|found| found.kind), Err(Kind::Overflow));
    checksum::write(next, header);
    slot.store(state::LIVE, Ordering::Relaxed);
}

/// The lowest byte is what an overflow changes first, and says so even where it is the audit that looks.
#[test]
fn the_audit_blames_the_chunk_in_front_for_the_lowest_byte_of_a_header() {
    let heap = heap(Options::DEFAULT);
    let layout = Layout::new::<[u8; 104]>();
    let [chunk, next] = chunks(&heap, layout);
    let expected = checksum::read(next).0;
    for (at, value, kind, address) in
        [(0, 0, Kind::Overflow, chunk), (0, b'A', Kind::Overflow, chunk), (7, 0x5a, Kind::CorruptHeader, next)]
    {
        let byte = core::ptr::with_exposed_provenance_mut::<u8>(next - 8 + at);
        // SAFETY: the attack: a byte of the header behind the chunk.
        let old = unsafe { byte.replace(value) };
        let found = heap.check().expect_err("a damaged header");
        assert_eq!((found.kind, found.address, found.seen), (kind, address, checksum::read(next).0), "byte {at}");
        assert!(kind != Kind::Overflow || found.offset == Some(104), "{found:?}");
        assert!(at != 7 || found.expected == expected, "{found:?}");
        // SAFETY: as it was.
        unsafe { byte.write(old) };
    }
}
