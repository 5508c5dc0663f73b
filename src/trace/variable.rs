//! Finding a variable by name in the loaded modules, without a lock and without allocating.
//!
//! By each module's own dynamic section and GNU hash table ("GNU Hash ELF Sections", as glibc and LLVM's lld write them). Only
//! in a process that is about to end: nobody must load or unload modules meanwhile.

use super::module::Module;
use core::ffi::CStr;

const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_GNU_HASH: usize = 0x6fff_fef5;

/// Modules that are looked at, at most.
const MOST_MODULES: usize = 4096;

/// An entry of a symbol table.
#[repr(C)]
#[derive(Clone, Copy)]
struct Symbol {
    name: u32,
    kind: u8,
    other: u8,
    section: u16,
    value: usize,
    size: usize,
}

/// The address of the variable with this name, in the first module that defines it.
pub(crate) fn address(name: &CStr) -> Option<usize> {
    let own = Module::around(address as *const () as usize)?;
    let mut link = own.link_map();
    for _ in 0..MOST_MODULES {
        // The first module: `l_prev` is the fifth word of glibc's `struct link_map`.
        match word(link, 4) {
            0 => break,
            before => link = before,
        }
    }
    for _ in 0..MOST_MODULES {
        if link == 0 {
            break;
        }
        // `l_addr`, `l_ld` and `l_next`.
        let (moved, dynamic, next) = (word(link, 0), word(link, 2), word(link, 3));
        if let Some(found) = Module::around(dynamic).and_then(|module| in_module(&module, moved, dynamic, name)) {
            return Some(found);
        }
        link = next;
    }
    None
}

/// A word of a link map.
fn word(link: usize, number: usize) -> usize {
    // SAFETY: link maps of loaded modules stay as long as these.
    unsafe { core::ptr::with_exposed_provenance::<usize>(link).add(number).read() }
}

/// The hash that the tables are built by.
fn hash(name: &CStr) -> u32 {
    name.to_bytes().iter().fold(5381_u32, |hash, &byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)))
}

fn in_module(module: &Module, moved: usize, dynamic: usize, name: &CStr) -> Option<usize> {
    let (mut strings, mut symbols, mut table) = (0, 0, 0);
    let mut at = dynamic;
    loop {
        let (tag, value): (usize, usize) = (module.read(at)?, module.read(at + 8)?);
        // The loader has added where the module lies, unless the section cannot be written.
        let value = if value < moved { value.wrapping_add(moved) } else { value };
        match tag {
            0 => break,
            DT_STRTAB => strings = value,
            DT_SYMTAB => symbols = value,
            DT_GNU_HASH => table = value,
            _ => {}
        }
        at += 16;
    }
    let [buckets, first, blooms, _]: [u32; 4] = module.read(table)?;
    let bucket_table = table + 16 + blooms as usize * 8;
    let chains = bucket_table + buckets as usize * 4;
    let wanted = hash(name);
    let mut number: u32 = module.read(bucket_table + wanted.checked_rem(buckets)? as usize * 4)?;
    if number < first {
        return None;
    }
    loop {
        let seen: u32 = module.read(chains + (number - first) as usize * 4)?;
        if (seen ^ wanted) >> 1 == 0 {
            let symbol: Symbol = module.read(symbols + number as usize * size_of::<Symbol>())?;
            if symbol.section != 0 && is_called(module, strings + symbol.name as usize, name) {
                return Some(moved.wrapping_add(symbol.value));
            }
        }
        if seen & 1 != 0 {
            return None;
        }
        number += 1;
    }
}

fn is_called(module: &Module, at: usize, name: &CStr) -> bool {
    name.to_bytes_with_nul().iter().enumerate().all(|(index, &byte)| module.read::<u8>(at + index) == Some(byte))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn variables_of_the_c_library_are_found_and_others_are_not() {
        unsafe extern "C" {
            static stdout: *mut libc::FILE;
        }
        // By another name: the program may have a copy of `stdout` itself.
        let found = address(c"_IO_2_1_stdout_").expect("glibc has it");
        // SAFETY: glibc's variable, set before main.
        assert_eq!(found, unsafe { stdout }.addr());
        assert_eq!(address(c"__no_such_variable"), None);
    }
}
