//! pprof's format: a gzipped message of protocol buffers, with names, so that pprof needs none of the files.
//!
//! The messages are those of `profile.proto` in github.com/google/pprof, as far as they are used.

use super::VALUES;
use super::read::Profile as Read;
use super::symbols::{Function as Named, Symbols, mapping_of};
use miniz_oxide::deflate::compress_to_vec;
use prost::Message;
use std::collections::HashMap;

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    locations: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    values: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    start: u64,
    #[prost(uint64, tag = "3")]
    end: u64,
    #[prost(uint64, tag = "4")]
    offset: u64,
    #[prost(int64, tag = "5")]
    file: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    lines: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    file: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_types: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mappings: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    locations: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    functions: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

/// Texts, each once; the first is empty.
#[derive(Default)]
struct Strings {
    numbers: HashMap<String, i64>,
    all: Vec<String>,
}

impl Strings {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.all.len() as i64;
        self.numbers.insert(text.to_owned(), number);
        self.all.push(text.to_owned());
        number
    }
}

/// The profile in pprof's format.
pub fn encode(read: &Read, symbols: &Symbols) -> Vec<u8> {
    gzip(&message(read, symbols).encode_to_vec())
}

/// Packs bytes as a gzip file (RFC 1952): the usual packages for that would bring std into the library (see `Cargo.toml`).
fn gzip(bytes: &[u8]) -> Vec<u8> {
    const LEVEL: u8 = 6;
    // Magic number, method deflate, no flags, no time, no extra flags, unknown system.
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    packed.extend(compress_to_vec(bytes, LEVEL));
    packed.extend(crc32fast::hash(bytes).to_le_bytes());
    packed.extend((bytes.len() as u32).to_le_bytes());
    packed
}

fn message(read: &Read, symbols: &Symbols) -> Profile {
    let mut strings = Strings::default();
    strings.number("");
    let mut kind = |name: &str, unit: &str| ValueType { kind: strings.number(name), unit: strings.number(unit) };
    let mut profile = Profile {
        sample_types: VALUES.iter().map(|(name, unit)| kind(name, unit)).collect(),
        period_type: Some(kind("space", "bytes")),
        period: read.interval as i64,
        time_nanos: (read.time as i64).saturating_mul(1_000_000_000),
        default_sample_type: strings.number("inuse_space"),
        ..Profile::default()
    };
    for (number, mapping) in read.mappings.iter().enumerate() {
        profile.mappings.push(Mapping {
            id: number as u64 + 1,
            start: mapping.start,
            end: mapping.end,
            offset: mapping.offset,
            file: strings.number(&mapping.path),
            has_functions: true,
        });
    }
    let mut functions: HashMap<(&str, &str), u64> = HashMap::new();
    let mut locations: HashMap<u64, u64> = HashMap::new();
    for sample in &read.samples {
        let mut numbers = Vec::new();
        for &address in symbols.callers(&sample.frames) {
            let next = locations.len() as u64 + 1;
            let number = *locations.entry(address).or_insert(next);
            numbers.push(number);
            if number != next {
                continue;
            }
            let mut lines = Vec::new();
            for Named { name, file, line } in symbols.at(address) {
                let id = *functions.entry((name, file)).or_insert_with(|| {
                    let id = profile.functions.len() as u64 + 1;
                    let name = strings.number(name);
                    profile.functions.push(Function { id, name, system_name: name, file: strings.number(file) });
                    id
                });
                lines.push(Line { function: id, line: *line as i64 });
            }
            let mapping = mapping_of(&read.mappings, address).map_or(0, |(number, _)| number as u64 + 1);
            profile.locations.push(Location { id: number, mapping, address, lines });
        }
        let values = sample.values.iter().map(|value| value.round() as i64).collect();
        profile.samples.push(Sample { locations: numbers, values });
    }
    profile.strings = strings.all;
    profile
}
