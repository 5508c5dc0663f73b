//! Options: one table from which the parser, `help=1`, the command and the documentation are made.

mod parse;
mod path;

pub use parse::{OptionError, parse};
pub use path::FilePath;

/// How an option is read, shown and limited.
///
/// ```
/// use testudo::options::{Kind, TABLE};
///
/// let switches = TABLE.iter().filter(|row| matches!(row.kind, Kind::Switch { .. })).count();
/// assert!(switches > 5);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `0` or `1`.
    Switch {
        /// Reads it.
        get: fn(&Options) -> bool,
        /// Sets it.
        set: fn(&mut Options, bool),
    },
    /// A whole number.
    Number {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
        /// Reads it.
        get: fn(&Options) -> i64,
        /// Sets it.
        set: fn(&mut Options, i64),
    },
    /// An absolute file name.
    Path {
        /// Reads it.
        get: fn(&Options) -> FilePath,
        /// Sets it.
        set: fn(&mut Options, FilePath),
    },
    /// The name of a profile; sets every option, so it goes first.
    Profile,
}

/// One row of the table.
///
/// ```
/// use testudo::options::TABLE;
///
/// for row in TABLE {
///     println!("{}: {}", row.name, row.help);
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Specification {
    /// The key in `TESTUDO_OPTIONS`.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
}

/// A set of protections that belong together.
///
/// ```
/// use testudo::Profile;
///
/// assert!(Profile::ALL.iter().any(|(name, profile)| *name == "strict" && *profile == Profile::Strict));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// Everything that costs little: for production.
    Default,
    /// Everything: both neighbours at free, audit at exit, races caught at once.
    Strict,
    /// Header, geometry, guard pages and randomisation; no zeroing, smallest quarantine.
    Fast,
    /// Every allocation guarded, as far as there are slots: for fuzzing.
    Fuzz,
}

impl Profile {
    /// All profiles, with their names.
    pub const ALL: [(&'static str, Self); 4] =
        [("default", Self::Default), ("strict", Self::Strict), ("fast", Self::Fast), ("fuzz", Self::Fuzz)];

    /// The options of this profile.
    ///
    /// ```
    /// use testudo::{Options, Profile};
    ///
    /// assert_eq!(Profile::Fast.options(), Options::FAST);
    /// ```
    pub const fn options(self) -> Options {
        match self {
            Self::Default => Options::DEFAULT,
            Self::Strict => Options::STRICT,
            Self::Fast => Options::FAST,
            Self::Fuzz => Options::FUZZ,
        }
    }
}

/// What a heap protects, and how much memory it may use for that.
///
/// ```
/// use testudo::{Options, Profile};
///
/// // As strict as can be, and never more than 64 MiB.
/// let options = Options { heap_limit_mb: 64, ..Profile::Strict.options() };
/// assert!(options.neighbours);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Fill slack with canaries and check them at free.
    pub canary: bool,
    /// Zero small chunks when they are freed, and large ones before their memory is handed out again.
    pub zero_on_free: bool,
    /// Check that a slot is still zero when it is reused. Needs `zero_on_free`.
    pub write_after_free: bool,
    /// Check both neighbours of a chunk when it is freed.
    pub neighbours: bool,
    /// Make the state change at free atomic, so that racing double frees are caught at once.
    pub atomic_free: bool,
    /// Check that chunks are given back the way they were allocated.
    pub mismatch: bool,
    /// Check every chunk at exit.
    pub check_at_exit: bool,
    /// Choose slots at random.
    pub randomize: bool,
    /// Neighbouring slots that are handed out in order before others follow, at most; 64 is no bound.
    pub run_slots: u8,
    /// Put guard pages between runs of slabs.
    pub guard_pages: bool,
    /// KiB of small chunks that each thread holds back; where there are more than eight threads, the later ones hold back less, down to a quarter.
    pub quarantine_kb: u32,
    /// MiB of freed large chunks whose addresses stay inaccessible.
    pub large_quarantine_mb: u32,
    /// In hot loops over chunks below 2 MiB, keep some freed ones accessible.
    pub ration_large: bool,
    /// Milliseconds until free memory goes back to the system; 0 at once, -1 never.
    pub release_interval_ms: i32,
    /// MiB that the whole heap may use; 0 is no limit.
    pub heap_limit_mb: u32,
    /// MiB that one allocation may have; 0 is no limit.
    pub max_alloc_mb: u32,
    /// One allocation in so many gets a guarded slot; 0 is none.
    pub sample_rate: u32,
    /// Guarded slots that there may be.
    pub guarded_slots: u32,
    /// Least alignment of guarded chunks for which none was asked: 1, 2, 4, 8 or 16 (others are rounded up).
    pub guarded_align: u8,
    /// At exit, list guarded chunks that are still live, by the calls that allocated them.
    pub leak_report: bool,
    /// Fill new chunks with 0xaa instead of zeroes.
    pub fill_pattern: bool,
    /// Seed of all randomness, for reproducible runs; 0 takes it from the kernel.
    pub seed: u64,
    /// A chunk is recorded in the heap profile every so many KiB that are allocated, on average; 0 is no profile.
    pub heap_profile_kb: u32,
    /// File that heap profiles are written to.
    pub heap_profile_path: FilePath,
    /// Write the heap profile of the process-wide heap at exit.
    pub heap_profile_at_exit: bool,
    /// Number of the signal that has the heap profile of the process-wide heap written; 0 is none.
    pub heap_profile_signal: u8,
    /// Leave the flag `RTLD_DEEPBIND` to modules that are opened with it: they use the C library's `malloc`. For the preloaded library.
    pub deepbind: bool,
    /// File that reports of the process-wide heap are appended to as JSON lines, besides standard error.
    pub report_path: FilePath,
}

impl Options {
    /// The value of `run_slots` with which slots are taken in order, a word of the slab's bitmap after the other.
    pub(crate) const RUNS_UNBOUNDED: u8 = 64;

    /// The options of profile `default`.
    pub const DEFAULT: Self = Self {
        canary: true,
        zero_on_free: true,
        write_after_free: true,
        neighbours: false,
        atomic_free: false,
        mismatch: true,
        check_at_exit: false,
        randomize: true,
        run_slots: Self::RUNS_UNBOUNDED,
        guard_pages: true,
        quarantine_kb: 512,
        large_quarantine_mb: 64,
        ration_large: true,
        release_interval_ms: 1000,
        heap_limit_mb: 0,
        max_alloc_mb: 0,
        // Each sample costs some 50 to 100 microseconds where threads run: two changes of page protection stop all of them for a
        // moment. One in 5,000 took a quarter of the time of a server simulation.
        sample_rate: 50_000,
        guarded_slots: 64,
        guarded_align: 16,
        leak_report: false,
        fill_pattern: false,
        seed: 0,
        heap_profile_kb: 0,
        heap_profile_path: FilePath::NONE,
        heap_profile_at_exit: false,
        heap_profile_signal: 0,
        deepbind: false,
        report_path: FilePath::NONE,
    };

    /// The options of profile `strict`.
    pub const STRICT: Self = Self {
        sample_rate: 5000,
        neighbours: true,
        atomic_free: true,
        check_at_exit: true,
        run_slots: 8,
        quarantine_kb: 1024,
        large_quarantine_mb: 256,
        ration_large: false,
        ..Self::DEFAULT
    };

    /// The options of profile `fast`.
    pub const FAST: Self =
        Self { canary: false, zero_on_free: false, write_after_free: false, quarantine_kb: 64, ..Self::DEFAULT };

    /// The options of profile `fuzz`.
    pub const FUZZ: Self =
        Self { sample_rate: 1, guarded_slots: 4096, guarded_align: 4, fill_pattern: true, ..Self::STRICT };

    /// Whether new chunks are zero.
    pub(crate) const fn hands_out_zeroes(&self) -> bool {
        self.zero_on_free && !self.fill_pattern
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

macro_rules! switch {
    ($field:ident, $help:literal) => {
        Specification {
            name: stringify!($field),
            help: $help,
            kind: Kind::Switch { get: |options| options.$field, set: |options, value| options.$field = value },
        }
    };
}

macro_rules! number {
    ($field:ident, $type:ty, $min:literal..=$max:literal, $help:literal) => {
        Specification {
            name: stringify!($field),
            help: $help,
            kind: Kind::Number {
                min: $min,
                max: $max,
                get: |options| options.$field as i64,
                set: |options, value| options.$field = value as $type,
            },
        }
    };
}

/// Every option there is.
///
/// ```
/// use testudo::options::{Kind, Options, TABLE};
///
/// let row = TABLE.iter().find(|row| row.name == "quarantine_kb").unwrap();
/// let Kind::Number { min, max, get, .. } = row.kind else { unreachable!() };
/// assert!((min..=max).contains(&get(&Options::DEFAULT)));
/// ```
pub static TABLE: &[Specification] = &[
    Specification {
        name: "profile",
        help: "set of protections to start from: default, strict, fast or fuzz; goes first",
        kind: Kind::Profile,
    },
    switch!(canary, "fill slack with canaries and check them at free"),
    switch!(zero_on_free, "zero small chunks when they are freed, large ones before their memory is used again"),
    switch!(write_after_free, "check that a freed slot is still zero when it is reused (needs zero_on_free)"),
    switch!(neighbours, "check both neighbours of a chunk when it is freed"),
    switch!(atomic_free, "catch double frees by racing threads at once, not at reuse"),
    switch!(mismatch, "check that chunks are given back the way they were allocated"),
    switch!(check_at_exit, "check every chunk when the program exits"),
    switch!(randomize, "choose slots at random"),
    number!(
        run_slots,
        u8,
        1..=64,
        "neighbouring slots that are handed out in order before others follow, at most; 64 is no bound"
    ),
    switch!(guard_pages, "put guard pages between runs of slabs"),
    number!(
        quarantine_kb,
        u32,
        0..=1_048_576,
        "KiB of freed small chunks that each thread holds back; less from the ninth thread on"
    ),
    number!(large_quarantine_mb, u32, 0..=1_048_576, "MiB of freed large chunks whose addresses stay inaccessible"),
    switch!(ration_large, "in hot loops over 256 KiB to 2 MiB, keep some freed chunks accessible"),
    number!(
        release_interval_ms,
        i32,
        -1..=3_600_000,
        "milliseconds until free memory goes back to the system; 0 at once, -1 never"
    ),
    number!(heap_limit_mb, u32, 0..=67_108_864, "MiB that the whole heap may use; 0 is no limit"),
    number!(max_alloc_mb, u32, 0..=67_108_864, "MiB that one allocation may have; 0 is no limit"),
    number!(sample_rate, u32, 0..=1_000_000_000, "one allocation in so many gets pages of its own, guarded; 0 is none"),
    number!(guarded_slots, u32, 0..=8192, "guarded chunks that there may be at a time"),
    number!(
        guarded_align,
        u8,
        1..=16,
        "least alignment of guarded chunks from malloc: 1, 2, 4, 8 or 16; those of 16 bytes and more from new have 16 but for 1"
    ),
    switch!(leak_report, "at exit, list guarded chunks that are still live, by the calls that allocated them"),
    switch!(fill_pattern, "fill new chunks with 0xaa instead of zeroes"),
    number!(
        seed,
        u64,
        0..=9_223_372_036_854_775_807,
        "seed of all randomness, for reproducible runs; any number but 0 makes every secret known"
    ),
    number!(
        heap_profile_kb,
        u32,
        0..=1_048_576,
        "record a chunk in the heap profile every so many KiB that are allocated, on average; 0 is no profile"
    ),
    Specification {
        name: "heap_profile_path",
        help: "file that heap profiles are written to; %p is the process number, %n counts the profiles; no colon in it",
        kind: Kind::Path {
            get: |options| options.heap_profile_path,
            set: |options, value| options.heap_profile_path = value,
        },
    },
    switch!(heap_profile_at_exit, "write the heap profile when the program exits"),
    number!(heap_profile_signal, u8, 0..=64, "signal that has the heap profile written, by its number; 0 is none"),
    switch!(deepbind, "leave RTLD_DEEPBIND to modules: they have malloc of the C library then, unprotected"),
    Specification {
        name: "report_path",
        help: "file that reports are appended to as JSON lines, besides standard error; %p is the process number; no colon in it",
        kind: Kind::Path { get: |options| options.report_path, set: |options, value| options.report_path = value },
    },
];

/// The table as `help=1` prints it, with the values of some options as the defaults.
///
/// ```
/// use testudo::options::{Help, Options};
///
/// assert!(Help(&Options::STRICT).to_string().contains("quarantine_kb="));
/// ```
pub struct Help<'a>(pub &'a Options);

impl core::fmt::Display for Help<'_> {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(out, "TESTUDO_OPTIONS=\"key=value:key=value\"\n")?;
        for row in TABLE {
            match row.kind {
                Kind::Switch { get, .. } => {
                    writeln!(out, "{}=0|1 (default {})\n    {}", row.name, u8::from(get(self.0)), row.help)?;
                }
                Kind::Number { min, max, get, .. } => {
                    writeln!(out, "{}={min}..{max} (default {})\n    {}", row.name, get(self.0), row.help)?;
                }
                Kind::Path { .. } => writeln!(out, "{}=/absolute/file (default none)\n    {}", row.name, row.help)?,
                Kind::Profile => {
                    writeln!(out, "{}=default|strict|fast|fuzz (default default)\n    {}", row.name, row.help)?
                }
            }
        }
        writeln!(out, "help=1\n    print this and exit")
    }
}

#[cfg(test)]
mod tests {
    use super::{FilePath, Kind, Options, Profile, TABLE};

    #[test]
    fn every_option_reads_back_what_was_set() {
        for row in TABLE {
            let mut options = Options::DEFAULT;
            match row.kind {
                Kind::Switch { get, set } => {
                    for value in [true, false] {
                        set(&mut options, value);
                        assert_eq!(get(&options), value, "{}", row.name);
                    }
                }
                Kind::Number { min, max, get, set } => {
                    for value in [min, max] {
                        set(&mut options, value);
                        assert_eq!(get(&options), value, "{}", row.name);
                    }
                }
                Kind::Path { get, set } => {
                    let path = FilePath::new(b"/a/file").expect("absolute");
                    set(&mut options, path);
                    assert_eq!(get(&options), path, "{}", row.name);
                }
                Kind::Profile => {}
            }
        }
    }

    /// Every option that a profile sets, with what it is there and in `default`; all others are the same.
    #[test]
    fn profiles_differ_in_these_options_only() {
        let value = |options: &Options, row: &super::Specification| match row.kind {
            Kind::Switch { get, .. } => i64::from(get(options)),
            Kind::Number { get, .. } => get(options),
            Kind::Path { get, .. } => i64::from(!get(options).is_none()),
            Kind::Profile => 0,
        };
        let differences = |options: &Options| -> Vec<(&str, i64, i64)> {
            let both =
                |row: &'static super::Specification| (row.name, value(options, row), value(&Options::DEFAULT, row));
            TABLE.iter().map(both).filter(|(_, here, default)| here != default).collect()
        };
        let sorted = |options: &Options| {
            let mut all = differences(options);
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(&Options::DEFAULT), []);
        assert_eq!(
            sorted(&Options::STRICT),
            [
                ("atomic_free", 1, 0),
                ("check_at_exit", 1, 0),
                ("large_quarantine_mb", 256, 64),
                ("neighbours", 1, 0),
                ("quarantine_kb", 1024, 512),
                ("ration_large", 0, 1),
                ("run_slots", 8, 64),
                ("sample_rate", 5000, 50_000),
            ]
        );
        assert_eq!(
            sorted(&Options::FAST),
            [("canary", 0, 1), ("quarantine_kb", 64, 512), ("write_after_free", 0, 1), ("zero_on_free", 0, 1)]
        );
        let mut fuzz = sorted(&Options::FUZZ);
        fuzz.retain(|difference| !sorted(&Options::STRICT).contains(difference));
        assert_eq!(
            fuzz,
            [("fill_pattern", 1, 0), ("guarded_align", 4, 16), ("guarded_slots", 4096, 64), ("sample_rate", 1, 50_000)]
        );
    }

    #[test]
    fn new_chunks_are_zero_where_freed_ones_are_zeroed_and_no_pattern_is_asked_for() {
        assert!(Options::DEFAULT.hands_out_zeroes() && Options::STRICT.hands_out_zeroes());
        assert!(!Options::FAST.hands_out_zeroes() && !Options::FUZZ.hands_out_zeroes());
    }

    #[test]
    fn help_shows_every_option_with_its_range_its_default_and_what_it_does() {
        let help = super::Help(&Options::STRICT).to_string();
        for row in TABLE {
            assert!(help.contains(&format!("\n{}=", row.name)) && help.contains(row.help), "{}", row.name);
        }
        assert!(help.contains("\nquarantine_kb=0..1048576 (default 1024)\n"), "{help}");
        assert!(help.ends_with("help=1\n    print this and exit\n"), "{help}");
    }

    #[test]
    fn strict_protects_at_least_what_default_does() {
        let strict = Profile::Strict.options();
        for row in TABLE {
            if let Kind::Switch { get, .. } = row.kind
                && !matches!(row.name, "ration_large" | "fill_pattern")
            {
                assert!(get(&strict) || !get(&Options::DEFAULT), "{}", row.name);
            }
        }
    }
}
