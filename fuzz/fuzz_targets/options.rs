//! Any bytes as `TESTUDO_OPTIONS`: no panic, a one-line error, and options that survive being written out again.
#![no_main]

use libfuzzer_sys::fuzz_target;
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
                assert_eq!(parse(start, &again), Ok(parsed), "{}", String::from_utf8_lossy(&again));
            }
            assert!(!Help(&parsed.options).to_string().is_empty());
        }
    }
});

/// Every option but the profile, which is only a short way of writing the others.
fn rendered(options: &Options, help: bool) -> Vec<u8> {
    let mut text = format!("help={}", u8::from(help)).into_bytes();
    for row in TABLE {
        let value = match row.kind {
            Kind::Switch { get, .. } => i64::from(get(options)),
            Kind::Number { min, max, get, .. } => {
                let value = get(options);
                assert!((min..=max).contains(&value), "{}={value}", row.name);
                value
            }
            Kind::Path { get, .. } => {
                let path = get(options);
                if !path.is_none() {
                    assert!(path.as_bytes().starts_with(b"/"));
                    // A name has any bytes but a colon: it is written out as it is.
                    text.extend_from_slice(format!(":{}=", row.name).as_bytes());
                    text.extend_from_slice(path.as_bytes());
                }
                continue;
            }
            Kind::Profile => continue,
        };
        text.extend_from_slice(format!(":{}={value}", row.name).as_bytes());
    }
    text
}
