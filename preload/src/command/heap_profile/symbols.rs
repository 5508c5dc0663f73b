//! Names of the functions that addresses lie in, from the files that were mapped there.

use super::read::{Mapping, Profile};
use addr2line::Context;
use addr2line::gimli::{self, Dwarf, EndianSlice, RunTimeEndian};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use object::{CompressionFormat, File, Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use std::collections::HashMap;
use std::fs;

/// A function at an address, and the place in its source, where known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Function {
    pub name: String,
    pub file: String,
    pub line: u64,
}

/// The functions of every address of a profile: innermost first, because inlined calls share an address.
pub struct Symbols {
    functions: HashMap<u64, Vec<Function>>,
}

/// Kept until the command ends.
type Bytes = EndianSlice<'static, RunTimeEndian>;

/// A file that was mapped.
struct Module {
    /// Its debug information, if it has any.
    context: Option<Context<Bytes>>,
    /// Where parts of the file are meant to lie in memory: place in the file, length, address.
    segments: Vec<(u64, u64, u64)>,
    /// Functions by address: start, length, name.
    functions: Vec<(u64, u64, String)>,
}

/// The longest section that is unpacked, in bytes: a small file must not become all of the memory.
const MOST_UNPACKED: usize = 4 << 30;

/// The contents of a section, unpacked; empty where there is none, or where it is packed in a way that is not known.
fn section(file: &File<'_>, name: &str) -> Bytes {
    let data = file.section_by_name(name).and_then(|section| section.compressed_data().ok());
    let bytes = match data {
        Some(data) if data.format == CompressionFormat::None => data.data.to_vec(),
        Some(data) if data.format == CompressionFormat::Zlib => {
            let bytes = usize::try_from(data.uncompressed_size).unwrap_or(MOST_UNPACKED).min(MOST_UNPACKED);
            decompress_to_vec_zlib_with_limit(data.data, bytes).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    Bytes::new(bytes.leak(), endian)
}

impl Module {
    fn open(path: &str) -> Self {
        let mut module = Self { context: None, segments: Vec::new(), functions: Vec::new() };
        // A device would go on for ever.
        let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
        let bytes = if is_file { fs::read(path).unwrap_or_default() } else { Vec::new() };
        let Ok(file) = File::parse(&*bytes) else { return module };
        for segment in file.segments() {
            let (offset, length) = segment.file_range();
            module.segments.push((offset, length, segment.address()));
        }
        for symbol in file.symbols().chain(file.dynamic_symbols()) {
            if symbol.kind() == SymbolKind::Text
                && symbol.size() > 0
                && let Ok(name) = symbol.name()
            {
                module.functions.push((symbol.address(), symbol.size(), name.to_owned()));
            }
        }
        module.functions.sort();
        let dwarf = Dwarf::load(|id| Ok::<_, gimli::Error>(section(&file, id.name())));
        module.context = dwarf.ok().and_then(|dwarf| Context::from_dwarf(dwarf).ok());
        module
    }

    /// The address in the file's own terms of a place in it.
    fn address_of(&self, place: u64) -> Option<u64> {
        let inside = |(offset, length, _): &&(u64, u64, u64)| (*offset..offset + length).contains(&place);
        self.segments.iter().find(inside).map(|(offset, _, address)| address + (place - offset))
    }

    /// The function at an address by the table of symbols.
    fn symbol(&self, address: u64) -> Option<&str> {
        let behind = self.functions.partition_point(|(start, _, _)| *start <= address);
        let (start, length, name) = self.functions.get(behind.checked_sub(1)?)?;
        (address - start < *length).then_some(name)
    }

    fn functions(&self, place: u64) -> Option<Vec<Function>> {
        let address = self.address_of(place)?;
        let mut found = Vec::new();
        let frames = self.context.as_ref().and_then(|context| context.find_frames(address).skip_all_loads().ok());
        if let Some(mut frames) = frames {
            while let Ok(Some(frame)) = frames.next() {
                let Some(name) = frame.function.as_ref().and_then(|name| name.demangle().ok()) else { continue };
                let (file, line) = frame.location.map_or((None, None), |location| (location.file, location.line));
                found.push(Function {
                    name: name.into_owned(),
                    file: file.unwrap_or_default().to_owned(),
                    line: u64::from(line.unwrap_or_default()),
                });
            }
        }
        if found.is_empty() {
            let name = self.symbol(address)?;
            let name = addr2line::demangle_auto(name.into(), None).into_owned();
            found.push(Function { name, file: String::new(), line: 0 });
        }
        Some(found)
    }
}

/// The mapping that an address lies in.
pub fn mapping_of(mappings: &[Mapping], address: u64) -> Option<(usize, &Mapping)> {
    mappings.iter().enumerate().find(|(_, mapping)| (mapping.start..mapping.end).contains(&address))
}

/// What an address is called when nobody knows better.
fn unnamed(mapping: Option<&Mapping>, address: u64) -> Function {
    let name = match mapping {
        Some(mapping) if !mapping.path.is_empty() => {
            let file = mapping.path.rsplit('/').next().unwrap_or_default();
            format!("{file}+{:#x}", address - mapping.start + mapping.offset)
        }
        _ => format!("{address:#x}"),
    };
    Function { name, file: String::new(), line: 0 }
}

/// A name without what would move a terminal's cursor or end a line: names are whatever the makers of the files put there.
fn harmless(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Whether a function belongs to the allocator, or to what Rust puts in front of it.
fn is_allocators(function: &Function) -> bool {
    ["testudo::", "<testudo::", "__rust_", "__rustc::"].iter().any(|start| function.name.starts_with(start))
}

impl Symbols {
    /// Looks all addresses of a profile up.
    pub fn of(profile: &Profile) -> Self {
        let mut modules: HashMap<&str, Module> = HashMap::new();
        let mut functions = HashMap::new();
        for address in profile.samples.iter().flat_map(|sample| &sample.frames) {
            if functions.contains_key(address) {
                continue;
            }
            let mapping = mapping_of(&profile.mappings, *address).map(|(_, mapping)| mapping);
            let known = mapping.filter(|mapping| mapping.path.starts_with('/')).and_then(|mapping| {
                let module = modules.entry(&mapping.path).or_insert_with(|| Module::open(&mapping.path));
                module.functions(address - mapping.start + mapping.offset)
            });
            let mut found = known.unwrap_or_else(|| vec![unnamed(mapping, *address)]);
            for function in &mut found {
                function.name = harmless(&function.name);
                function.file = harmless(&function.file);
            }
            functions.insert(*address, found);
        }
        Self { functions }
    }

    /// The functions at an address, innermost first.
    pub fn at(&self, address: u64) -> &[Function] {
        self.functions.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The calls of a sample without those inside the allocator, where it is part of the program.
    pub fn callers<'a>(&self, frames: &'a [u64]) -> &'a [u64] {
        let own = frames.iter().take_while(|frame| self.at(**frame).iter().all(is_allocators)).count();
        if own == frames.len() { frames } else { &frames[own..] }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mapping, Profile, Symbols};
    use crate::heap_profile::read::Sample;

    #[test]
    fn no_name_commands_a_terminal_or_ends_a_line() {
        let path = "/no/such\n/\u{1b}[2Jlibrary".to_owned();
        let mapping = Mapping { start: 0x1000, end: 0x2000, offset: 0, path };
        let samples = vec![Sample { values: [1.0; 4], frames: vec![0x1010] }];
        let profile = Profile { interval: 1, time: 0, process: 1, dropped: 0, samples, mappings: vec![mapping] };
        let names: Vec<_> = Symbols::of(&profile).at(0x1010).iter().map(|function| function.name.clone()).collect();
        assert_eq!(names, ["?[2Jlibrary+0x10"]);
    }
}
