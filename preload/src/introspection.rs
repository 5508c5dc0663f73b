//! glibc's functions that tell about the heap: `mallinfo`, `malloc_stats`, `malloc_info`, and those that tune it.

use core::ffi::c_int;
use core::fmt::{self, Write};
use hardened_heap::{ClassStats, Mappings, Totals, c_api};

/// Text on the stack: these functions must not allocate what they count.
struct Text {
    bytes: [u8; 1536],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 1536], length: 0 }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Text {
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
    /// Free slots.
    pub ordblks: usize,
    /// Fast bins: there are none.
    pub smblks: usize,
    /// Large chunks.
    pub hblks: usize,
    /// Bytes of large chunks' mappings.
    pub hblkhd: usize,
    /// Always zero, as in glibc.
    pub usmblks: usize,
    /// Fast bins: there are none.
    pub fsmblks: usize,
    /// Bytes of slots of live chunks.
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

/// Slots of a class that are free, wherever they lie.
fn free_slots(class: &ClassStats) -> usize {
    class.retained + class.cached + class.quarantined
}

fn info(totals: &Totals, free_slots: usize) -> Mallinfo2 {
    // Each number means what glibc's manual says, where there is such a thing: a chunk in use counts with all of its slot.
    let arena = totals.committed.saturating_sub(totals.large_active);
    let in_use = totals.active.saturating_sub(totals.large_active);
    Mallinfo2 {
        arena,
        ordblks: free_slots,
        smblks: 0,
        hblks: totals.large_chunks,
        hblkhd: totals.large_active,
        usmblks: 0,
        fsmblks: 0,
        uordblks: in_use,
        fordblks: arena.saturating_sub(in_use),
        keepcost: totals.empty,
    }
}

/// See mallinfo(3).
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> Mallinfo2 {
    let mut free = 0;
    let totals = c_api::totals(|class| free += free_slots(class));
    info(&totals, free)
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
    let totals = c_api::totals(|_| ());
    // Before there is the text: some threads have little stack.
    let mappings = Mappings::of_process();
    let mut text = Text::new();
    let _ = write!(text, "{totals}");
    if let Some(mappings) = mappings {
        let _ = writeln!(text, "  mappings               {:>14}  of at most {}", mappings.used, mappings.limit);
    }
    // By the bare system call: glibc's malloc_stats is no cancellation point, but its write is.
    // SAFETY: a valid buffer. A full or closed stderr loses the text, no more.
    unsafe { libc::syscall(libc::SYS_write, libc::STDERR_FILENO, text.as_bytes().as_ptr(), text.as_bytes().len()) };
}

/// A stream that text is written to piece by piece.
struct Stream(*mut libc::FILE);

impl Write for Stream {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: whoever made this promised an open stream; the text is valid for its length.
        let written = unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), self.0) };
        if written == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// glibc's XML. Readers of glibc's find the elements that they know with the meaning that they know: `sizes` and the
/// totals called `fast` and `rest` are about free memory, `mmap` about large chunks in use. What glibc has no word for has elements
/// and attributes of its own.
fn write_info(out: &mut impl Write) -> fmt::Result {
    // Here the stream allocates its buffer, if it has none yet, so that what is counted below does not change meanwhile.
    out.write_str("<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n")?;
    let (mut from, mut free, mut written) = (1, 0, Ok(()));
    let totals = c_api::totals(|class| {
        free += free_slots(class);
        if class.is_used() && written.is_ok() {
            written = write_class(out, class, from);
        }
        from = class.size + 1;
    });
    written?;
    let info = info(&totals, free);
    out.write_str("</sizes>\n")?;
    write_totals(out, &totals, &info)?;
    out.write_str("</heap>\n")?;
    write_totals(out, &totals, &info)?;
    let Totals { allocated, active, cached, quarantined, retained, metadata, resident, .. } = totals;
    writeln!(
        out,
        "<testudo chunks=\"{}\" allocated=\"{allocated}\" active=\"{active}\" cached=\"{cached}\" \
         quarantined=\"{quarantined}\" retained=\"{retained}\" metadata=\"{metadata}\" resident=\"{resident}\" \
         guarded_chunks=\"{}\" guarded_allocated=\"{}\" guarded_active=\"{}\" zero_sized=\"{}\" caches=\"{}\" violations=\"{}\"/>",
        totals.chunks,
        totals.guarded_chunks,
        totals.guarded_allocated,
        totals.guarded_active,
        totals.zero_sized,
        totals.caches,
        totals.violations
    )?;
    if let Some(mappings) = Mappings::of_process() {
        writeln!(out, "<mappings used=\"{}\" limit=\"{}\"/>", mappings.used, mappings.limit)?;
    }
    out.write_str("</malloc>\n")
}

/// One line about a class, which serves requests of `from` bytes and more.
fn write_class(out: &mut impl Write, class: &ClassStats, from: usize) -> fmt::Result {
    let free = free_slots(class);
    writeln!(
        out,
        "  <size from=\"{from}\" to=\"{}\" total=\"{}\" count=\"{free}\" live=\"{}\" cached=\"{}\" \
         quarantined=\"{}\" slabs=\"{}\"/>",
        class.size,
        free * class.stride,
        class.live,
        class.cached,
        class.quarantined,
        class.slabs
    )
}

fn write_totals(out: &mut impl Write, totals: &Totals, info: &Mallinfo2) -> fmt::Result {
    writeln!(
        out,
        "<total type=\"fast\" count=\"0\" size=\"0\"/>\n<total type=\"rest\" count=\"{}\" size=\"{}\"/>\n\
         <total type=\"mmap\" count=\"{}\" size=\"{}\"/>\n<system type=\"current\" size=\"{}\"/>\n\
         <system type=\"max\" size=\"{}\"/>\n<aspace type=\"total\" size=\"{}\"/>\n\
         <aspace type=\"mprotect\" size=\"{}\"/>",
        info.ordblks,
        info.fordblks,
        info.hblks,
        info.hblkhd,
        totals.committed,
        totals.peak,
        totals.committed + totals.large_quarantined,
        totals.committed,
    )
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
    match write_info(&mut Stream(stream)) {
        Ok(()) => 0,
        Err(fmt::Error) => -1,
    }
}

/// See malloc_trim(3). Returns 1 when memory was given back, so that a program may repeat it until none is.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    c_int::from(c_api::purge())
}

/// See mallopt(3). Glibc's parameters mean nothing here; each is accepted and ignored.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}
