//! The loaded modules (the program and its libraries): which one an address lies in, and where its unwind table is.
//!
//! glibc's `_dl_find_object` answers without a lock and without allocating, from signal handlers too. It is there since
//! glibc 2.35; elsewhere no module is known, and stacks are walked by frame pointers.

use core::ffi::CStr;
use core::ops::Range;

/// A module's place in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    start: usize,
    end: usize,
    link_map: usize,
    /// Address of `.eh_frame_hdr`.
    pub(super) unwind_table: usize,
}

#[repr(C)]
struct FoundObject {
    flags: u64,
    map_start: usize,
    map_end: usize,
    link_map: usize,
    eh_frame: usize,
    reserved: [u64; 8],
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(".weak _dl_find_object");

#[cfg(target_arch = "x86_64")]
fn finder() -> Option<unsafe extern "C" fn(usize, *mut FoundObject) -> i32> {
    let place: usize;
    // SAFETY: reads the symbol's address from the GOT; null where the C library has no such function.
    unsafe {
        core::arch::asm!(
            "mov {place}, qword ptr [rip + _dl_find_object@GOTPCREL]",
            place = out(reg) place,
            options(nostack, preserves_flags, readonly, pure),
        );
    }
    // SAFETY: the function has this type, and null is `None`.
    unsafe { core::mem::transmute(place) }
}

#[cfg(not(target_arch = "x86_64"))]
fn finder() -> Option<unsafe extern "C" fn(usize, *mut FoundObject) -> i32> {
    None
}

impl Module {
    /// The module that a code address lies in.
    pub(crate) fn around(address: usize) -> Option<Self> {
        let mut found = FoundObject { flags: 0, map_start: 0, map_end: 0, link_map: 0, eh_frame: 0, reserved: [0; 8] };
        // SAFETY: any address may be asked for; the structure is large enough.
        if unsafe { finder()?(address, &raw mut found) } != 0 {
            return None;
        }
        Some(Self {
            start: found.map_start,
            end: found.map_end,
            link_map: found.link_map,
            unwind_table: found.eh_frame,
        })
    }

    /// Whether it is the module of this code, in a library that was loaded into a program: its own frames tell the reader
    /// nothing.
    pub(super) fn is_own_library(&self) -> bool {
        let own = Self::is_own_library as *const () as usize;
        (self.start..self.end).contains(&own) && !self.name().is_empty()
    }

    /// The addresses that it takes up.
    pub(super) fn addresses(&self) -> Range<usize> {
        self.start..self.end
    }

    /// A value at an address within the module.
    pub(super) fn read<T: Copy>(&self, address: usize) -> Option<T> {
        let end = address.checked_add(size_of::<T>())?;
        if address < self.start || end > self.end {
            return None;
        }
        // SAFETY: within a loaded module, whose tables are what is read.
        Some(unsafe { core::ptr::with_exposed_provenance::<T>(address).read_unaligned() })
    }

    /// Address of glibc's `struct link_map` of it.
    pub(super) fn link_map(&self) -> usize {
        self.link_map
    }

    /// How far it was moved from where its file says: what must be taken off an address for `addr2line`.
    pub(crate) fn displacement(&self) -> usize {
        // SAFETY: `l_addr`, the first word of glibc's `struct link_map`.
        unsafe { core::ptr::with_exposed_provenance::<usize>(self.link_map).read() }
    }

    /// Its path; empty for the program itself.
    pub(super) fn path(&self) -> &'static CStr {
        // SAFETY: `l_name`, the second word, null or a terminated string that lives as long as the module.
        unsafe {
            let name = core::ptr::with_exposed_provenance::<*const libc::c_char>(self.link_map).add(1).read();
            if name.is_null() { c"" } else { CStr::from_ptr(name) }
        }
    }

    /// The bytes of its path.
    pub(crate) fn name(&self) -> &'static [u8] {
        self.path().to_bytes()
    }
}
