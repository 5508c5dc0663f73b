//! Reading the library's file (`src/heap_profile/write.rs` says how it looks), and working out what its samples stand for.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// One line of the profile: chunks that the same calls allocated.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Estimates of what was really allocated and is live, in the order of [`super::VALUES`].
    pub values: [f64; 4],
    /// Addresses within the calling instructions, innermost first.
    pub frames: Vec<u64>,
}

/// An executable mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    pub path: String,
}

/// A heap profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Bytes between two samples, on average.
    pub interval: u64,
    /// Seconds since 1970.
    pub time: u64,
    pub process: u64,
    /// Samples that found no room in the table.
    pub dropped: u64,
    pub samples: Vec<Sample>,
    pub mappings: Vec<Mapping>,
}

/// How many chunks one recorded chunk stands for that counts for so many bytes: the inverse of its chance to be recorded.
fn stands_for(weight: u64, interval: u64) -> f64 {
    if interval == 0 || weight == 0 {
        return 1.0;
    }
    // 1 - exp(-x), also for a small x.
    -1.0 / (-(weight as f64) / interval as f64).exp_m1()
}

fn sample(line: &str, interval: u64) -> Option<Sample> {
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (weight, chunks, bytes, freed_chunks, freed_bytes) = (number()?, number()?, number()?, number()?, number()?);
    let frames = words.map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect::<Option<_>>()?;
    let live = [chunks.checked_sub(freed_chunks)?, bytes.checked_sub(freed_bytes)?];
    let values = [chunks, bytes, live[0], live[1]].map(|value| value as f64 * stands_for(weight, interval));
    Some(Sample { values, frames })
}

/// A line of `/proc/PID/maps`.
fn mapping(line: &str) -> Option<Mapping> {
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let offset = words.nth(1)?;
    let path = words.nth(2).unwrap_or_default().trim_start().to_owned();
    Some(Mapping { start: hexadecimal(start)?, end: hexadecimal(end)?, offset: hexadecimal(offset)?, path })
}

/// What begins every profile.
const MARK: &str = "testudo heap profile";
const NO_PROFILE: &str = "this is no heap profile of testudo";
/// More than the library writes: 13 MiB of stacks where its table is full, and half a KiB for each executable mapping.
const MOST: u64 = 64 << 20;

/// Reads a profile from a file.
///
/// # Errors
/// One line that says why it cannot be read, or which of its lines is wrong.
pub fn file(path: &Path) -> Result<Profile, String> {
    let in_words = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(in_words)?;
    let mut bytes = Vec::new();
    // What is no profile may have no end, as a device.
    file.by_ref().take(MARK.len() as u64).read_to_end(&mut bytes).map_err(in_words)?;
    if bytes != MARK.as_bytes() {
        return Err(NO_PROFILE.to_owned());
    }
    file.take(MOST).read_to_end(&mut bytes).map_err(in_words)?;
    if bytes.len() as u64 > MOST {
        return Err(format!("no heap profile of testudo is longer than {} MiB", MOST >> 20));
    }
    profile(&bytes)
}

/// Reads a profile.
///
/// # Errors
/// One line that says which line of the file is wrong.
fn profile(bytes: &[u8]) -> Result<Profile, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().enumerate();
    let mut field = |name: &str| {
        let (number, line) = lines.next().unwrap_or((0, ""));
        let value = line.strip_prefix(name).and_then(|rest| rest.trim_start().parse::<u64>().ok());
        value.ok_or_else(|| format!("line {} of a heap profile must be \"{name}\" and a number", number + 1))
    };
    if field(MARK).map_err(|_| NO_PROFILE)? != 1 {
        return Err("this heap profile is of a newer format".to_owned());
    }
    let (interval, process, time, dropped) = (field("interval")?, field("process")?, field("time")?, field("dropped")?);
    let mut profile = Profile { interval, time, process, dropped, samples: Vec::new(), mappings: Vec::new() };
    let wrong = |number: usize| format!("line {} is not what it should be", number + 1);
    let mut part = "";
    for (number, line) in lines {
        match (part, line) {
            ("", "samples") | ("samples", "mappings") | ("mappings", "end") => part = line,
            ("samples", _) => profile.samples.push(sample(line, interval).ok_or_else(|| wrong(number))?),
            ("mappings", _) => profile.mappings.push(mapping(line).ok_or_else(|| wrong(number))?),
            _ => return Err(wrong(number)),
        }
    }
    if part != "end" {
        return Err("the end is missing: it is still being written, or the disk was full".to_owned());
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::{profile, stands_for};

    const TEXT: &str = "testudo heap profile 1\ninterval 1000\nprocess 7\ntime 9\ndropped 2\nsamples\n\
        1000 3 2700 1 900 0x10 0x20\n64000 1 64000 0 0\nmappings\n\
        10-20 r-xp 00001000 08:01 1234                       /usr/bin/a program\nffff-10000 r-xp 00000000 00:00 0\nend\n";

    #[test]
    fn a_profile_is_read_and_its_samples_scaled() {
        let read = profile(TEXT.as_bytes()).expect("a good profile");
        assert_eq!((read.interval, read.process, read.time, read.dropped), (1000, 7, 9, 2));
        let scale = 1.0 / (1.0 - (-1.0_f64).exp());
        assert_eq!(read.samples[0].frames, [0x10, 0x20]);
        for (value, expected) in read.samples[0].values.iter().zip([3.0, 2700.0, 2.0, 1800.0]) {
            assert!((value - expected * scale).abs() < 1e-6, "{value}");
        }
        assert!((read.samples[1].values[3] - 64000.0).abs() < 1e-6);
        assert_eq!((read.mappings[0].offset, read.mappings[0].path.as_str()), (0x1000, "/usr/bin/a program"));
        assert_eq!(read.mappings[1].path, "");
    }

    #[test]
    fn what_is_no_profile_is_refused_with_the_line() {
        for (text, says) in [
            ("", "no heap profile"),
            ("testudo heap profile 2\n", "newer"),
            (&TEXT[..TEXT.len() - 4], "end is missing"),
            (&TEXT.replace("0x20", "20"), "line 7"),
            (&TEXT.replace("3 2700 1", "3 2700 4"), "line 7"),
            (&TEXT.replace("interval", "period"), "line 2"),
        ] {
            let error = profile(text.as_bytes()).expect_err("refused");
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn small_chunks_stand_for_many_and_large_ones_for_themselves() {
        assert!((stands_for(1, 1 << 20) - (1 << 20) as f64).abs() < 1.0);
        assert!((stands_for(1 << 30, 1 << 10) - 1.0).abs() < 1e-9);
    }
}
