//! The C and C++ functions with hostile arguments: any sizes, counts and alignments, on the heap of the process. Each gives
//! what its manual promises or refuses as the manual says, leaves `errno` alone where it should, and no byte of a chunk
//! is lost.
//!
//! An address that is no chunk ends the process, so only `object_size`, which takes anything, is asked about such here;
//! what a private heap says to them is `heap_operations`' part.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::ffi::c_void;
use std::ptr::null_mut;
use testudo::c_api::{self, New};

/// Limits of the process-wide heap, in MiB: large enough that no chunk of a case is refused for the sum of all.
const LIMITS: &str = "heap_limit_mb=4096:max_alloc_mb=64";
/// The largest request that must succeed, in bytes.
const LARGEST: usize = 64 << 20;
/// Bytes of alignment up to which a request must succeed.
const LARGEST_ALIGN: usize = 1 << 22;
/// Calls in a case.
const CALLS: usize = 60;
/// No call sets `errno` to this.
const UNTOUCHED: i32 = 12_345;
/// Bytes that are looked at on each side of a long chunk.
const EDGE: usize = 600;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    Small(u8),
    Medium(u16),
    Large(u32),
    /// Around a power of two, from both sides.
    Power(u8, i8),
    /// Below the largest number.
    Huge(u16),
    Any(u64),
}

impl Size {
    fn bytes(self) -> usize {
        match self {
            Self::Small(size) => size.into(),
            Self::Medium(size) => size.into(),
            Self::Large(size) => size as usize % (LARGEST + 2),
            Self::Power(log2, by) => (1_usize << (log2 % 64)).wrapping_add_signed(by.into()),
            Self::Huge(below) => usize::MAX - usize::from(below),
            Self::Any(size) => size as usize,
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Call {
    Malloc(Size),
    Calloc(Size, Size),
    Realloc(u8, Size),
    ReallocNull(Size),
    Reallocarray(u8, Size, Size),
    Memalign(Size, Size),
    AlignedAlloc(Size, Size),
    PosixMemalign(Size, Size),
    Valloc(Size),
    Pvalloc(Size),
    New(bool, Size),
    NewAligned(bool, Size, Size),
    /// Gives a chunk back by any function that goes with it.
    Free(u8, bool),
    FreeNull(Size, Size),
    UsableSize(u8),
    /// Any address, or one so far from a chunk's.
    ObjectSize(u64, Option<u8>),
    CheckHeap,
    Purge,
}

/// Which functions go with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Malloc,
    Memalign,
    New(New),
    AlignedNew(New),
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    start: *mut c_void,
    size: usize,
    align: usize,
    family: Family,
}

impl Chunk {
    /// The first and the last bytes, which are all of a chunk that is not long.
    fn edges(&self) -> [&mut [u8]; 2] {
        let front = self.size.min(EDGE);
        let back = (self.size - front).min(EDGE);
        if self.size == 0 {
            return [&mut [], &mut []];
        }
        let start = self.start.cast::<u8>();
        // SAFETY: the chunk is live and so long, and known only here; the parts do not overlap.
        unsafe {
            [
                std::slice::from_raw_parts_mut(start, front),
                std::slice::from_raw_parts_mut(start.add(self.size - back), back),
            ]
        }
    }

    /// A number that the chunk's bytes are made from.
    fn tag(&self) -> u8 {
        (self.start.addr() >> 4) as u8 | 1
    }

    fn own(&self) {
        let tag = self.tag();
        self.edges().into_iter().for_each(|edge| edge.fill(tag));
    }

    fn expect_own(&self) {
        let tag = self.tag();
        assert!(self.edges().iter().all(|edge| edge.iter().all(|&byte| byte == tag)), "a byte of {self:?} was changed");
    }

    fn expect_zero(&self) {
        assert!(self.edges().iter().all(|edge| edge.iter().all(|&byte| byte == 0)), "{self:?} is not zeroed");
    }
}

fn set_errno(value: i32) {
    // SAFETY: the calling thread's errno.
    unsafe { *libc::__errno_location() = value };
}

fn errno() -> i32 {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

fuzz_target!(init: {
    // SAFETY: nothing else runs yet.
    unsafe { std::env::set_var("TESTUDO_OPTIONS", LIMITS) };
}, |calls: Vec<Call>| {
    let mut chunks = Vec::new();
    for &call in calls.iter().take(CALLS) {
        make(call, &mut chunks);
    }
    for chunk in chunks {
        free(chunk, false);
    }
    c_api::check_heap();
});

fn make(call: Call, chunks: &mut Vec<Chunk>) {
    let new = |array| if array { New::Array } else { New::Single };
    set_errno(UNTOUCHED);
    let made = match call {
        Call::Malloc(size) => {
            let size = size.bytes();
            made(c_api::malloc(size), Some(size), 16, Family::Malloc)
        }
        Call::Calloc(count, size) => {
            let (count, size) = (count.bytes(), size.bytes());
            let made = made(c_api::calloc(count, size), count.checked_mul(size), 16, Family::Malloc);
            made.inspect(Chunk::expect_zero)
        }
        Call::ReallocNull(size) => {
            let size = size.bytes();
            made(c_api::realloc(null_mut(), size), Some(size), 16, Family::Malloc)
        }
        Call::Realloc(which, size) => {
            return realloc(which, Some(size.bytes()), |chunk| c_api::realloc(chunk, size.bytes()), chunks);
        }
        Call::Reallocarray(which, count, size) => {
            let (count, size) = (count.bytes(), size.bytes());
            return realloc(which, count.checked_mul(size), |chunk| c_api::reallocarray(chunk, count, size), chunks);
        }
        Call::Memalign(align, size) => {
            let (align, size) = (align.bytes(), size.bytes());
            match align.max(1).checked_next_power_of_two() {
                Some(rounded) => made(c_api::memalign(align, size), Some(size), rounded, Family::Memalign),
                None => invalid(c_api::memalign(align, size)),
            }
        }
        Call::AlignedAlloc(align, size) => {
            let (align, size) = (align.bytes(), size.bytes());
            let chunk = c_api::aligned_alloc(align, size);
            if align.is_power_of_two() { made(chunk, Some(size), align, Family::Memalign) } else { invalid(chunk) }
        }
        Call::PosixMemalign(align, size) => posix_memalign(align.bytes(), size.bytes()),
        Call::Valloc(size) => made(c_api::valloc(size.bytes()), Some(size.bytes()), 4096, Family::Memalign),
        Call::Pvalloc(size) => {
            let pages = size.bytes().checked_next_multiple_of(4096);
            made(c_api::pvalloc(size.bytes()), pages, 4096, Family::Memalign)
        }
        Call::New(array, size) => {
            made(c_api::new(new(array), size.bytes()), Some(size.bytes()), 16, Family::New(new(array)))
        }
        Call::NewAligned(array, size, align) => {
            let (size, align) = (size.bytes(), align.bytes());
            let chunk = c_api::new_aligned(new(array), size, align);
            if align.is_power_of_two() {
                made(chunk, Some(size), align, Family::AlignedNew(new(array)))
            } else {
                assert!(chunk.is_null());
                None
            }
        }
        Call::Free(which, sized) => {
            if let Some(which) = usize::from(which).checked_rem(chunks.len()) {
                free(chunks.swap_remove(which), sized);
            }
            None
        }
        Call::FreeNull(align, size) => {
            c_api::free(null_mut());
            c_api::free_sized(null_mut(), size.bytes());
            c_api::free_aligned_sized(null_mut(), align.bytes(), size.bytes());
            c_api::delete(New::Single, null_mut());
            c_api::delete_sized(New::Array, null_mut(), size.bytes());
            c_api::delete_aligned(New::Single, null_mut(), Some(size.bytes()), align.bytes());
            assert_eq!((c_api::usable_size(null_mut()), errno()), (0, UNTOUCHED));
            None
        }
        Call::UsableSize(which) => {
            if let Some(which) = usize::from(which).checked_rem(chunks.len()) {
                assert_eq!(c_api::usable_size(chunks[which].start), chunks[which].size);
                chunks[which].expect_own();
            }
            None
        }
        Call::ObjectSize(address, near) => {
            object_size(address as usize, near, chunks);
            None
        }
        Call::CheckHeap => {
            c_api::check_heap();
            None
        }
        Call::Purge => {
            c_api::purge();
            assert_eq!(errno(), UNTOUCHED);
            None
        }
    };
    if let Some(chunk) = made {
        assert!(!chunks.iter().any(|other| overlap(other, &chunk)), "{chunk:?} is somebody else's");
        chunk.own();
        chunks.push(chunk);
    }
}

fn overlap(one: &Chunk, other: &Chunk) -> bool {
    let (one_start, other_start) = (one.start.addr(), other.start.addr());
    one_start < other_start + other.size.max(1) && other_start < one_start + one.size.max(1)
}

/// Claims that a call gave what it must, where `size` is what was asked for; `None` if that was more than there are numbers.
fn made(start: *mut c_void, size: Option<usize>, align: usize, family: Family) -> Option<Chunk> {
    let possible = size.filter(|&size| size <= LARGEST);
    let Some(size) = possible.filter(|_| !start.is_null()) else {
        assert!(start.is_null(), "{size:?} bytes were given");
        assert!(possible.is_none() || align > LARGEST_ALIGN, "{size:?} bytes at {align} were refused");
        assert_eq!(errno(), libc::ENOMEM);
        return None;
    };
    assert_eq!(errno(), UNTOUCHED);
    assert!(start.addr().is_multiple_of(align.max(16)), "{start:p} is not aligned to {align}");
    assert_eq!(c_api::usable_size(start), size);
    Some(Chunk { start, size, align, family })
}

/// Claims that an alignment was refused.
fn invalid(chunk: *mut c_void) -> Option<Chunk> {
    assert!(chunk.is_null());
    assert_eq!(errno(), libc::EINVAL);
    None
}

fn posix_memalign(align: usize, size: usize) -> Option<Chunk> {
    let nowhere = std::ptr::without_provenance_mut(1);
    let mut place = nowhere;
    // SAFETY: `place` is writable.
    let code = unsafe { c_api::posix_memalign(&raw mut place, align, size) };
    assert_eq!(errno(), UNTOUCHED);
    if code != 0 {
        assert_eq!(place, nowhere);
        let valid = align.is_power_of_two() && align.is_multiple_of(8);
        assert_eq!(code, if valid { libc::ENOMEM } else { libc::EINVAL });
        assert!(!valid || size > LARGEST || align > LARGEST_ALIGN, "{size} bytes at {align} were refused");
        return None;
    }
    made(place, Some(size), align, Family::Memalign)
}

fn realloc(which: u8, size: Option<usize>, call: impl FnOnce(*mut c_void) -> *mut c_void, chunks: &mut Vec<Chunk>) {
    let fit = |chunk: &Chunk| matches!(chunk.family, Family::Malloc | Family::Memalign);
    let count = chunks.iter().filter(|chunk| fit(chunk)).count();
    let Some(which) = usize::from(which).checked_rem(count) else { return };
    let Some(which) = chunks.iter().enumerate().filter(|(_, chunk)| fit(chunk)).nth(which).map(|(index, _)| index)
    else {
        return;
    };
    let old = chunks.swap_remove(which);
    old.expect_own();
    let moved = call(old.start);
    if size == Some(0) {
        // Freed, as glibc does it.
        assert!(moved.is_null());
        assert_eq!(errno(), UNTOUCHED);
        return;
    }
    let Some(new) = made(moved, size, 16, Family::Malloc) else {
        old.expect_own();
        return chunks.push(old);
    };
    let kept = old.size.min(new.size).min(EDGE);
    let [front, _] = new.edges();
    assert!(front[..kept].iter().all(|&byte| byte == old.tag()), "realloc lost contents of {old:?}");
    new.own();
    chunks.push(new);
}

fn free(chunk: Chunk, sized: bool) {
    let Chunk { start, size, align, family } = chunk;
    chunk.expect_own();
    set_errno(UNTOUCHED);
    match (family, sized) {
        (Family::Malloc | Family::Memalign, false) => c_api::free(start),
        (Family::Malloc, true) => c_api::free_sized(start, size),
        (Family::Memalign, true) => c_api::free_aligned_sized(start, align, size),
        (Family::New(new), false) => c_api::delete(new, start),
        (Family::New(new), true) => c_api::delete_sized(new, start, size),
        (Family::AlignedNew(new), _) => c_api::delete_aligned(new, start, sized.then_some(size), align),
    }
    assert_eq!(errno(), UNTOUCHED);
    assert_eq!(c_api::object_size(start), None);
}

/// An address is known if and only if it is a chunk's.
fn object_size(address: usize, near: Option<u8>, chunks: &[Chunk]) {
    let near = near.and_then(|near| usize::from(near).checked_rem(chunks.len())).and_then(|near| chunks.get(near));
    let address = near.map_or(address, |chunk| chunk.start.addr().wrapping_add_signed(address as i8 as isize));
    let known = chunks.iter().find(|chunk| chunk.start.addr() == address).map(|chunk| chunk.size);
    assert_eq!(c_api::object_size(std::ptr::without_provenance(address)), known);
}
