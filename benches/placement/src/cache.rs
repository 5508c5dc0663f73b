//! The heap of the process and the caches of its threads.

use crate::lock::Lock;
use crate::order::Class;
use crate::os::thread_local;
use crate::quarantine::{PLACES, Quarantine};
use crate::random::Random;
use crate::settings::Settings;
use crate::size_class::{CLASSES, ClassId, FINE_MAX, HEADER};
use crate::slots::{self, FREE, Geometry, LIVE};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Places for ready slots of a class, bytes of ready slots, and slots of the largest batch, as in the product.
const READY: usize = 128;
const READY_BYTES: usize = 32 << 10;
const BATCH: usize = 64;
/// Bytes of quarantine of a thread, as in profile `default`.
const QUARANTINE_BYTES: usize = 512 << 10;

/// What all threads share.
struct Heap {
    settings: Settings,
    /// Two secrets of the checksum.
    secrets: [u64; 2],
    classes: [Lock<Class>; CLASSES],
    registry: Lock<Registry>,
    key: libc::pthread_key_t,
}

struct Registry {
    random: Random,
    /// Caches of threads that have ended.
    left: usize,
}

static HEAP: AtomicUsize = AtomicUsize::new(0);
static MAKING: Lock<()> = Lock::new(());

struct Bin {
    geometry: Geometry,
    ready: [usize; READY],
    length: usize,
    most: usize,
    batch: usize,
    quarantine: Quarantine,
}

/// The slots of one thread.
struct Cache {
    heap: &'static Heap,
    random: Random,
    next: usize,
    bins: [Bin; CLASSES],
}

fn map<T>() -> *mut T {
    // SAFETY: a fresh anonymous mapping.
    let address = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        crate::os::process::exit_now(2);
    }
    address.cast()
}

#[cold]
fn heap() -> &'static Heap {
    let known = HEAP.load(Ordering::Acquire);
    let address = if known != 0 {
        known
    } else {
        let _making = MAKING.lock();
        match HEAP.load(Ordering::Acquire) {
            0 => make_heap(),
            made => made,
        }
    };
    // SAFETY: made below and never unmapped.
    unsafe { &*core::ptr::with_exposed_provenance(address) }
}

fn make_heap() -> usize {
    slots::reserve();
    let heap = map::<Heap>();
    let Ok(mut random) = Random::from_kernel() else { crate::os::process::exit_now(2) };
    let mut key = 0;
    // SAFETY: a fresh mapping of the right size; every field is written before a reference exists.
    unsafe {
        libc::pthread_key_create(&raw mut key, Some(leave));
        (&raw mut (*heap).settings).write(Settings::read());
        (&raw mut (*heap).secrets).write([random.u64(), random.u64()]);
        (&raw mut (*heap).key).write(key);
        for class in ClassId::all() {
            (&raw mut (*heap).classes).cast::<Lock<Class>>().add(class.index()).write(Lock::new(Class::new(class)));
        }
        (&raw mut (*heap).registry).write(Lock::new(Registry { random, left: 0 }));
    }
    let address = heap.expose_provenance();
    HEAP.store(address, Ordering::Release);
    address
}

/// The calling thread's cache.
#[inline(always)]
fn cache() -> &'static mut Cache {
    let mut address = thread_local::get();
    if address == 0 {
        address = adopt();
    }
    // SAFETY: the thread's own cache; the experiment has no signal handlers that allocate.
    unsafe { &mut *core::ptr::with_exposed_provenance_mut(address) }
}

#[cold]
fn adopt() -> usize {
    let heap = heap();
    let mut registry = heap.registry.lock();
    let mut address = registry.left;
    if address == 0 {
        let cache = map::<Cache>();
        // SAFETY: as in `make_heap`.
        unsafe {
            (&raw mut (*cache).heap).write(heap);
            (&raw mut (*cache).random).write(registry.random.fork());
            for class in ClassId::all() {
                let stride = class.stride();
                // As in the product: a class has a 64th of the quarantine, and eight places at least.
                let places = (QUARANTINE_BYTES / 64 / stride).clamp(8, PLACES);
                let bin = (&raw mut (*cache).bins).cast::<Bin>().add(class.index());
                (&raw mut (*bin).geometry).write(Geometry::new(class));
                (&raw mut (*bin).most).write((READY_BYTES / stride).clamp(2, READY));
                (&raw mut (*bin).batch).write(8);
                (&raw mut (*bin).quarantine).write(Quarantine::new(heap.settings.returns, places));
            }
        }
        address = cache.expose_provenance();
    } else {
        // SAFETY: a cache that its thread has left.
        registry.left = unsafe { (*core::ptr::with_exposed_provenance::<Cache>(address)).next };
    }
    drop(registry);
    thread_local::set(address);
    // SAFETY: the key exists. It may allocate: the cache is there by now.
    unsafe { libc::pthread_setspecific(heap.key, core::ptr::without_provenance(address)) };
    address
}

/// A thread ends: its cache, with all that is in it, waits for the next one.
extern "C" fn leave(cache: *mut libc::c_void) {
    let cache = cache.cast::<Cache>();
    thread_local::set(0);
    let mut registry = heap().registry.lock();
    // SAFETY: the thread's own cache, which it no longer uses.
    unsafe { (*cache).next = registry.left };
    registry.left = cache.addr();
    let _ = cache.expose_provenance();
}

#[inline(always)]
fn header(chunk: usize) -> &'static AtomicU64 {
    // SAFETY: chunks of the arena have a header in front.
    unsafe { &*core::ptr::with_exposed_provenance(chunk - HEADER) }
}

impl Heap {
    /// The header of a chunk: its fields, and a keyed checksum of address and fields.
    #[inline(always)]
    fn seal(&self, chunk: usize, fields: u32) -> u64 {
        let product = u128::from(chunk as u64 ^ self.secrets[0]) * u128::from(u64::from(fields) ^ self.secrets[1]);
        let folded = product as u64 ^ (product >> 64) as u64;
        (folded & !0xffff_ffff) | u64::from(fields)
    }
}

/// The lowest bits of the fields of a free slot; a live one has its size.
const FREED: u32 = 1 << 31;

/// A chunk for the program; `None` when the size is not a small one.
#[inline(always)]
pub(crate) fn allocate(size: usize) -> Option<usize> {
    let class = if size <= FINE_MAX { ClassId::for_fine_size(size) } else { ClassId::for_size(size)? };
    let cache = cache();
    let bin = &mut cache.bins[class.index()];
    let chunk = match bin.length.checked_sub(1) {
        Some(last) => {
            bin.length = last;
            bin.ready[last & (READY - 1)]
        }
        None => refill(cache, class),
    };
    let bin = &cache.bins[class.index()];
    let old = header(chunk).load(Ordering::Relaxed);
    if old != cache.heap.seal(chunk, old as u32) || !is_zero(chunk, bin.geometry.stride - HEADER) {
        stop();
    }
    header(chunk).store(cache.heap.seal(chunk, size as u32), Ordering::Relaxed);
    bin.geometry.state(bin.geometry.index(chunk)).store(LIVE, Ordering::Relaxed);
    Some(chunk)
}

#[cold]
#[inline(never)]
fn refill(cache: &mut Cache, class: ClassId) -> usize {
    let heap = cache.heap;
    let bin = &mut cache.bins[class.index()];
    let most = bin.most.div_ceil(2).min(BATCH);
    let wanted = bin.batch.min(most);
    bin.batch = (bin.batch * 2).min(most);
    let mut batch = [0; BATCH];
    let batch = &mut batch[..wanted];
    heap.classes[class.index()].lock().take(&heap.settings, &mut cache.random, batch);
    for &chunk in batch.iter().rev() {
        // Never handed out before: the product writes such headers at the same time.
        if header(chunk).load(Ordering::Relaxed) == 0 {
            header(chunk).store(heap.seal(chunk, FREED), Ordering::Relaxed);
        }
        bin.geometry.state(bin.geometry.index(chunk)).store(FREE, Ordering::Relaxed);
        bin.ready[bin.length & (READY - 1)] = chunk;
        bin.length += 1;
    }
    bin.length -= 1;
    bin.ready[bin.length & (READY - 1)]
}

/// Takes back a chunk of the arena, whose class and address are known to go together.
#[inline(always)]
pub(crate) fn free(class: ClassId, chunk: usize) {
    let cache = cache();
    let bin = &mut cache.bins[class.index()];
    let state = bin.geometry.state(bin.geometry.index(chunk));
    let old = header(chunk).load(Ordering::Relaxed);
    if state.load(Ordering::Relaxed) != LIVE || old != cache.heap.seal(chunk, old as u32) {
        stop();
    }
    state.store(FREE, Ordering::Relaxed);
    // SAFETY: the chunk was the program's, and has so many bytes.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk).write_bytes(0, bin.geometry.stride - HEADER) };
    header(chunk).store(cache.heap.seal(chunk, old as u32 | FREED), Ordering::Relaxed);
    let Bin { ready, length, most, quarantine, .. } = bin;
    quarantine.push(cache.heap.settings.returns, chunk, &mut cache.random, |chunk| {
        if *length >= *most {
            // The older half goes back to the slabs.
            let count = length.div_ceil(2);
            cache.heap.classes[class.index()].lock().give_back(&ready[..count]);
            ready.copy_within(count..*length, 0);
            *length -= count;
        }
        ready[*length & (READY - 1)] = chunk;
        *length += 1;
    });
}

/// The size that was asked for.
pub(crate) fn size(chunk: usize) -> usize {
    header(chunk).load(Ordering::Relaxed) as u32 as usize
}

#[inline(always)]
fn is_zero(chunk: usize, bytes: usize) -> bool {
    let words = core::ptr::with_exposed_provenance::<u64>(chunk);
    // SAFETY: the slot is this thread's, and `bytes`, a multiple of 8, long.
    (0..bytes / 8).fold(0, |seen, word| seen | unsafe { *words.add(word) }) == 0
}

#[cold]
fn stop() -> ! {
    crate::os::process::write_all(2, b"testudo-placement: a damaged slot\n");
    crate::os::process::abort()
}
