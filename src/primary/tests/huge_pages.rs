//! Which slots may be backed by huge pages, and until when.

use super::super::class::BATCH;
use super::super::region::OwnedSlot;
use super::Slots;
use crate::options::Options;
use std::path::Path;

const MIB: usize = 1 << 20;

fn take_bytes(slots: &mut Slots, bytes: usize) -> Vec<OwnedSlot> {
    let mut out = Vec::new();
    while out.len() * slots.stride() < bytes {
        out.extend(slots.take(BATCH).expect("memory"));
    }
    out
}

/// MiB of the mappings of these slots for which the kernel was asked for huge pages, and for which it was asked for none.
fn asked(out: &[OwnedSlot]) -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("a list of mappings");
    let mut chunks: Vec<usize> = out.iter().map(|slot| slot.chunk).collect();
    chunks.sort_unstable();
    let (mut huge, mut none, mut bytes) = (0, 0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let place = first.split_once('-').map(|(start, end)| [start, end].map(|part| usize::from_str_radix(part, 16)));
        if let Some([Ok(start), Ok(end)]) = place {
            let next = chunks.partition_point(|chunk| *chunk < start);
            bytes = if chunks.get(next).is_some_and(|chunk| *chunk < end) { end - start } else { 0 };
        } else if first == "VmFlags:" {
            let is = |advice| words.clone().any(|flag| flag == advice);
            huge += if is("hg") { bytes } else { 0 };
            none += if is("nh") { bytes } else { 0 };
        }
    }
    (huge / MIB, none / MIB)
}

#[test]
fn classes_of_16_mib_or_more_have_huge_pages_until_memory_goes_back() {
    if !Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    for size in [16, 1000] {
        let mut heaps = [(); 2].map(|()| Slots::in_arena_of(1 << 40, Options::DEFAULT, size));
        let mut out = heaps.each_mut().map(|slots| take_bytes(slots, 15 * MIB));
        assert!(out.iter().all(|out| asked(out).0 == 0), "{size}");
        for (slots, out) in heaps.iter_mut().zip(&mut out) {
            out.extend(take_bytes(slots, 10 * MIB));
            let (huge, none) = asked(out);
            assert!((8..=12).contains(&huge) && (14..=24).contains(&none), "{size}: {huge} and {none} MiB");
        }
        for heap in 0..2 {
            let half = out[heap].len() / 2;
            heaps[heap].give_back(&out[heap][half..]).expect("they are owned");
            heaps[heap].purge();
            assert_eq!(asked(&out[heap]).0, 0, "{size}");
            // What is advised of one class concerns no other.
            assert_eq!(asked(&out[1]).0 > 0, heap == 0, "{size}");
            out[heap].truncate(half);
        }
        for (slots, out) in heaps.iter_mut().zip(&mut out) {
            // A class that grows again is asked for again.
            out.extend(take_bytes(slots, 64 * MIB));
            assert!(asked(out).0 >= 8, "{size}");
            slots.assert_accounts(out.len());
        }
    }
}

/// A program may touch a part of a long chunk only.
#[test]
fn long_slots_have_no_huge_pages() {
    let mut slots = Slots::in_arena_of(1 << 40, Options::DEFAULT, 2000);
    let out = take_bytes(&mut slots, 64 * MIB);
    assert_eq!(asked(&out).0, 0);
}
