//! Reading `key=value:key=value` without allocating.

use super::{FilePath, Kind, Options, Profile, Specification, TABLE};
use core::fmt;

/// Why the text was refused. Its `Display` is the one line that the user reads.
///
/// ```
/// use testudo::options::{Options, parse};
///
/// let error = parse(Options::DEFAULT, b"canary=2").unwrap_err();
/// assert_eq!(error.to_string(), "option \"canary=2\": must be 0 or 1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionError<'a> {
    key: &'a [u8],
    value: Option<&'a [u8]>,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    UnknownKey,
    UnknownBehindPath,
    NoValue,
    NotASwitch,
    NotANumber { min: i64, max: i64 },
    NotAPath,
    NotAProfile,
    ProfileNotFirst,
    NeedsZeroing,
    NeedsInterval,
    NeedsPath,
    NotASignal,
    NotAnAlignment,
}

/// At most so many bytes of what the user typed are shown again.
const SHOWN: usize = 60;

struct Typed<'a>(&'a [u8]);

impl fmt::Display for Typed<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for &byte in self.0.iter().take(SHOWN) {
            out.write_char(if byte.is_ascii_graphic() || byte == b' ' { byte as char } else { '?' })?;
        }
        if self.0.len() > SHOWN { out.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "option \"{}", Typed(self.key))?;
        if let Some(value) = self.value {
            write!(out, "={}", Typed(value))?;
        }
        match self.reason {
            Reason::UnknownKey => out.write_str("\": no such option; TESTUDO_OPTIONS=help=1 lists all"),
            Reason::UnknownBehindPath => out.write_str(
                "\": no such option; TESTUDO_OPTIONS=help=1 lists all. No file name has a colon: that separates options",
            ),
            Reason::NoValue => out.write_str("\": needs a value, as in key=value"),
            Reason::NotASwitch => out.write_str("\": must be 0 or 1"),
            Reason::NotANumber { min, max } => {
                write!(out, "\": must be a whole number from {min} to {max}")
            }
            Reason::NotAPath => out.write_str("\": must be an absolute file name of at most 159 bytes"),
            Reason::NotAProfile => out.write_str("\": must be default, strict, fast or fuzz"),
            Reason::ProfileNotFirst => out.write_str("\": must be the first option, because it sets all the others"),
            Reason::NeedsZeroing => out.write_str("\": needs zero_on_free=1"),
            Reason::NeedsInterval => out.write_str("\": needs heap_profile_kb, say heap_profile_kb=512"),
            Reason::NeedsPath => out.write_str("\": needs heap_profile_path=/absolute/file"),
            Reason::NotASignal => {
                out.write_str("\": programs use this signal otherwise; 10 (SIGUSR1) and 12 (SIGUSR2) are free")
            }
            Reason::NotAnAlignment => out.write_str("\": must be 1, 2, 4, 8 or 16"),
        }
    }
}

impl core::error::Error for OptionError<'_> {}

/// What was asked for.
///
/// ```
/// use testudo::options::{Options, parse};
///
/// assert!(parse(Options::DEFAULT, b"help=1").unwrap().help);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The options.
    pub options: Options,
    /// Whether `help=1` was among them.
    pub help: bool,
}

/// Reads options, starting from `start`. Empty parts are passed over.
///
/// # Errors
/// The first key or value that is not in the table: nothing is ignored, because a misspelt
/// protection would be a missing one.
///
/// ```
/// use testudo::options::{Options, parse};
///
/// let parsed = parse(Options::DEFAULT, b"profile=strict:max_alloc_mb=16").unwrap();
/// assert_eq!(parsed.options, Options { max_alloc_mb: 16, ..Options::STRICT });
///
/// let error = parse(Options::DEFAULT, b"profil=strict").unwrap_err();
/// assert!(error.to_string().contains("no such option"));
/// ```
pub fn parse(start: Options, text: &[u8]) -> Result<Parsed, OptionError<'_>> {
    let mut parsed = Parsed { options: start, help: false };
    let mut first = true;
    let mut behind_path = false;
    let mut asked_for_reuse_check = None;
    let mut asked_for_heap_profile = None;
    for part in text.split(|&byte| byte == b':') {
        if part.is_empty() {
            continue;
        }
        let mut halves = part.splitn(2, |&byte| byte == b'=');
        let key = halves.next().unwrap_or_default();
        let value = halves.next();
        let error = |reason| OptionError { key, value, reason };
        if key == b"help" {
            parsed.help = switch(value).ok_or_else(|| error(Reason::NotASwitch))?;
            (first, behind_path) = (false, false);
            continue;
        }
        let unknown = if behind_path { Reason::UnknownBehindPath } else { Reason::UnknownKey };
        let row = find(key).ok_or_else(|| error(unknown))?;
        behind_path = matches!(row.kind, Kind::Path { .. });
        let given = value.ok_or_else(|| error(Reason::NoValue))?;
        match row.kind {
            Kind::Switch { set, .. } => {
                let on = switch(value).ok_or_else(|| error(Reason::NotASwitch))?;
                set(&mut parsed.options, on);
                if on && row.name == "heap_profile_at_exit" {
                    asked_for_heap_profile = Some((key, value));
                }
                if on && row.name == "write_after_free" {
                    asked_for_reuse_check = Some(error(Reason::NeedsZeroing));
                }
            }
            Kind::Number { min, max, set, .. } => {
                let number = number(given)
                    .filter(|number| (min..=max).contains(number))
                    .ok_or_else(|| error(Reason::NotANumber { min, max }))?;
                set(&mut parsed.options, number);
                if row.name == "guarded_align" && number.count_ones() != 1 {
                    return Err(error(Reason::NotAnAlignment));
                }
                if row.name == "heap_profile_signal" && number != 0 {
                    if !may_be_taken(number) {
                        return Err(error(Reason::NotASignal));
                    }
                    asked_for_heap_profile = Some((key, value));
                }
            }
            Kind::Path { set, .. } => {
                let path = FilePath::new(given).ok_or_else(|| error(Reason::NotAPath))?;
                set(&mut parsed.options, path);
            }
            Kind::Profile if !first => return Err(error(Reason::ProfileNotFirst)),
            Kind::Profile => {
                let (_, profile) = Profile::ALL
                    .iter()
                    .find(|(name, _)| name.as_bytes() == given)
                    .ok_or_else(|| error(Reason::NotAProfile))?;
                parsed.options = profile.options();
            }
        }
        first = false;
    }
    if let Some((key, value)) = asked_for_heap_profile {
        let error = |reason| Err(OptionError { key, value, reason });
        if parsed.options.heap_profile_kb == 0 {
            return error(Reason::NeedsInterval);
        }
        if parsed.options.heap_profile_path.is_none() {
            return error(Reason::NeedsPath);
        }
    }
    if !parsed.options.zero_on_free {
        if let Some(error) = asked_for_reuse_check {
            return Err(error);
        }
        parsed.options.write_after_free = false;
    }
    Ok(parsed)
}

/// Whether a signal has no meaning of its own that a handler would spoil.
fn may_be_taken(signal: i64) -> bool {
    let signal = i32::try_from(signal).unwrap_or_default();
    matches!(signal, libc::SIGHUP | libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGALRM | libc::SIGVTALRM | libc::SIGPROF)
        || matches!(signal, libc::SIGWINCH | libc::SIGIO | libc::SIGPWR | libc::SIGURG | 34..=64)
}

fn find(key: &[u8]) -> Option<&'static Specification> {
    TABLE.iter().find(|row| row.name.as_bytes() == key)
}

fn switch(value: Option<&[u8]>) -> Option<bool> {
    match value {
        Some(b"0") => Some(false),
        Some(b"1") => Some(true),
        _ => None,
    }
}

fn number(text: &[u8]) -> Option<i64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::options::{Options, TABLE};
    use proptest::prelude::*;

    fn message(text: &str) -> String {
        parse(Options::DEFAULT, text.as_bytes()).expect_err("refused").to_string()
    }

    #[test]
    fn options_are_read_in_order() {
        let parsed = parse(Options::DEFAULT, b"profile=strict:quarantine_kb=77:canary=0").expect("fine");
        assert_eq!(parsed.options, Options { quarantine_kb: 77, canary: false, ..Options::STRICT });
    }

    #[test]
    fn nothing_changes_nothing() {
        for text in ["", ":", "::"] {
            assert_eq!(parse(Options::DEFAULT, text.as_bytes()).expect("fine").options, Options::DEFAULT);
        }
    }

    #[test]
    fn what_is_unknown_behind_a_file_name_may_be_the_rest_of_one_with_a_colon() {
        for text in ["report_path=/tmp/a:b", "heap_profile_path=/tmp/a::b"] {
            let said = message(text);
            assert!(said.starts_with("option \"b\": no such option;"), "{said}");
            assert!(said.ends_with("lists all. No file name has a colon: that separates options"), "{said}");
        }
        for text in ["report_path=/tmp/a:canary=1:b", "report_path=/tmp/a:help=1:b"] {
            assert!(message(text).ends_with("lists all"));
        }
    }

    #[test]
    fn an_error_names_the_key_what_was_given_and_what_is_allowed() {
        assert_eq!(message("canery=1"), "option \"canery=1\": no such option; TESTUDO_OPTIONS=help=1 lists all");
        assert_eq!(message("canary=yes"), "option \"canary=yes\": must be 0 or 1");
        assert_eq!(message("canary"), "option \"canary\": needs a value, as in key=value");
        assert_eq!(
            message("quarantine_kb=-1"),
            "option \"quarantine_kb=-1\": must be a whole number from 0 to 1048576"
        );
        assert_eq!(message("profile=paranoid"), "option \"profile=paranoid\": must be default, strict, fast or fuzz");
        assert_eq!(
            message("canary=0:profile=strict"),
            "option \"profile=strict\": must be the first option, because it sets all the others"
        );
        assert_eq!(
            message("heap_profile_signal=11"),
            "option \"heap_profile_signal=11\": programs use this signal otherwise; 10 (SIGUSR1) and 12 (SIGUSR2) are free"
        );
        for asks in ["heap_profile_signal=12", "heap_profile_at_exit=1"] {
            assert_eq!(message(asks), format!("option \"{asks}\": needs heap_profile_kb, say heap_profile_kb=512"));
            let text = format!("{asks}:heap_profile_kb=512");
            assert_eq!(message(&text), format!("option \"{asks}\": needs heap_profile_path=/absolute/file"));
            assert!(parse(Options::DEFAULT, format!("{text}:heap_profile_path=/a").as_bytes()).is_ok());
        }
        assert_eq!(message("guarded_align=12"), "option \"guarded_align=12\": must be 1, 2, 4, 8 or 16");
        for align in [1, 2, 4, 8, 16] {
            assert!(parse(Options::DEFAULT, format!("guarded_align={align}").as_bytes()).is_ok());
        }
        assert_eq!(message("profile=fast:write_after_free=1"), "option \"write_after_free=1\": needs zero_on_free=1");
    }

    #[test]
    fn turning_zeroing_off_turns_the_check_for_it_off() {
        let options = parse(Options::DEFAULT, b"zero_on_free=0").expect("fine").options;
        assert!(!options.write_after_free);
    }

    #[test]
    fn other_checks_can_be_turned_on_without_zeroing() {
        let options = parse(Options::DEFAULT, b"profile=fast:canary=1:write_after_free=0").expect("fine").options;
        assert_eq!(options, Options { canary: true, ..Options::FAST });
    }

    #[test]
    fn of_what_was_typed_sixty_bytes_are_shown() {
        let sixty = "k".repeat(60);
        let shown = |typed: &str| message(typed).split('"').nth(1).map(str::to_owned);
        assert_eq!(shown(&sixty), Some(sixty.clone()));
        assert_eq!(shown(&format!("{sixty}k")), Some(format!("{sixty}…")));
    }

    #[test]
    fn help_is_asked_for_by_one() {
        assert!(parse(Options::DEFAULT, b"help=1").expect("fine").help);
        assert!(!parse(Options::DEFAULT, b"help=0").expect("fine").help);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_error_is_one_line(text: Vec<u8>) {
            if let Err(error) = parse(Options::DEFAULT, &text) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }

        #[test]
        fn a_key_that_is_not_in_the_table_is_refused(key in "[a-z_]{1,20}") {
            prop_assume!(key != "help" && TABLE.iter().all(|row| row.name != key));
            let text = format!("{key}=1");
            prop_assert!(parse(Options::DEFAULT, text.as_bytes()).is_err());
        }
    }
}
