//! Names in `/proc/PID/maps`, as the kernel shows them. Needs a kernel with CONFIG_ANON_VMA_NAME, which Debian's do not have
//! (docs/tested-kernels.md); elsewhere these tests say that they are skipped.

use std::collections::BTreeSet;
use std::process::Command;

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

/// Whether the kernel shows a name that is given to a mapping.
fn kernel_keeps_names() -> bool {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    const PAGE: usize = 4096;
    // SAFETY: a fresh mapping, which nobody else knows of and which is given back whole.
    let kept = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        let kept = libc::prctl(PR_SET_VMA, 0, page, PAGE, c"a name".as_ptr()) == 0;
        libc::munmap(page, PAGE);
        kept
    };
    if !kept {
        real::say_skipped("this kernel keeps no names of mappings");
    }
    kept
}

/// A line of the maps.
#[derive(Debug)]
struct Mapping {
    start: usize,
    end: usize,
    name: String,
}

/// The mappings of a program that has allocated and freed, and of a child of it that did so too.
fn mappings(profile: &str, names: bool) -> [Vec<Mapping>; 2] {
    let folder = real::folder();
    let program = real::compile("c/named_mappings.c", folder.path(), "program", &[]);
    let mut command = Command::new(program);
    // Nothing that goes by the clock, so that two runs differ in nothing but the names.
    let options = format!("profile={profile}:seed=7:ration_large=0:release_interval_ms=-1");
    command.env("TESTUDO_OPTIONS", options).arg(support::libtestudo());
    if !names {
        command.arg("refused");
    }
    let ended = real::to_the_end(&mut command);
    assert!(ended.status.success() && ended.err().is_empty(), "{profile}: {ended:?}");
    let out = ended.out();
    let (parent, child) = out.split_once("in a child:\n").expect("both");
    [parent, child].map(|maps| {
        let mapping = |line: &str| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            Some(Mapping {
                start: address(start)?,
                end: address(end)?,
                name: words.skip(4).collect::<Vec<_>>().join(" "),
            })
        };
        maps.lines().map(|line| mapping(line).unwrap_or_else(|| panic!("{line}"))).collect()
    })
}

const PROFILES: [&str; 4] = ["default", "strict", "fast", "fuzz"];

/// In one piece, from its first page to its last, and still so after all that the heap has done with its parts.
#[test]
fn the_maps_name_the_whole_address_space_of_slots_and_of_tables() {
    if !kernel_keeps_names() {
        return;
    }
    for profile in PROFILES {
        for maps in mappings(profile, true) {
            let names: BTreeSet<&str> =
                maps.iter().map(|mapping| mapping.name.as_str()).filter(|name| name.contains("testudo:")).collect();
            assert_eq!(names, BTreeSet::from(["[anon:testudo:slots]", "[anon:testudo:tables]"]), "{profile}");
            for name in names {
                let mut parts = maps.iter().filter(|mapping| mapping.name == name);
                let first = parts.next().expect("named");
                let end = parts.fold(first.end, |end, part| {
                    assert_eq!(end, part.start, "{profile}: {name} has a hole: {maps:#?}");
                    part.end
                });
                let bytes = end - first.start;
                assert!(name != "[anon:testudo:slots]" || bytes.is_power_of_two(), "{profile}: {bytes} bytes");
            }
        }
    }
}

/// Mappings of different names do not become one: were a part of a reservation named apart, or replaced by one without a name,
/// there would be more mappings than without names.
#[test]
fn names_cost_no_mappings() {
    if !kernel_keeps_names() {
        return;
    }
    for profile in PROFILES {
        let [named, unnamed] = [true, false].map(|names| mappings(profile, names));
        assert!(unnamed.iter().flatten().all(|mapping| !mapping.name.contains("testudo:")), "{profile}: {unnamed:#?}");
        for (with, without) in named.iter().zip(&unnamed) {
            // A reservation may happen to begin where another mapping ends, which only a name keeps apart from it.
            assert!(with.len() <= without.len() + 4, "{profile}: {} and {}", with.len(), without.len());
            assert!(with.len() >= 20, "{profile}: {with:#?}");
        }
    }
}
