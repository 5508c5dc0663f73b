//! Every bug of the guarantee table in SECURITY.md, with its correct twin.

mod after_free;
mod contents;
mod free;
mod limits;
mod mismatch;
mod overflow;

use super::trial::Trial;
use hardened_heap::Options;

/// How a bug has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// By a report, or by a fault in the instruction that does the wrong.
    Stop,
    /// By such a fault, and nothing else.
    Fault,
    /// By running to its end: what is claimed, the attack looks at itself.
    Hold,
    /// As `Hold`, and what each process says must differ from what others say.
    Differ,
}

/// One bug.
#[derive(Debug)]
pub struct Attack {
    /// A word for it in JSON.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    pub must: Must,
    /// Whether a heap with these options promises it.
    pub promised: fn(&Options) -> bool,
    /// Options that go after the profile.
    pub options: &'static str,
    /// Commits it, or does the same without the bug.
    pub run: fn(Trial),
}

/// Attacks that belong to one row of the guarantee table.
#[derive(Debug)]
pub struct Group {
    pub title: &'static str,
    pub attacks: &'static [Attack],
}

/// All of them, in the order of the guarantee table.
pub static ALL: &[&Group] = &[
    &free::DOUBLE,
    &free::INVALID,
    &overflow::SMALL,
    &overflow::UNDERFLOW,
    &overflow::LARGE,
    &after_free::GROUP,
    &contents::UNINITIALISED,
    &contents::ZERO_SIZED,
    &mismatch::GROUP,
    &contents::FORGED,
    &limits::METADATA,
    &limits::PLACEMENT,
    &limits::ARITHMETIC,
    &limits::BOMB,
];

impl Attack {
    const fn new(name: &'static str, title: &'static str, must: Must, run: fn(Trial)) -> Self {
        Self { name, title, must, promised: |_| true, options: "", run }
    }

    const fn if_options(self, promised: fn(&Options) -> bool) -> Self {
        Self { promised, ..self }
    }

    const fn with(self, options: &'static str) -> Self {
        Self { options, ..self }
    }
}

/// The attack of that name.
pub fn named(name: &str) -> Option<&'static Attack> {
    ALL.iter().flat_map(|group| group.attacks).find(|attack| attack.name == name)
}

#[cfg(test)]
mod tests {
    use super::ALL;
    use std::collections::HashSet;

    #[test]
    fn every_attack_has_a_name_of_its_own() {
        let mut seen = HashSet::new();
        for attack in ALL.iter().flat_map(|group| group.attacks) {
            assert!(seen.insert(attack.name), "{}", attack.name);
            assert!(attack.name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-0123456789".contains(&byte)));
        }
    }
}
