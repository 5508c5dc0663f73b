//! Which of a model's threads forks. A model's threads take turns on one thread of the test's, and other tests run on others.

use loom::thread::{ThreadId, current};
use std::cell::Cell;

thread_local! {
    static FORKER: Cell<Option<ThreadId>> = const { Cell::new(None) };
}

pub(crate) fn set_this_thread() {
    FORKER.set(Some(current().id()));
}

pub(crate) fn forget() {
    FORKER.set(None);
}

pub(crate) fn is_this_thread() -> bool {
    FORKER.get() == Some(current().id())
}
