//! Which candidate is measured.

use core::ffi::CStr;

/// In which order free slots are handed out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Lowest address first.
    Ascending,
    /// Each slot is drawn on its own, from all open slabs.
    Random,
    /// Ascending batches of up to 64 slots, each batch cut into groups of so many neighbours, the groups shuffled.
    Groups(usize),
    /// Ascending; each slot is passed over with chance 1/8, and kept for later.
    Gaps,
    /// The same, word after word of 64 neighbouring slots, each ascending or descending.
    GapsUpOrDown,
    /// Runs of so many slots, each ascending, from a randomly chosen open slab.
    SlabRuns(usize),
    /// Words of 64 neighbouring slots from a random place in a random open slab, each ascending or descending.
    UpOrDown,
    /// Words from random places in random open slabs, their halves in random order, an eighth of the slots passed over.
    HalfWords,
    /// Runs of at most 8 from a random slot on, a quarter passed over.
    ShortRuns,
}

/// In which order freed slots come back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// At once, the last one first.
    AtOnce,
    /// First in, first out, from a ring of fixed length.
    Ring,
    /// The same from a ring whose length changes at every turn.
    Varying,
    /// A freed slot takes the place of a random one.
    Replacement,
    /// A ring of half the places, behind it random replacement in the other half.
    Both,
}

#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) order: Order,
    pub(crate) returns: Return,
}

impl Settings {
    /// From the environment. Ends the process when a word is not known: a typing error must not be measured.
    pub(crate) fn read() -> Self {
        let mut settings = Self { order: Order::Ascending, returns: Return::Ring };
        // SAFETY: a terminated name; the value is read before anybody changes the environment.
        let value = unsafe { libc::getenv(c"TESTUDO_PLACEMENT".as_ptr()) };
        if value.is_null() {
            return settings;
        }
        // SAFETY: a terminated string of the environment.
        let value = unsafe { CStr::from_ptr(value) };
        for part in value.to_bytes().split(|byte| *byte == b':') {
            match part {
                b"order=ascending" => settings.order = Order::Ascending,
                b"order=random" => settings.order = Order::Random,
                b"order=shuffle" => settings.order = Order::Groups(1),
                b"order=groups-2" => settings.order = Order::Groups(2),
                b"order=groups-4" => settings.order = Order::Groups(4),
                b"order=groups-8" => settings.order = Order::Groups(8),
                b"order=gaps" => settings.order = Order::Gaps,
                b"order=gaps-up-or-down" => settings.order = Order::GapsUpOrDown,
                b"order=slab-8" => settings.order = Order::SlabRuns(8),
                b"order=slab-32" => settings.order = Order::SlabRuns(32),
                b"order=up-or-down" => settings.order = Order::UpOrDown,
                b"order=half-words" => settings.order = Order::HalfWords,
                b"order=short-runs" => settings.order = Order::ShortRuns,
                b"quarantine=none" => settings.returns = Return::AtOnce,
                b"quarantine=ring" => settings.returns = Return::Ring,
                b"quarantine=varying" => settings.returns = Return::Varying,
                b"quarantine=replacement" => settings.returns = Return::Replacement,
                b"quarantine=both" => settings.returns = Return::Both,
                _ => refuse(),
            }
        }
        settings
    }

    /// How many slabs are open at a time when so many are in use: as in the product, but one where order is all.
    pub(crate) fn open_slabs(&self, in_use: usize) -> usize {
        match self.order {
            Order::Ascending | Order::Groups(_) | Order::Gaps | Order::GapsUpOrDown => 1,
            _ => (1 + in_use / 16).min(8),
        }
    }
}

pub(crate) fn refuse() -> ! {
    crate::os::process::write_all(2, b"testudo-placement: TESTUDO_PLACEMENT has a word that is not known\n");
    crate::os::process::exit_now(2)
}
