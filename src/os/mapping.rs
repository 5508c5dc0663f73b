//! Address space and memory: `mmap`, `mprotect`, `madvise`, `mremap` as typed calls that return an
//! error instead of a magic pointer.
//!
//! Every call keeps `errno` as it found it: `free` must not change it, and `malloc` sets it in one
//! place only.

#[cfg(test)]
use super::interference::{self, Call};
use super::process::Errno;
use core::ffi::CStr;
use core::ptr;

/// Bytes in a page. x86-64 Linux has no other base page size.
pub(crate) const PAGE: usize = 4096;

/// Bytes in a transparent huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// The kernel refused the memory or the address range (limits, overcommit, `vm.max_map_count`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// `bytes` rounded up to whole pages; saturates below the end of the address space.
pub(crate) const fn page_ceil(bytes: usize) -> usize {
    bytes.saturating_add(PAGE - 1) & !(PAGE - 1)
}

/// `address` rounded down to the start of its page.
pub(crate) const fn page_floor(address: usize) -> usize {
    address & !(PAGE - 1)
}

fn map(hint: usize, bytes: usize, protection: i32, flags: i32) -> Result<usize, OutOfMemory> {
    #[cfg(test)]
    if interference::is_too_long(bytes) || interference::is_refused(Call::Map) {
        return Err(OutOfMemory);
    }
    let _errno = Errno::keep();
    // SAFETY: an anonymous private mapping; where MAP_FIXED is among the flags, the caller owns the range.
    let address = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(hint),
            bytes,
            protection,
            flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(OutOfMemory);
    }
    Ok(address.expose_provenance())
}

/// Reserves `bytes` of inaccessible address space, near `hint` where that is free.
pub(crate) fn reserve(hint: usize, bytes: usize) -> Result<usize, OutOfMemory> {
    let start = map(hint, bytes, libc::PROT_NONE, libc::MAP_NORESERVE)?;
    #[cfg(test)]
    interference::note_reserved(start..start + bytes);
    Ok(start)
}

fn protect(address: usize, bytes: usize, protection: i32) -> Result<(), OutOfMemory> {
    #[cfg(test)]
    if interference::is_refused(Call::Protect) {
        return Err(OutOfMemory);
    }
    let _errno = Errno::keep();
    // SAFETY: the caller owns the range; changing its protection touches nobody else's memory.
    let result = unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(address), bytes, protection) };
    if result == 0 { Ok(()) } else { Err(OutOfMemory) }
}

/// Makes a range of a reservation readable and writable.
pub(crate) fn commit(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    protect(address, bytes, libc::PROT_READ | libc::PROT_WRITE)
}

/// Makes a range inaccessible; its pages keep their contents.
pub(crate) fn make_inaccessible(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    protect(address, bytes, libc::PROT_NONE)
}

/// Replaces a range by fresh inaccessible address space: its pages go back to the system at once.
pub(crate) fn discard(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    map(address, bytes, libc::PROT_NONE, libc::MAP_NORESERVE | libc::MAP_FIXED).map(|_| ())
}

/// Gives the pages of a range back; it stays accessible and reads as zeroes.
///
/// `MADV_DONTNEED`, never `MADV_FREE`: the latter may show the old contents again.
pub(crate) fn release(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    advise(address, bytes, libc::MADV_DONTNEED)
}

/// Gives the pages of a range back and makes it inaccessible, as a part of the mapping that it lies in: made accessible
/// again, it is one with its neighbours, which [`relocate`] needs.
pub(crate) fn withdraw(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    release(address, bytes)?;
    make_inaccessible(address, bytes)
}

/// Asks for huge pages in a range. Advice: refusal changes nothing but speed.
pub(crate) fn advise_huge(address: usize, bytes: usize) {
    let _ = advise(address, bytes, libc::MADV_HUGEPAGE);
}

/// Keeps a range out of huge pages, where one touched byte would make 2 MiB resident.
pub(crate) fn advise_no_huge(address: usize, bytes: usize) {
    let _ = advise(address, bytes, libc::MADV_NOHUGEPAGE);
}

/// Brings a range into memory for reading.
///
/// # Errors
/// When a page of it cannot be read, and on kernels before 5.14.
pub(crate) fn populate(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    advise(address, bytes, libc::MADV_POPULATE_READ)
}

/// Has the kernel keep a range as a mapping of its own, whatever the protection of those beside it: advice that says nothing
/// about anonymous memory (how its file would be read) makes them differ. Refusal costs speed only.
pub(crate) fn set_apart(address: usize, bytes: usize) {
    let _ = advise(address, bytes, libc::MADV_RANDOM);
}

fn advise(address: usize, bytes: usize, advice: i32) -> Result<(), OutOfMemory> {
    #[cfg(test)]
    if interference::is_refused(Call::Advise) {
        return Err(OutOfMemory);
    }
    let _errno = Errno::keep();
    // SAFETY: the caller owns the range.
    let result = unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), bytes, advice) };
    if result == 0 { Ok(()) } else { Err(OutOfMemory) }
}

/// Turns the huge page at `address`, if there is one, into ordinary ones, so that a part of it can go back to the system: of a
/// huge page that is unmapped in part the kernel keeps the whole until memory is short. As a side effect the page at `address` counts as
/// one that was not used lately.
pub(crate) fn split_huge_page(address: usize) {
    let _ = advise(address, PAGE, libc::MADV_COLD);
}

/// Why pages were not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotMoved {
    /// The kernel refused the memory or the address range.
    OutOfMemory,
    /// The range is not one mapping to the kernel, or moving is forbidden: more memory would not help.
    Never,
}

impl From<OutOfMemory> for NotMoved {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Moves the pages of `[from, from + bytes)` to `to` and grows them there to `new_bytes`, without copying.
/// `to` must be reserved address space of at least `new_bytes`.
pub(crate) fn relocate(from: usize, bytes: usize, to: usize, new_bytes: usize) -> Result<(), NotMoved> {
    #[cfg(test)]
    if interference::is_refused(Call::Move) {
        return Err(NotMoved::OutOfMemory);
    }
    let _errno = Errno::keep();
    // SAFETY: the caller owns both ranges.
    let result = unsafe {
        libc::mremap(
            ptr::with_exposed_provenance_mut(from),
            bytes,
            new_bytes,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            ptr::with_exposed_provenance_mut::<libc::c_void>(to),
        )
    };
    if result != libc::MAP_FAILED {
        return Ok(());
    }
    // SAFETY: errno of this thread.
    Err(if unsafe { *libc::__errno_location() } == libc::ENOMEM { NotMoved::OutOfMemory } else { NotMoved::Never })
}

/// Has the kernel show a range as `[anon:NAME]` in `/proc/PID/maps`, where it can (Linux 5.17, with CONFIG_ANON_VMA_NAME).
///
/// Only for whole reservations, and before the program begins: parts with different names never become one mapping
/// again, and a sandbox that the program enters later may kill it for this call.
pub(crate) fn name(address: usize, bytes: usize, name: &CStr) {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;
    let _errno = Errno::keep();
    // SAFETY: the caller owns the range, of which nothing but the name changes; the name is terminated. A refusal leaves it
    // without one.
    unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, bytes, name.as_ptr()) };
}

/// Gives address space and memory back.
pub(crate) fn unmap(address: usize, bytes: usize) {
    #[cfg(test)]
    interference::note_unmapped(&(address..address + page_ceil(bytes)));
    let _errno = Errno::keep();
    // SAFETY: the caller owns the range and keeps no reference into it. A refusal (the mapping limit can
    // stop a split) leaves the range mapped, which wastes it but harms nobody.
    let _ = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(address), bytes) };
}

/// How many bytes of a range have a page in memory. Asked of the kernel for 4 MiB at a time, because some threads
/// have little stack.
pub(crate) fn resident(start: usize, bytes: usize) -> usize {
    const PAGES: usize = 1024;
    let _errno = Errno::keep();
    let mut pages = [0_u8; PAGES];
    let (mut address, end) = (page_floor(start), page_ceil(start + bytes));
    let mut count = 0;
    while address < end {
        let part = (end - address).min(PAGES * PAGE);
        // SAFETY: only asks; one byte for each page is writable. A hole in the range is an error, which counts as nothing.
        let result = unsafe { libc::mincore(ptr::with_exposed_provenance_mut(address), part, pages.as_mut_ptr()) };
        if result == 0 {
            count += pages.iter().take(part / PAGE).filter(|&&page| page & 1 != 0).count();
        }
        address += part;
    }
    count * PAGE
}

/// `madvise` advice of Linux 6.13: page-table markers that fault on access. They cost no mapping, so
/// `vm.max_map_count` does not limit them.
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// Gives the pages of a range back and makes it inaccessible without splitting its mapping.
/// Fails on kernels before 6.13.
pub(crate) fn install_guard(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    advise(address, bytes, MADV_GUARD_INSTALL)
}

/// Takes back [`install_guard`]: the range is accessible and zero.
pub(crate) fn remove_guard(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    advise(address, bytes, MADV_GUARD_REMOVE)
}

/// Replaces a range by fresh memory: accessible and zero, whatever it was before.
pub(crate) fn replace(address: usize, bytes: usize) -> Result<(), OutOfMemory> {
    map(address, bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_NORESERVE | libc::MAP_FIXED)?;
    advise_no_huge(address, bytes);
    Ok(())
}

/// Whether a byte can be read: asked of the kernel, which copies it into a pipe or refuses.
#[cfg(test)]
pub(crate) fn is_accessible(address: usize) -> bool {
    let byte = core::ptr::without_provenance::<libc::c_void>(address);
    let mut pipe = [0; 2];
    // SAFETY: a pipe of the test's own; the kernel looks before it reads.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        let written = libc::write(pipe[1], byte, 1);
        libc::close(pipe[0]);
        libc::close(pipe[1]);
        written == 1
    }
}
