//! Claims about the caches that threads have left.

use super::super::core::{Core, PRIVATE_ARENA};
use crate::chunk::header::Origin;
use crate::heap::demand::Demand;
use crate::options::Options;
use crate::os::interference::{ALL, Call, refusing};
use crate::os::mapping::{self, PAGE};
use crate::protections::with_mixture;
use crate::size_class::ClassId;
use crate::thread_cache::{CACHE_BYTES, ThreadCache};
use std::collections::BTreeSet;

/// Caches of threads of which more have ended than leave their caches warm, and the heap that they are of, which is left as it is.
/// Each has been used for every third class.
fn with_left_caches(options: Options) -> (&'static Core, BTreeSet<usize>) {
    let address = Core::create(Options { sample_rate: 0, ..options }, PRIVATE_ARENA).expect("memory");
    // SAFETY: just made, and never destroyed.
    let core = unsafe { Core::at(address) };
    let caches: BTreeSet<usize> = (0..12).map(|_| core.adopt_cache(false).expect("memory")).collect();
    for &cache in &caches {
        use_for_many_classes(core, cache);
    }
    for &cache in &caches {
        core.leave_cache(cache_at(cache)).expect("order");
    }
    (core, caches)
}

fn cache_at(address: usize) -> &'static mut ThreadCache {
    // SAFETY: a cache of a test's own, which uses it in one place at a time.
    unsafe { &mut *core::ptr::with_exposed_provenance_mut(address) }
}

/// Allocates and frees as a thread with this cache does, often enough that slots come back out of the quarantine.
fn use_for_many_classes(core: &Core, cache: usize) {
    let cache = cache_at(cache);
    for class in ClassId::all().step_by(3) {
        for _ in 0..40 {
            let chunk = core.allocate(cache, class.capacity(), 4, Origin::Malloc).expect("memory");
            let demand = Demand::origin("free", Origin::Malloc, &[]);
            with_mixture!(cache.checks, P => core.free::<P>(cache, chunk, demand)).expect("a correct free");
        }
    }
}

fn resident(caches: &BTreeSet<usize>) -> Vec<usize> {
    caches.iter().map(|&cache| mapping::resident(cache, CACHE_BYTES)).collect()
}

#[test]
fn a_purge_takes_the_memory_of_left_caches_and_who_adopts_one_finds_it_as_new() {
    for options in [Options::DEFAULT, Options::STRICT, Options::FAST, Options { quarantine_kb: 64, ..Options::DEFAULT }]
    {
        let (core, caches) = with_left_caches(options);
        let own = core.adopt_cache(false).expect("memory");
        assert!(resident(&caches).iter().all(|&bytes| bytes > 8 * PAGE), "{:?}", resident(&caches));
        assert_eq!(core.purge(cache_at(own)), Ok(true));
        assert_eq!(core.purge(cache_at(own)), Ok(false), "nothing is left to give");
        let left: BTreeSet<usize> = caches.iter().copied().filter(|&cache| cache != own).collect();
        assert_eq!(left.len(), 11, "the first one to adopt has one of them");
        assert!(resident(&left).iter().all(|&bytes| bytes == PAGE), "{:?}", resident(&left));
        let stats = core.stats();
        assert_eq!((stats.chunks, stats.cached, stats.quarantined, stats.caches), (0, 0, 0, 12));
        assert!(resident(&left).iter().all(|&bytes| bytes == PAGE), "a look at them brings nothing back");
        let again: BTreeSet<usize> = (0..11).map(|_| core.adopt_cache(false).expect("memory")).collect();
        assert_eq!(again, left);
        let new = core.adopt_cache(false).expect("memory");
        assert!(!caches.contains(&new), "none is left");
        for &cache in &again {
            let room = cache_at(cache).quarantine_room.cast_unsigned();
            // It was the twelfth, the new one is the thirteenth.
            assert!(room >= cache_at(new).quarantine_room.cast_unsigned(), "{room} bytes");
            assert!(room <= (options.quarantine_kb as usize) << 10, "{room} bytes");
            use_for_many_classes(core, cache);
        }
        assert_eq!(core.check_stats(cache_at(own).mark).expect("nothing is damaged").chunks, 0);
    }
}

#[test]
fn a_cache_keeps_its_memory_for_an_interval_and_is_then_the_last_to_be_adopted() {
    let (core, caches) = with_left_caches(Options::DEFAULT);
    let epoch = core.epochs.current();
    assert!(!core.strip_left(usize::MAX, epoch), "left a moment ago");
    assert!(resident(&caches).iter().all(|&bytes| bytes > 8 * PAGE));
    // Four were flushed; the others wait as they are.
    assert!(core.strip_left(1, epoch + 1) && core.strip_left(2, epoch + 1));
    let bare = || caches.iter().copied().filter(|&cache| cache_at(cache).bare).collect::<BTreeSet<_>>();
    assert_eq!(bare().len(), 3);
    assert_eq!(resident(&bare()), [PAGE; 3]);
    for _ in 0..9 {
        assert!(!bare().contains(&core.adopt_cache(false).expect("memory")));
    }
    assert!(!core.strip_left(usize::MAX, u32::MAX), "all that are left are bare");
    assert!(bare().contains(&core.adopt_cache(false).expect("memory")));
    assert_eq!(bare().len(), 2);
}

#[test]
fn a_purge_that_finds_nothing_but_a_left_cache_tells_that_it_went_back() {
    let (core, _) = with_left_caches(Options::DEFAULT);
    let cache = cache_at(core.adopt_cache(false).expect("memory"));
    assert_eq!(core.purge(cache), Ok(true));
    let adopted = core.adopt_cache(false).expect("memory");
    // It has been used for nothing, and so has no memory but its bins.
    core.leave_cache(cache_at(adopted)).expect("order");
    assert_eq!([core.purge(cache), core.purge(cache)], [Ok(true), Ok(false)]);
}

#[test]
fn what_the_system_does_not_take_did_not_go_back() {
    let address = Core::create(Options { sample_rate: 0, ..Options::DEFAULT }, PRIVATE_ARENA).expect("memory");
    // SAFETY: just made, and never destroyed.
    let core = unsafe { Core::at(address) };
    let own = core.adopt_cache(false).expect("memory");
    use_for_many_classes(core, own);
    assert_eq!(refusing(&[(Call::Advise, ALL)], || core.purge(cache_at(own))), Ok(false));
    use_for_many_classes(core, own);
    assert_eq!(core.purge(cache_at(own)), Ok(true));
}

#[test]
fn a_cache_whose_memory_the_system_does_not_take_stays_as_it_is() {
    let (core, caches) = with_left_caches(Options::DEFAULT);
    refusing(&[(Call::Advise, ALL)], || assert!(!core.strip_left(usize::MAX, u32::MAX)));
    assert!(caches.iter().all(|&cache| !cache_at(cache).bare));
    assert!(core.strip_left(usize::MAX, u32::MAX));
    assert_eq!(caches.iter().filter(|&&cache| cache_at(cache).bare).count(), 4);
}
