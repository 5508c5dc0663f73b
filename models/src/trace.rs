//! The rules that walks up the stack share, as they are; and a model of how the number of a trace reaches who reports it.

#[allow(dead_code, reason = "the models use a part of it")]
#[path = "../../src/trace/rule.rs"]
pub(crate) mod rule;
#[allow(dead_code, reason = "the models use a part of it")]
#[path = "../../src/trace/rules.rs"]
pub(crate) mod rules;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use loom::thread;
use rule::{Base, Place, Rule};
use rules::{Rules, place_of};

fn rule(words: i32) -> Rule {
    Rule {
        base: Base::StackPointer,
        offset: words * 8,
        indirect: false,
        return_address: Place::AtFrame(-8),
        frame_pointer: Place::Same,
        signal: false,
    }
}

/// Two addresses whose rules share a place.
fn rivals() -> [usize; 2] {
    let place = |pc| place_of(pc).map(|(place, _)| place);
    let first = 0x40_0000;
    [first, (first + 1..).find(|&pc| place(pc) == place(first)).expect("more addresses than places")]
}

/// Rules of nothing. Made by another thread than the model's, whose stack is too small for them.
fn rules() -> Arc<Rules> {
    Arc::from_std(std::thread::spawn(|| std::sync::Arc::new(Rules::new())).join().expect("memory"))
}

/// While threads note the rules of two addresses in the same place, a third finds for each its own or none.
pub fn a_rule_is_that_of_its_address_or_none() {
    let addresses = rivals();
    loom::model(move || {
        let rules = rules();
        // Makes the atomic while there is one thread.
        rules.get(addresses[0]);
        let writers = [0, 1].map(|number| {
            let rules = rules.clone();
            thread::spawn(move || rules.put(addresses[number], &rule(number as i32 + 1)))
        });
        for (number, &address) in addresses.iter().enumerate() {
            assert!(
                rules.get(address).is_none_or(|found| found == rule(number as i32 + 1)),
                "a rule of another address"
            );
        }
        for writer in writers {
            writer.join().expect("the thread ends");
        }
    });
}

/// With address and rule in two words, a reader may find one of each.
pub fn in_two_words_rules_are_mixed_up() {
    loom::model(|| {
        let place = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let writers = [1, 2].map(|number| {
            let place = place.clone();
            thread::spawn(move || {
                place[1].store(number, Ordering::Release);
                place[0].store(number, Ordering::Release);
            })
        });
        let address = place[0].load(Ordering::Acquire);
        let rule = place[1].load(Ordering::Acquire);
        assert!(address == 0 || address == rule, "a rule of another address");
        for writer in writers {
            writer.join().expect("the thread ends");
        }
    });
}

/// Whoever asks for the addresses of the allocator's code gets both ends, whoever found them out.
pub fn the_allocators_code_is_found_whole() {
    loom::model(|| {
        let rules = rules();
        rules.own(|| 0..0);
        let other = rules.clone();
        let other = thread::spawn(move || other.own(|| 5..9));
        assert_eq!(rules.own(|| 5..9), 5..9);
        assert_eq!(other.join().expect("the thread ends"), 5..9);
    });
}

/// `trace::depot` and `guarded::table`: a trace of two frames is put into the depot, and its number into the entry of a slot; a thread
/// that faults there reads both.
struct Slot {
    frames: [AtomicUsize; 2],
    number: AtomicU32,
}

fn numbered(store: Ordering) {
    loom::model(move || {
        let slot = Arc::new(Slot { frames: [AtomicUsize::new(0), AtomicUsize::new(0)], number: AtomicU32::new(0) });
        let other = slot.clone();
        let other = thread::spawn(move || {
            for frame in &other.frames {
                frame.store(7, Ordering::Relaxed);
            }
            other.number.store(1, store);
        });
        if slot.number.load(Ordering::Acquire) != 0 {
            assert!(slot.frames.iter().all(|frame| frame.load(Ordering::Relaxed) == 7), "half a trace");
        }
        other.join().expect("the thread ends");
    });
}

/// Whoever sees a trace's number sees all of the trace.
pub fn a_numbered_trace_is_whole() {
    numbered(Ordering::Release);
}

/// Without the release it may be half a trace.
pub fn without_release_a_trace_may_be_half_there() {
    numbered(Ordering::Relaxed);
}
