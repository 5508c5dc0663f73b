//! Many threads keep less for later each, and less still in a container with little memory or few processors. Tried in real control
//! groups; where none can be made, the tests that need one say so and pass.

#[path = "support/control_group.rs"]
mod control_group;
#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

use control_group::ControlGroup;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Threads may hold back twice as much as by default.
const WANTS_MORE: &str = ":quarantine_kb=1024";

/// What `control_group.c` printed, in bytes.
#[derive(Debug)]
struct Kept {
    /// Held back from reuse while its threads lived.
    held: u64,
    /// That and what lay ready in their caches.
    during: u64,
    /// The same after they had ended.
    after: u64,
}

fn kept(threads: u64, options: &str, group: Option<&ControlGroup>) -> Kept {
    let folder = real::folder();
    let program = support::compile::program(&["control_group.c"]);
    // Guarded chunks are in no cache.
    let options = format!("profile=default:sample_rate=0{options}");
    let mut command = real::command(&program, folder.path(), Some(&options));
    command.arg(threads.to_string());
    if let Some(group) = group {
        group.enclose(&mut command);
    }
    let ended = real::to_the_end(&mut command);
    assert!(ended.status.success(), "{ended:?}");
    let numbers: Vec<u64> = ended.out().split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [held, during, after] = numbers[..] else { panic!("{ended:?}") };
    Kept { held, during, after }
}

#[test]
fn the_ninth_thread_and_later_ones_hold_back_less() {
    let (few, many) = (kept(8, "", None), kept(32, "", None));
    assert!(few.held > 8 * 400 * KIB, "{few:?}");
    let later = many.held.saturating_sub(few.held) / 24;
    assert!((130 * KIB..330 * KIB).contains(&later), "{few:?} {many:?}");
}

/// 96 threads keep 62 MiB without a limit: too much for 64 MiB.
#[test]
fn many_threads_keep_less_each_in_a_small_container() {
    let Some(group) = ControlGroup::with_memory(64) else {
        return real::say_skipped("no control group can be made");
    };
    let (without, with) = (kept(96, WANTS_MORE, None), kept(96, WANTS_MORE, Some(&group)));
    assert!(without.held > 28 * MIB && without.during > 58 * MIB, "{without:?}");
    assert!(with.held < 20 * MIB && with.during < 44 * MIB, "{with:?}");
    // But not next to nothing.
    assert!(with.held > 8 * MIB, "{with:?}");
}

#[test]
fn few_threads_keep_as_much_in_a_small_container_as_anywhere() {
    let Some(group) = ControlGroup::with_memory(64) else {
        return real::say_skipped("no control group can be made");
    };
    let (without, with) = (kept(4, "", None), kept(4, "", Some(&group)));
    assert!(with.held > without.held / 8 * 7 && without.held > 4 * 400 * KIB, "{with:?} {without:?}");
}

/// The caches of two ended threads are kept, not of eight.
#[test]
fn few_processors_keep_few_caches_of_ended_threads() {
    const THREADS: u64 = 16;
    let Some(group) = ControlGroup::with_processors(1) else {
        return real::say_skipped("no control group can be made");
    };
    let with = kept(THREADS, "", Some(&group));
    assert!(with.after > 0 && with.after < with.during / THREADS * 4, "{with:?}");
}
