//! Where slots lie: one region of address space for each class, with a table of state bytes, of free bits and of slabs
//! beside it. None of it is ever given back.

use crate::size_class::{CLASSES, ClassId, HEADER};
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// Bytes of a region.
const REGION: usize = 16 << 30;
const ARENA: usize = REGION * CLASSES;
/// Bytes of a class's tables: a byte for each slot of the smallest stride, a bit for each, and descriptors of slabs.
const STATES: usize = REGION / 16;
const BITS: usize = STATES / 8;
const SLABS: usize = REGION / (64 << 10) * size_of::<Slab>();
const TABLES: usize = (STATES + BITS + SLABS) * CLASSES;

static ARENA_START: AtomicUsize = AtomicUsize::new(0);
static TABLES_START: AtomicUsize = AtomicUsize::new(0);

/// A slot was handed to the program.
pub(crate) const LIVE: u8 = 1;
/// It is in a cache or in a slab.
pub(crate) const FREE: u8 = 2;

/// What is known about a slab; belongs to the holder of the class's lock. All zeroes before its first use.
pub(crate) struct Slab {
    pub(crate) free: u16,
    /// Whether slots are being taken from it, or it waits for that.
    pub(crate) listed: bool,
    /// The slab that waits behind it.
    pub(crate) next: u32,
}

/// Reserves the address space. The kernel puts memory behind what is touched.
pub(crate) fn reserve() {
    let map = |bytes| {
        // SAFETY: a fresh anonymous mapping.
        let address = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            crate::os::process::write_all(2, b"testudo-placement: no address space\n");
            crate::os::process::exit_now(2);
        }
        address.expose_provenance()
    };
    TABLES_START.store(map(TABLES), Ordering::Relaxed);
    // Slots lie a header's length before multiples of 16.
    ARENA_START.store(map(ARENA + 4096), Ordering::Relaxed);
}

/// The class of the region that an address lies in, and how far in; `None` outside of the arena.
#[inline(always)]
pub(crate) fn region_of(address: usize) -> Option<(ClassId, usize)> {
    let offset = address.wrapping_sub(ARENA_START.load(Ordering::Relaxed));
    if offset >= ARENA {
        return None;
    }
    Some((ClassId::known((offset / REGION) as u8), offset % REGION))
}

/// Logarithm of the number of slots in a slab, as in the product: about 64 KiB, at least 16 slots.
pub(crate) const fn slots_log2(class: ClassId) -> u32 {
    let mut log = 4;
    while class.stride() << log < 64 << 10 && log < 12 {
        log += 1;
    }
    log
}

/// What a class needs to find its slots.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) stride: usize,
    /// 2^64 divided by the stride, rounded up: exact for offsets below 2^40.
    reciprocal: u64,
    first: usize,
    states: usize,
    bits: usize,
    slabs: usize,
    pub(crate) log: u32,
}

impl Geometry {
    pub(crate) fn new(class: ClassId) -> Self {
        let tables = TABLES_START.load(Ordering::Relaxed);
        let stride = class.stride();
        Self {
            stride,
            reciprocal: (u64::MAX / stride as u64) + 1,
            first: ARENA_START.load(Ordering::Relaxed) + class.index() * REGION + 2 * HEADER,
            states: tables + class.index() * STATES,
            bits: tables + CLASSES * STATES + class.index() * BITS,
            slabs: tables + CLASSES * (STATES + BITS) + class.index() * SLABS,
            log: slots_log2(class),
        }
    }

    pub(crate) fn slots(&self) -> u32 {
        1 << self.log
    }

    #[inline(always)]
    pub(crate) fn chunk(&self, index: u32) -> usize {
        self.first + index as usize * self.stride
    }

    #[inline(always)]
    pub(crate) fn index(&self, chunk: usize) -> u32 {
        let offset = chunk.wrapping_sub(self.first) as u64;
        ((u128::from(offset) * u128::from(self.reciprocal)) >> 64) as u32
    }

    #[inline(always)]
    pub(crate) fn state(&self, index: u32) -> &'static AtomicU8 {
        // SAFETY: the table has a byte for each slot of the region and is never unmapped.
        unsafe { &*core::ptr::with_exposed_provenance(self.states + index as usize) }
    }

    /// The word of free bits that slot `base` is in, and the bits of it that belong to the slab.
    pub(crate) fn word(&self, base: u32) -> (&'static AtomicU64, u64) {
        let mask = if self.log >= 6 { !0 } else { ((1 << self.slots()) - 1) << (base & 63 & !(self.slots() - 1)) };
        // SAFETY: as in `state`.
        (unsafe { &*core::ptr::with_exposed_provenance(self.bits + base as usize / 64 * 8) }, mask)
    }

    /// A slab's descriptor, for the holder of the class's lock.
    pub(crate) fn slab(&self, number: u32) -> *mut Slab {
        core::ptr::with_exposed_provenance_mut(self.slabs + number as usize * size_of::<Slab>())
    }
}
