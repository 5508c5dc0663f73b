//! Any bytes as `TESTUDO_OPTIONS`: no panic, a one-line error, and options that survive being written out again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fmt::Write;
use testudo::Options;
use testudo::options::{Help, Kind, TABLE, parse};

/// The longest line that an error may be: what was typed is shown shortened.
const LINE: usize = 400;

fuzz_target!(|text: &[u8]| {
    match parse(Options::DEFAULT, text) {
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty() && line.len() <= LINE, "{line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
        Ok(parsed) => {
            let again = rendered(&parsed.options, parsed.help);
            // Every option is in the text, so it does not matter from which ones reading starts.
            for start in [Options::DEFAULT, Options::STRICT, Options::FAST] {
                assert_eq!(parse(start, again.as_bytes()), Ok(parsed), "{again}");
            }
            assert!(!Help(&parsed.options).to_string().is_empty());
        }
    }
});

/// Every option but the profile, which is only a short way of writing the others.
fn rendered(options: &Options, help: bool) -> String {
    let mut text = format!("help={}", u8::from(help));
    for row in TABLE {
        let value = match row.kind {
            Kind::Switch { get, .. } => i64::from(get(options)),
            Kind::Number { min, max, get, .. } => {
                let value = get(options);
                assert!((min..=max).contains(&value), "{}={value}", row.name);
                value
            }
            Kind::Path { get, .. } => {
                assert!(get(options).is_none() || get(options).as_bytes().starts_with(b"/"));
                continue;
            }
            Kind::Profile => continue,
        };
        write!(text, ":{}={value}", row.name).expect("a String takes everything");
    }
    text
}
