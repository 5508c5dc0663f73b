//! Which of a model's threads forks.

use loom::thread::{ThreadId, current};
use std::sync::Mutex;

static FORKER: Mutex<Option<ThreadId>> = Mutex::new(None);

pub(crate) fn set_this_thread() {
    *FORKER.lock().expect("nobody panics with it") = Some(current().id());
}

pub(crate) fn forget() {
    *FORKER.lock().expect("nobody panics with it") = None;
}

pub(crate) fn is_this_thread() -> bool {
    *FORKER.lock().expect("nobody panics with it") == Some(current().id())
}
