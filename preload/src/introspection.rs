//! glibc's functions that tell about the heap: `mallinfo`, `malloc_stats`, `malloc_info`, and those that tune it.

use core::ffi::c_int;
use core::fmt::{self, Write};
use hardened_heap::{Stats, c_api};

/// Text on the stack: these functions must not allocate what they count.
struct Line {
    bytes: [u8; 1024],
    length: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; 1024], length: 0 }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(text.bytes()) {
            *place = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// glibc's `struct mallinfo2`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Mallinfo2 {
    /// Bytes of slabs with memory behind them.
    pub arena: usize,
    /// Free slots; not counted.
    pub ordblks: usize,
    /// Fast bins: there are none.
    pub smblks: usize,
    /// Large chunks.
    pub hblks: usize,
    /// Bytes of large chunks.
    pub hblkhd: usize,
    /// Always zero, as in glibc.
    pub usmblks: usize,
    /// Fast bins: there are none.
    pub fsmblks: usize,
    /// Bytes of live chunks.
    pub uordblks: usize,
    /// Bytes of free slots.
    pub fordblks: usize,
    /// Bytes that `malloc_trim` would give back.
    pub keepcost: usize,
}

/// glibc's `struct mallinfo`: the same in `int`, cut off where they do not fit.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Mallinfo {
    /// See [`Mallinfo2`]; the fields follow the same order.
    pub fields: [c_int; 10],
}

fn info(stats: &Stats) -> Mallinfo2 {
    let arena = stats.committed.saturating_sub(stats.large_allocated);
    let live_small = stats.allocated.saturating_sub(stats.large_allocated);
    Mallinfo2 {
        arena,
        ordblks: 1,
        smblks: 0,
        hblks: stats.large_chunks,
        hblkhd: stats.large_allocated,
        usmblks: 0,
        fsmblks: 0,
        uordblks: live_small,
        fordblks: arena.saturating_sub(live_small),
        keepcost: stats.empty,
    }
}

/// See mallinfo(3).
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> Mallinfo2 {
    info(&c_api::stats())
}

/// See mallinfo(3).
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> Mallinfo {
    let info = mallinfo2();
    let fields = [
        info.arena,
        info.ordblks,
        info.smblks,
        info.hblks,
        info.hblkhd,
        info.usmblks,
        info.fsmblks,
        info.uordblks,
        info.fordblks,
        info.keepcost,
    ];
    Mallinfo { fields: fields.map(|field| c_int::try_from(field).unwrap_or(c_int::MAX)) }
}

/// See malloc_stats(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    let stats = c_api::stats();
    let mut line = Line::new();
    let _ = writeln!(
        line,
        "testudo: {} bytes in {} chunks live, {} bytes in their slots; {} bytes committed, of which {} in empty slabs; \
         {} large chunks of {} bytes; {} zero-sized chunks",
        stats.allocated,
        stats.chunks,
        stats.active,
        stats.committed,
        stats.empty,
        stats.large_chunks,
        stats.large_allocated,
        stats.zero_sized
    );
    // SAFETY: a valid buffer. A full or closed stderr loses the line, no more.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_bytes().as_ptr().cast(), line.as_bytes().len()) };
}

/// See malloc_info(3).
///
/// # Safety
/// `stream` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    let stats = c_api::stats();
    let info = info(&stats);
    let mut line = Line::new();
    let _ = write!(
        line,
        "<malloc version=\"testudo-1\">\n<heap nr=\"0\">\n<sizes>\n</sizes>\n\
         <total type=\"allocated\" count=\"{}\" size=\"{}\"/>\n<total type=\"mmap\" count=\"{}\" size=\"{}\"/>\n\
         <total type=\"zero\" count=\"{}\" size=\"0\"/>\n<system type=\"current\" size=\"{}\"/>\n\
         <aspace type=\"quarantined\" size=\"{}\"/>\n</heap>\n\
         <total type=\"allocated\" count=\"{}\" size=\"{}\"/>\n<system type=\"current\" size=\"{}\"/>\n</malloc>\n",
        stats.chunks,
        stats.allocated,
        info.hblks,
        info.hblkhd,
        stats.zero_sized,
        stats.committed,
        stats.large_quarantined,
        stats.chunks,
        stats.allocated,
        stats.committed,
    );
    let text = line.as_bytes();
    // SAFETY: the caller's promise; the buffer is valid.
    let written = unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stream) };
    if written == text.len() { 0 } else { -1 }
}

/// See malloc_trim(3). Returns 1: memory may have been given back.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    c_api::purge();
    1
}

/// See mallopt(3). Glibc's parameters mean nothing here; each is accepted and ignored.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}
