//! What a test has the system do to the calling thread, or another thread do in a known moment of it: so that a path which
//! otherwise takes a system without memory, or a race, is walked every time.

use core::ops::Range;
use std::cell::{Cell, RefCell};

/// System calls that can be refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// `mmap`.
    Map,
    /// `mprotect`.
    Protect,
    /// `madvise`.
    Advise,
    /// `mremap`.
    Move,
}

/// All calls from now on.
pub(crate) const ALL: i64 = -1;

/// Which of the next calls of one kind are refused: the lowest bit is the next one's. And how many were.
#[derive(Clone, Copy)]
struct Plan {
    next: i64,
    refused: u32,
}

thread_local! {
    static PLANS: [Cell<Plan>; 4] = const { [const { Cell::new(Plan { next: 0, refused: 0 }) }; 4] };
    static LONGEST: Cell<usize> = const { Cell::new(usize::MAX) };
    static HELD: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
    static OTHER_THREAD: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Whether this call is to be refused.
pub(crate) fn is_refused(call: Call) -> bool {
    PLANS.with(|plans| {
        let plan = &plans[call as usize];
        let Plan { next, refused } = plan.get();
        let is_refused = next & 1 != 0;
        plan.set(Plan { next: next >> 1, refused: refused + u32::from(is_refused) });
        is_refused
    })
}

/// Whether a mapping of so many bytes is to be refused.
pub(crate) fn is_too_long(bytes: usize) -> bool {
    bytes > LONGEST.get()
}

/// Runs `act`, in which the system refuses calls to this thread: of each kind those whose bit is set, the lowest for the next call.
///
/// # Panics
/// When one of these calls was not made.
pub(crate) fn refusing<T>(calls: &[(Call, i64)], act: impl FnOnce() -> T) -> T {
    let set = |next| move |&(call, _): &(Call, i64)| PLANS.with(|plans| plans[call as usize].replace(next));
    for &(call, next) in calls {
        set(Plan { next, refused: 0 })(&(call, next));
    }
    let outcome = act();
    for planned in calls {
        let Plan { refused, .. } = set(Plan { next: 0, refused: 0 })(planned);
        let (call, next) = *planned;
        let expected = if next == ALL { refused.max(1) } else { next.count_ones() };
        assert_eq!(refused, expected, "{call:?} was called less often");
    }
    outcome
}

/// Runs `act`, in which the system refuses this thread mappings of more than so many bytes, as a limit on address space does.
pub(crate) fn with_mappings_up_to<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    LONGEST.set(bytes);
    let outcome = act();
    LONGEST.set(usize::MAX);
    outcome
}

/// Notes that this thread was given a range of address space.
pub(crate) fn note_reserved(range: Range<usize>) {
    HELD.with(|held| held.borrow_mut().push(range));
}

/// Notes that this thread gave a range back: what remains of those that it was given lies beside it.
pub(crate) fn note_unmapped(gone: &Range<usize>) {
    HELD.with(|held| {
        let mut held = held.borrow_mut();
        let before = std::mem::take(&mut *held);
        let beside =
            |range: Range<usize>| [range.start..range.end.min(gone.start), range.start.max(gone.end)..range.end];
        held.extend(before.into_iter().flat_map(beside).filter(|range| !range.is_empty()));
    });
}

/// Runs `act`, and tells which address space this thread reserved in it and did not give back: to the byte, which a look at the
/// process's mappings cannot be while other tests run.
pub(crate) fn held_after(act: impl FnOnce()) -> Vec<Range<usize>> {
    let before = HELD.take();
    act();
    HELD.replace(before)
}

/// What another thread does when this one next gives the processor away because it waits for that.
pub(crate) fn when_waiting(act: impl FnOnce() + 'static) {
    OTHER_THREAD.with(|other| *other.borrow_mut() = Some(Box::new(act)));
}

/// Whether what was to happen while this thread waits is still to come.
pub(crate) fn has_not_waited() -> bool {
    OTHER_THREAD.with(|other| other.borrow().is_some())
}

/// This thread gives the processor away.
pub(crate) fn waiting() {
    if let Some(act) = OTHER_THREAD.with(|other| other.borrow_mut().take()) {
        act();
    }
}
