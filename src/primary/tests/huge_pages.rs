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

/// What the kernel was told about the mapping of each slot, without repetitions: `hg` for huge pages, `nh` against them.
fn advice(out: &[OwnedSlot]) -> Vec<&'static str> {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("a list of mappings");
    let mut found = Vec::new();
    let mut of_ours = false;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let addresses =
            first.split_once('-').map(|(start, end)| [start, end].map(|part| usize::from_str_radix(part, 16)));
        if let Some([Ok(start), Ok(end)]) = addresses {
            of_ours = out.iter().any(|slot| (start..end).contains(&slot.chunk));
        } else if of_ours && first == "VmFlags:" {
            found.extend(words.filter_map(|flag| ["hg", "nh"].into_iter().find(|advice| *advice == flag)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn classes_of_16_mib_or_more_have_huge_pages_until_memory_goes_back() {
    if !Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    for size in [16, 1000] {
        let mut slots = Slots::in_arena_of(1 << 40, Options::DEFAULT, size);
        let mut out = take_bytes(&mut slots, 15 * MIB);
        assert_eq!(advice(&out), ["nh"], "{size}");
        out.extend(take_bytes(&mut slots, 10 * MIB));
        assert_eq!(advice(&out), ["hg", "nh"], "{size}");
        let (live, freed) = out.split_at(out.len() / 2);
        slots.give_back(freed).expect("they are owned");
        slots.purge();
        assert_eq!(advice(&out), ["nh"], "{size}");
        // A class that grows again is asked for again.
        let mut more = take_bytes(&mut slots, 64 * MIB);
        assert_eq!(advice(&more), ["hg", "nh"], "{size}");
        more.extend(live);
        slots.assert_accounts(more.len());
    }
}

/// A program may touch a part of a long chunk only.
#[test]
fn long_slots_have_no_huge_pages() {
    let mut slots = Slots::in_arena_of(1 << 40, Options::DEFAULT, 2000);
    let out = take_bytes(&mut slots, 64 * MIB);
    assert_eq!(advice(&out), ["nh"]);
}
