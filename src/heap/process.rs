//! The heap of the process: made at the first request, with a cache for each thread.
//!
//! The first call can come before any constructor and from inside the loader; calls still come after a
//! thread's destructors have run and after `exit` has begun.

use super::allocate::Failure;
use super::core::{Core, PROCESS_ARENA};
use super::demand::Demand;
use super::free::Freed;
use super::{fault, fork, profile_signal};
use crate::chunk::header::Origin;
use crate::heap_profile::HeapProfileError;
use crate::options::{self, Options};
use crate::os::file::Why;
use crate::os::lock::RawLock;
use crate::os::process::{self as os_process, Errno};
use crate::os::{cgroup, environment, thread_local};
use crate::primary::region::OwnedSlot;
use crate::protections::{DefaultProfile, Protections, Set, with_mixture, with_set};
use crate::report;
use crate::size_class::{FINE_MAX, SMALL_MAX};
use crate::stats::{ClassStats, Stats, Totals};
use crate::thread_cache::{ASK, ThreadCache};
use crate::trace;
use crate::violation::{Operation, Violation};
use core::ffi::CStr;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Address of the process-wide heap; zero until it is made.
static HEAP: AtomicUsize = AtomicUsize::new(0);
/// Guards the making of it.
static MAKING: RawLock = RawLock::new();
/// The `pthread` key whose destructor returns a thread's cache, plus one; zero when there is none.
static KEY: AtomicU32 = AtomicU32::new(0);

/// The thread's word is the address of its cache, or one of these.
const NO_CACHE_YET: usize = 0;
const NO_CACHE_ANY_MORE: usize = 1;

/// glibc's bound on rounds of thread-local destructors.
const DESTRUCTOR_ROUNDS: u8 = 4;

/// Options to start from when the process-wide heap is made by `Testudo::with`.
pub(crate) type Start = Options;

/// The calling thread's cache and its heap, if it has one: one load from thread-local storage and a comparison.
#[inline(always)]
fn own_cache() -> Option<&'static mut ThreadCache> {
    let word = thread_local::get();
    if word <= NO_CACHE_ANY_MORE {
        return None;
    }
    // SAFETY: the word is the address of this thread's own cache, which nobody else uses and of which no other
    // reference is alive while one from here is; the heap lives as long as the process.
    unsafe { Some(&mut *core::ptr::with_exposed_provenance_mut::<ThreadCache>(word)) }
}

/// The heap of a thread's own cache.
#[inline(always)]
fn heap_of(cache: &ThreadCache) -> &'static Core {
    // SAFETY: it lives as long as the process.
    unsafe { Core::at(cache.core) }
}

/// A chunk of `size` bytes at a multiple of 2^`align_log2`; zero (and ENOMEM) when there is no memory.
///
/// Profile `default` is compiled into the caller; all else is a call away.
#[inline(always)]
pub(crate) fn allocate(start: &Start, size: usize, align_log2: u32, origin: Origin) -> usize {
    if let Some(cache) = own_cache()
        && cache.set == Some(Set::Default)
        && let Some(chunk) = heap_of(cache).allocate_ready::<DefaultProfile, FINE_MAX>(cache, size, align_log2, origin)
    {
        return chunk;
    }
    allocate_otherwise(start, size, align_log2, origin)
}

/// Allocation in other profiles, and whatever the fast path left. Each profile has a function of its own, so that none saves
/// registers that only another one needs.
#[inline(never)]
fn allocate_otherwise(start: &Start, size: usize, align_log2: u32, origin: Origin) -> usize {
    if let Some(cache) = own_cache()
        && let Some(set) = cache.set
    {
        return with_set!(set, P => allocate_with::<P>(cache, start, size, align_log2, origin));
    }
    allocate_slowly(start, size, align_log2, origin)
}

#[inline(never)]
fn allocate_with<P: Protections>(
    cache: &mut ThreadCache,
    start: &Start,
    size: usize,
    align_log2: u32,
    origin: Origin,
) -> usize {
    match heap_of(cache).allocate_ready::<P, SMALL_MAX>(cache, size, align_log2, origin) {
        Some(chunk) => chunk,
        None => allocate_slowly(start, size, align_log2, origin),
    }
}

#[cold]
#[inline(never)]
fn allocate_slowly(start: &Start, size: usize, align_log2: u32, origin: Origin) -> usize {
    chunk_of(with_slow_cache(start, |core, cache| core.allocate(cache, size, align_log2, origin)))
}

/// A chunk of zeroes, as [`allocate`]: `calloc`.
#[inline(always)]
pub(crate) fn allocate_zeroed(start: &Start, size: usize, align_log2: u32, origin: Origin) -> usize {
    // What is in the cache was zeroed when it was freed: a constant of the profile, which a build with other protections may change.
    if Options::DEFAULT.hands_out_zeroes()
        && let Some(cache) = own_cache()
        && cache.set == Some(Set::Default)
        && let Some(chunk) = heap_of(cache).allocate_ready::<DefaultProfile, FINE_MAX>(cache, size, align_log2, origin)
    {
        return chunk;
    }
    allocate_zeroed_otherwise(start, size, align_log2, origin)
}

/// The same in other profiles: small chunks have their fast paths here too.
#[inline(never)]
fn allocate_zeroed_otherwise(start: &Start, size: usize, align_log2: u32, origin: Origin) -> usize {
    // Not the cache itself: what is called here takes it too.
    if let Some(core) = own_cache().map(|cache| heap_of(cache))
        && (size <= SMALL_MAX || core.options.hands_out_zeroes())
    {
        let chunk = allocate_otherwise(start, size, align_log2, origin);
        if chunk != 0 {
            core.zero_new(chunk, size);
        }
        return chunk;
    }
    chunk_of(with_slow_cache(start, |core, cache| core.allocate_zeroed(cache, size, align_log2, origin)))
}

/// The chunk, or zero and ENOMEM, or the end of the process.
fn chunk_of(outcome: Result<usize, Failure>) -> usize {
    match outcome {
        Ok(chunk) => chunk,
        Err(Failure::OutOfMemory) => {
            Errno::set(libc::ENOMEM);
            0
        }
        Err(Failure::Violation(violation)) => stop(&violation),
    }
}

/// Ends the process if its options are wrong, or if it was asked to list them.
pub(crate) fn check_options() {
    options_of_process(&Options::DEFAULT);
}

/// What the option `deepbind` says: to the heap, if there is one. The program may have changed its environment since, for its children.
pub(crate) fn leaves_deepbind() -> bool {
    let heap = HEAP.load(Ordering::Acquire);
    if heap == 0 {
        return options_of_process(&Options::DEFAULT).deepbind;
    }
    // SAFETY: the process-wide heap is never destroyed.
    unsafe { Core::at(heap) }.options.deepbind
}

/// Takes a chunk back, or ends the process with a report. NULL is nothing.
///
/// Profile `default` is compiled into the caller; all else is a call away.
#[inline(always)]
pub(crate) fn free(chunk: usize, demand: Demand) {
    if let Some(cache) = own_cache()
        && cache.checks == Set::Default
    {
        let core = heap_of(cache);
        match core.free_usual::<DefaultProfile, FINE_MAX>(cache, chunk, demand) {
            Freed::Done => return,
            Freed::Unusual => {}
            unfinished => return finish(core, cache, unfinished),
        }
    }
    free_otherwise(chunk, demand);
}

/// Deallocation in other profiles, and whatever the fast path left. Nothing is done about NULL, which the fast path can't tell
/// from any address that is not the heap's.
#[inline(never)]
fn free_otherwise(chunk: usize, demand: Demand) {
    if chunk == 0 {
        return;
    }
    if let Some(cache) = own_cache() {
        return with_set!(cache.checks, P => free_with::<P>(cache, chunk, demand));
    }
    free_slowly(chunk, demand);
}

#[inline(never)]
fn free_with<P: Protections>(cache: &mut ThreadCache, chunk: usize, demand: Demand) {
    let core = heap_of(cache);
    match core.free_usual::<P, SMALL_MAX>(cache, chunk, demand) {
        Freed::Done => {}
        Freed::Unusual => free_slowly(chunk, demand),
        unfinished => finish(core, cache, unfinished),
    }
}

#[cold]
#[inline(never)]
fn free_slowly(chunk: usize, demand: Demand) {
    let outcome = with_slow_cache(
        &Options::DEFAULT,
        |core, cache| with_mixture!(cache.checks, P => core.free::<P>(cache, chunk, demand)),
    );
    if let Err(violation) = outcome {
        stop(&violation);
    }
}

/// Finishes what the fast path left. Plain arguments, so that the call is the caller's last act and needs no frame.
#[inline(always)]
fn finish(core: &Core, cache: &mut ThreadCache, freed: Freed) {
    match freed {
        Freed::Done | Freed::Unusual => {}
        Freed::Overfull(slot) => make_room(core, cache, slot),
        Freed::AtTurn(slot) => turn(core, cache, slot),
    }
}

#[cold]
#[inline(never)]
fn make_room(core: &Core, cache: &mut ThreadCache, slot: OwnedSlot) {
    if let Err(violation) = core.make_room(cache, core.class_of(slot), slot) {
        stop(&violation);
    }
}

#[cold]
#[inline(never)]
fn turn(core: &Core, cache: &mut ThreadCache, slot: OwnedSlot) {
    if let Err(violation) = core.turn(cache, core.class_of(slot), slot) {
        stop(&violation);
    }
}

/// Changes the size of a chunk; zero (and ENOMEM) when there is no memory, and then the chunk is as it was.
#[inline(never)]
pub(crate) fn reallocate(chunk: usize, size: usize, demand: Demand, align_log2: u32, origin: Origin) -> usize {
    let outcome = with_slow_cache(
        &Options::DEFAULT,
        |core, cache| with_mixture!(cache.checks, P => core.reallocate::<P>(cache, chunk, size, demand, align_log2, origin)),
    );
    match outcome {
        Ok(chunk) => chunk,
        Err(Failure::OutOfMemory) => {
            Errno::set(libc::ENOMEM);
            0
        }
        Err(Failure::Violation(violation)) => stop(&violation),
    }
}

/// The requested size of a live chunk, or the end of the process with a report.
pub(crate) fn usable_size(chunk: usize) -> usize {
    let core = heap(&Options::DEFAULT);
    match core.locate(chunk, Operation::UsableSize) {
        Ok(located) => located.size(),
        Err(violation) => stop(&violation),
    }
}

/// The requested size of a live chunk, or `None` for any other address.
pub(crate) fn object_size(chunk: usize) -> Option<usize> {
    heap(&Options::DEFAULT).locate(chunk, Operation::UsableSize).ok().map(|located| located.size())
}

/// Verifies everything.
pub(crate) fn check() -> Result<(), Violation> {
    with_slow_cache(&Options::DEFAULT, |core, cache| core.check(cache.mark))
}

/// Counts what the heap holds.
pub(crate) fn stats() -> Stats {
    heap(&Options::DEFAULT).stats()
}

/// The same without the classes, each of which `visit` sees in its turn.
pub(crate) fn totals(visit: impl FnMut(&ClassStats)) -> Totals {
    heap(&Options::DEFAULT).totals(visit)
}

/// Verifies everything and counts what the heap holds exactly.
pub(crate) fn check_stats() -> Result<Stats, Violation> {
    with_slow_cache(&Options::DEFAULT, |core, cache| core.check_stats(cache.mark))
}

/// The same without the classes.
pub(crate) fn check_totals() -> Result<Totals, Violation> {
    with_slow_cache(&Options::DEFAULT, |core, cache| core.check_totals(cache.mark, |_| ()))
}

/// Gives free memory back to the system; `false` when there was none.
pub(crate) fn purge() -> bool {
    match with_slow_cache(&Options::DEFAULT, |core, cache| core.purge(cache)) {
        Ok(released) => released,
        Err(violation) => stop(&violation),
    }
}

/// Ends the process with a report, which says what is known of the chunk's past.
#[cold]
#[inline(never)]
fn stop(violation: &Violation) -> ! {
    let address = HEAP.load(Ordering::Acquire);
    // SAFETY: the process-wide heap is never destroyed.
    let history = (address != 0).then(|| unsafe { Core::at(address) }.guarded.history(violation.address)).flatten();
    report::abort(violation, history.as_ref())
}

/// Ends the process with a report.
pub(crate) fn abort(violation: &Violation) -> ! {
    stop(violation)
}

/// Runs `work` with this thread's cache, made if need be, or with the shared one.
fn with_slow_cache<R>(start: &Start, work: impl FnOnce(&'static Core, &mut ThreadCache) -> R) -> R {
    let core = heap(start);
    let word = match thread_local::get() {
        NO_CACHE_YET => make_cache(core),
        word => word,
    };
    if word > NO_CACHE_ANY_MORE {
        // SAFETY: this thread's own cache.
        return work(core, unsafe { &mut *core::ptr::with_exposed_provenance_mut(word) });
    }
    let shared = core.shared.lock();
    // SAFETY: the shared cache was made with the heap, and its lock is held.
    work(core, unsafe { &mut *core::ptr::with_exposed_provenance_mut(*shared) })
}

/// Gives the calling thread a cache; the shared one stands in when there is no memory for that.
fn make_cache(core: &Core) -> usize {
    let _errno = Errno::keep();
    let key = KEY.load(Ordering::Acquire);
    let Some(key) = key.checked_sub(1) else { return NO_CACHE_ANY_MORE };
    let Ok(cache) = core.adopt_cache(false) else { return NO_CACHE_ANY_MORE };
    // SAFETY: just adopted by this thread.
    unsafe { (*core::ptr::with_exposed_provenance_mut::<ThreadCache>(cache)).thread = ASK };
    // Before pthread_setspecific, which may allocate: that call finds the cache.
    thread_local::set(cache);
    // SAFETY: the key was made by `make_heap`. Should it fail, the cache is lost when the thread ends, no more.
    unsafe { libc::pthread_setspecific(key, core::ptr::without_provenance(cache)) };
    cache
}

/// Runs when a thread ends. It puts itself off to the last round of destructors, because those of others still
/// allocate and free; what comes even later goes through the shared cache.
extern "C" fn thread_ends(cache: *mut libc::c_void) {
    let address = cache.addr();
    if thread_local::get() != address {
        return;
    }
    // SAFETY: this thread's own cache.
    let cache = unsafe { &mut *core::ptr::with_exposed_provenance_mut::<ThreadCache>(address) };
    if cache.rounds + 1 < DESTRUCTOR_ROUNDS
        && let Some(key) = KEY.load(Ordering::Acquire).checked_sub(1)
    {
        cache.rounds += 1;
        // SAFETY: as in `make_cache`.
        unsafe { libc::pthread_setspecific(key, core::ptr::without_provenance(address)) };
        return;
    }
    thread_local::set(NO_CACHE_ANY_MORE);
    // SAFETY: the heap of the process lives as long as it.
    let core = unsafe { Core::at(cache.core) };
    if let Err(violation) = core.leave_cache(cache) {
        stop(&violation);
    }
}

/// The process-wide heap, made if need be.
#[inline]
fn heap(start: &Start) -> &'static Core {
    let address = HEAP.load(Ordering::Acquire);
    if address != 0 {
        // SAFETY: made by `make_heap`, never destroyed.
        return unsafe { Core::at(address) };
    }
    make_heap(start)
}

#[cold]
#[inline(never)]
fn make_heap(start: &Start) -> &'static Core {
    let _errno = Errno::keep();
    MAKING.acquire();
    let known = HEAP.load(Ordering::Acquire);
    if known != 0 {
        MAKING.release();
        // SAFETY: as in `heap`.
        return unsafe { Core::at(known) };
    }
    let options = options_of_process(start);
    let address = match Core::create(options, PROCESS_ARENA) {
        Ok(address) => address,
        Err(error) => report::refuse(&format_args!("cannot start: {error}")),
    };
    // SAFETY: just made.
    let core = unsafe { Core::at(address) };
    match core.adopt_cache(true) {
        Ok(shared) => *core.shared.lock() = shared,
        Err(_) => report::refuse(&"cannot start: no memory for the first cache (see ulimit -v)"),
    }
    core.arena.name();
    core.fit_to(cgroup::allowed());
    HEAP.store(address, Ordering::Release);
    MAKING.release();
    // Each of these may allocate, and now can.
    let mut key: libc::pthread_key_t = 0;
    // SAFETY: `key` is a valid place; the destructor has the right type.
    if unsafe { libc::pthread_key_create(&raw mut key, Some(thread_ends)) } == 0 {
        KEY.store(key + 1, Ordering::Release);
    }
    fork::enlist(core);
    if options.sample_rate != 0 && options.guarded_slots != 0 {
        fault::explain_from_now_on(address);
    }
    if options.leak_report {
        // SAFETY: as below.
        unsafe { libc::atexit(leak_report) };
    }
    report::also_to(&core.options.report_path);
    trace::note_sandbox();
    os_process::note_program();
    if options.heap_profile_signal != 0 {
        profile_signal::serve_from_now_on(core, options.heap_profile_signal);
    }
    if options.heap_profile_at_exit {
        // SAFETY: as above.
        unsafe { libc::atexit(heap_profile_at_exit) };
    }
    if options.check_at_exit {
        // SAFETY: as above.
        unsafe { libc::atexit(check_at_exit) };
    }
    core
}

fn options_of_process(start: &Start) -> Options {
    let Some(text) = environment::variable(b"TESTUDO_OPTIONS") else { return *start };
    match options::parse(*start, text) {
        Ok(parsed) if parsed.help => print_help(start),
        Ok(parsed) => parsed.options,
        Err(error) => report::refuse(&error),
    }
}

/// `help=1`: all options with their defaults, then the end.
fn print_help(start: &Options) -> ! {
    let mut text = crate::text::Text::<8192>::new();
    let _ = write!(text, "{}", options::Help(start));
    match os_process::write_all(libc::STDOUT_FILENO, text.as_bytes()) {
        // A reader that has gone has seen what it wanted.
        None | Some(libc::EPIPE) => os_process::exit_now(0),
        Some(error) => report::refuse(&format_args!("standard output: {}", Why(error))),
    }
}

extern "C" fn leak_report() {
    let core = heap(&Options::DEFAULT);
    let (chunks, bytes, _) = core.guarded.footprint();
    report::write_leaks(chunks, bytes, core.options.sample_rate == 1);
    core.guarded.for_each_leak(report::write_leak);
}

/// Writes the heap profile to a file, or to the one that the options name.
pub(crate) fn write_heap_profile(path: Option<&CStr>) -> Result<(), HeapProfileError> {
    let profile = &heap(&Options::DEFAULT).heap_profile;
    match path {
        Some(path) => profile.write(path),
        None => profile.write_to_own_path(),
    }
}

extern "C" fn heap_profile_at_exit() {
    let profile = &heap(&Options::DEFAULT).heap_profile;
    if let Err(error) = profile.write_to_own_path() {
        profile.say_why_not(error);
    }
}

extern "C" fn check_at_exit() {
    if let Err(violation) = check() {
        stop(&violation);
    }
}
