//! Names of functions, from the symbol tables of the files that modules were loaded from.
//!
//! For reports only: nothing is allocated, each name costs a walk through a table. The file may be missing, broken, replaced
//! since it was loaded, or made to confuse: it is read piece by piece, every piece is only data, and the length of the walk
//! is bounded. The formats are those of the System V ABI, chapters 4 and 5.

use super::module::Module;
use crate::os::file::Source;
use crate::os::mapping::{self, PAGE};
use crate::os::process;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, Ordering};

/// Longest name that is shown, in bytes; longer ones are cut off.
const LONGEST: usize = 240;

/// Bytes read at a time: whole symbols.
const PART: usize = 16 * PAGE / SYMBOL * SYMBOL;

/// Symbols of a table that are looked at.
const MOST_SYMBOLS: u64 = 4 << 20;

/// Sections that are looked at.
const MOST_SECTIONS: u64 = 4096;

const HEADER: usize = 64;
const SECTION: usize = 64;
const SYMBOL: usize = 24;

/// Tables of symbols: all of them, or those for the loader, which are left in stripped files.
const TABLES: [u32; 2] = [2, 11];

/// The mode of the kernel's sandbox when the heap was made.
static SANDBOX: AtomicI32 = AtomicI32::new(0);

/// Notes which sandbox the process was started in. The loader opened and read files in it, so that a report may do so as well; one
/// that the program enters later may kill for that, before the rest of the report is written.
pub(crate) fn note_sandbox() {
    SANDBOX.store(process::sandbox(), Ordering::Relaxed);
}

/// A function, and how far behind its start an address lies.
pub(super) struct Name {
    bytes: [u8; LONGEST],
    length: usize,
    cut_off: bool,
    offset: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.get(..self.length).unwrap_or_default().utf8_chunks() {
            for letter in chunk.valid().chars() {
                // What could move a terminal's cursor, or look like the end of the name, is not shown.
                f.write_char(if letter.is_control() || letter == '(' || letter == ')' { '?' } else { letter })?;
            }
        }
        write!(f, "{}+{:#x}", if self.cut_off { "..." } else { "" }, self.offset)
    }
}

/// The function that an address of a module lies in; `None` when that can't be had.
pub(super) fn name(module: &Module, address: usize) -> Option<Name> {
    if process::sandbox() != SANDBOX.load(Ordering::Relaxed) {
        return None;
    }
    // The program's file is reached whatever its name is by now.
    let path = match module.path() {
        path if path.is_empty() => c"/proc/self/exe",
        path if path.to_bytes().starts_with(b"/") => path,
        _ => return None,
    };
    let source = Source::open(path)?;
    let loaded: [u8; HEADER] = module.read(module.addresses().start)?;
    let buffer = Buffer::map()?;
    find(&source, &loaded, address.wrapping_sub(module.displacement()) as u64, buffer)
}

/// Memory for what is read, which a signal handler's stack may have no room for.
struct Buffer(usize);

impl Buffer {
    fn map() -> Option<Self> {
        let buffer = Self(mapping::reserve(0, PART).ok()?);
        mapping::commit(buffer.0, PART).ok()?;
        Some(buffer)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped by `map`, writable, zeroed, and reached through this value only.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(self.0), PART) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        mapping::unmap(self.0, PART);
    }
}

fn number<const BYTES: usize>(record: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide.get_mut(..BYTES)?.copy_from_slice(record.get(at..at.checked_add(BYTES)?)?);
    Some(u64::from_le_bytes(wide))
}

/// A section: its kind, where it lies in the file, its bytes, and the section that goes with it.
struct Section {
    kind: u32,
    offset: u64,
    bytes: u64,
    link: u64,
}

fn section(source: &Source, table: u64, index: u64) -> Option<Section> {
    let mut record = [0; SECTION];
    let record = source.read_at(table.checked_add(index.checked_mul(SECTION as u64)?)?, &mut record)?;
    Some(Section {
        kind: number::<4>(record, 4)? as u32,
        offset: number::<8>(record, 24)?,
        bytes: number::<8>(record, 32)?,
        link: number::<4>(record, 40)?,
    })
}

/// The function at an address, counted as the file does. `loaded` is the header as it stands in memory: another one is another
/// file.
fn find(source: &Source, loaded: &[u8; HEADER], address: u64, mut buffer: Buffer) -> Option<Name> {
    let mut header = [0; HEADER];
    let header = source.read_at(0, &mut header)?;
    if header != loaded || !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, sections) = (number::<8>(header, 0x28)?, number::<2>(header, 0x3c)?.min(MOST_SECTIONS));
    if number::<2>(header, 0x3a)? != SECTION as u64 {
        return None;
    }
    TABLES.iter().find_map(|&kind| {
        let of_kind = |index| section(source, table, index).filter(|section| section.kind == kind);
        let symbols = (0..sections).find_map(of_kind)?;
        let (place, start) = symbol(source, &symbols, address, buffer.bytes())?;
        let names = section(source, table, symbols.link)?;
        text(source, &names, place, address - start)
    })
}

/// Where the name of the function at an address stands in the table of names, and the function's start.
fn symbol(source: &Source, symbols: &Section, address: u64, part: &mut [u8]) -> Option<(u64, u64)> {
    const FUNCTION: u8 = 2;
    const INDIRECT_FUNCTION: u8 = 10;
    let mut best = None;
    let bytes = symbols.bytes.min(MOST_SYMBOLS * SYMBOL as u64);
    let mut done = 0;
    while done < bytes {
        let wanted = usize::try_from(bytes - done).unwrap_or(PART).min(part.len());
        let read = source.read_at(symbols.offset.checked_add(done)?, part.get_mut(..wanted)?)?;
        if read.len() < SYMBOL {
            break;
        }
        for record in read.chunks_exact(SYMBOL) {
            let (value, size) = (number::<8>(record, 8)?, number::<8>(record, 16)?);
            let kind = record.get(4)? & 0x0f;
            let defined = number::<2>(record, 6)? != 0;
            if defined
                && matches!(kind, FUNCTION | INDIRECT_FUNCTION)
                && value <= address
                && address - value < size
                && best.is_none_or(|(_, start)| value > start)
            {
                best = Some((number::<4>(record, 0)?, value));
            }
        }
        done += (read.len() / SYMBOL * SYMBOL) as u64;
    }
    best
}

fn text(source: &Source, names: &Section, place: u64, offset: u64) -> Option<Name> {
    if place >= names.bytes {
        return None;
    }
    let mut name = Name { bytes: [0; LONGEST], length: 0, cut_off: false, offset };
    let read = source.read_at(names.offset.checked_add(place)?, &mut name.bytes)?;
    let end = read.iter().position(|&byte| byte == 0);
    name.cut_off = end.is_none();
    name.length = end.unwrap_or(read.len());
    (name.length != 0).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::{Buffer, HEADER, Module, find, name};
    use crate::os::file::Source;
    use proptest::prelude::*;
    use std::ffi::CString;
    use std::io::Write;

    #[inline(never)]
    fn function_with_a_name() -> usize {
        core::hint::black_box(function_with_a_name as *const () as usize)
    }

    #[test]
    fn a_function_of_the_program_is_found_with_the_offset() {
        let address = function_with_a_name() + 1;
        let module = Module::around(address).expect("a module");
        let text = name(&module, address).expect("a name").to_string();
        assert!(text.contains("function_with_a_name") && text.ends_with("+0x1"), "{text}");
    }

    #[test]
    fn a_function_of_a_library_is_found_with_the_offset() {
        let address = libc::qsort as *const () as usize + 2;
        let module = Module::around(address).expect("a module");
        assert_eq!(name(&module, address).expect("a name").to_string(), "qsort+0x2");
    }

    /// A file with the two tables, in which two functions lie one inside the other.
    fn file() -> Vec<u8> {
        let mut file = vec![0_u8; HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x28..0x30].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[0x3a] = 64;
        file[0x3c] = 3;
        let (symbols, names) = (HEADER + 3 * 64, HEADER + 3 * 64 + 72);
        for (kind, offset, bytes, link) in [(0_u32, 0, 0, 0_u32), (2, symbols, 72, 2), (3, names, 20, 0)] {
            let mut section = [0; 64];
            section[4..8].copy_from_slice(&kind.to_le_bytes());
            section[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(bytes as u64).to_le_bytes());
            section[40..44].copy_from_slice(&link.to_le_bytes());
            file.extend(section);
        }
        for (place, value, size) in [(0_u32, 0_u64, 0_u64), (1, 0x1000, 0x100), (7, 0x1010, 8)] {
            file.extend(place.to_le_bytes());
            file.extend([2, 0, 1, 0]);
            file.extend(value.to_le_bytes());
            file.extend(size.to_le_bytes());
        }
        file.extend(b"\0outer\0inner\x1b[2J\0\0\0\0");
        file
    }

    fn found(bytes: &[u8], loaded: &[u8], address: u64) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("written");
        let path = CString::new(file.path().to_str().expect("text")).expect("no zero in it");
        let source = Source::open(&path).expect("a file");
        let loaded = loaded.get(..HEADER)?.try_into().expect("so many bytes");
        find(&source, loaded, address, Buffer::map().expect("memory")).map(|name| name.to_string())
    }

    #[test]
    fn the_innermost_function_is_named_and_nothing_that_moves_a_cursor() {
        let file = file();
        assert_eq!(found(&file, &file, 0x1000).as_deref(), Some("outer+0x0"));
        assert_eq!(found(&file, &file, 0x10ff).as_deref(), Some("outer+0xff"));
        assert_eq!(found(&file, &file, 0x1014).as_deref(), Some("inner?[2J+0x4"));
        assert_eq!(found(&file, &file, 0xfff), None);
        assert_eq!(found(&file, &file, 0x1100), None);
    }

    #[test]
    fn another_file_than_the_one_that_was_loaded_names_nothing() {
        let (loaded, mut replaced) = (file(), file());
        replaced[0x18] = 1;
        assert_eq!(found(&replaced, &loaded, 0x1000), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_broken_file_ends_the_search(
            changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..12), length in 0_usize..400, address: u64,
        ) {
            let mut file = file();
            for (at, byte) in changes {
                if let Some(place) = file.get_mut(at) {
                    *place = byte;
                }
            }
            for address in [address, 0x1000, 0x1014] {
                let whole = found(&file, &file, address);
                prop_assert!(whole.is_none_or(|name| name.len() < 1000));
                let cut_off = file.get(..length).unwrap_or(&file);
                let _ = found(cut_off, &file, address);
            }
        }
    }
}
