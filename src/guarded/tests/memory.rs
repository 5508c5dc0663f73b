//! Claims about the memory and the mappings of guarded slots.

use super::*;

/// The lines of `/proc/self/maps` about a range: where they begin and end, and whether anything may be read there.
fn mappings(start: usize, end: usize) -> Vec<(usize, usize, bool)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is there");
    let lines = maps.lines().map(|line| {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two addresses");
        let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).expect("hexadecimal"));
        (from, to, rest.starts_with('r'))
    });
    lines.filter(|&(from, to, _)| from < end && to > start).collect()
}

/// Readable bytes in a range.
fn readable(start: usize, end: usize) -> usize {
    let readable = mappings(start, end).into_iter().filter(|mapping| mapping.2);
    readable.map(|(from, to, _)| to.min(end) - from.max(start)).sum()
}

#[test]
fn the_pages_of_live_chunks_are_charged_readable_and_counted_and_those_of_freed_ones_are_none_of_these() {
    let mut pool = Pool::new(16);
    let sizes = [1, 100, PAGE, PAGE + 1, 5 * PAGE, GUARDED_MAX - 1, GUARDED_MAX];
    let pages = [1, 1, 1, 2, 5, 16, 16];
    let (mut chunks, mut bytes, mut all) = (Vec::new(), 0, 0);
    for (size, pages) in sizes.into_iter().zip(pages) {
        let chunk = pool.allocate(size, 1);
        (bytes, all) = (bytes + size, all + pages * PAGE);
        chunks.push(chunk);
        assert_eq!(pool.guarded.footprint(), (chunks.len(), bytes, all));
        assert_eq!(pool.budget.used(), all);
        let (start, end) = pages_of(&pool, chunk);
        assert_eq!(readable(start - PAGE, end + PAGE), pages * PAGE, "{size} bytes");
    }
    for ((chunk, size), pages) in chunks.into_iter().zip(sizes).zip(pages) {
        pool.free(chunk).expect("a correct free");
        (bytes, all) = (bytes - size, all - pages * PAGE);
        assert_eq!((pool.guarded.footprint().1, pool.guarded.footprint().2, pool.budget.used()), (bytes, all, all));
        let (start, end) = pages_of(&pool, chunk);
        assert_eq!(readable(start, end), 0, "{size} bytes");
    }
}

/// Every mapping counts against `vm.max_map_count`.
#[test]
fn slots_that_were_used_once_need_as_many_mappings_when_they_are_freed_and_used_again() {
    let mut pool = Pool::new(16);
    let mut chunks = [(); 16].map(|()| pool.allocate(100, 1));
    let count = |pool: &Pool| mappings(pool.guarded.end_of(0) - STRIDE, pool.guarded.end_of(15)).len();
    let used = count(&pool);
    assert!(used <= 3 * 16 + 1, "{used} mappings");
    for _ in 0..3 {
        chunks.into_iter().for_each(|chunk| pool.free(chunk).expect("a correct free"));
        assert_eq!(count(&pool), used);
        chunks = [(); 16].map(|()| pool.allocate(100, 1));
        assert_eq!(count(&pool), used);
    }
}

/// Memory behind freed slots: a page of each where every chunk is guarded, until it is asked back; none elsewhere.
#[test]
fn a_freed_slot_keeps_its_last_page_where_all_chunks_are_guarded_until_a_purge() {
    for (sample_rate, kept) in [(1, PAGE), (1000, 0)] {
        let mut pool = Pool::with(&Options { sample_rate, guarded_slots: 8, ..Options::FUZZ }, 5);
        for size in [100, 3 * PAGE, GUARDED_MAX] {
            let [chunk, live] = [(); 2].map(|()| pool.allocate(size, 1));
            let fill = |chunk| {
                // SAFETY: a live chunk so long.
                unsafe { core::ptr::with_exposed_provenance_mut::<u8>(chunk).write_bytes(1, size) }
            };
            fill(chunk);
            fill(live);
            let resident = |chunk| {
                let (start, end) = pages_of(&pool, chunk);
                mapping::resident(start, end - start)
            };
            let all = resident(live);
            assert_eq!((resident(chunk), all), (page_ceil(size), page_ceil(size)));
            pool.free(chunk).expect("a correct free");
            assert_eq!(resident(chunk), kept, "{size} bytes");
            pool.guarded.purge();
            assert_eq!((resident(chunk), resident(live)), (0, all), "{size} bytes");
            // SAFETY: a live chunk so long.
            let contents = unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(live), size) };
            assert!(contents.iter().all(|&byte| byte == 1));
            pool.free(live).expect("a correct free");
        }
    }
}

#[test]
fn what_is_handed_out_again_is_zero_where_it_is_not_filled() {
    for sample_rate in [1, 1000] {
        let options = Options { sample_rate, fill_pattern: false, guarded_slots: 2, ..Options::FUZZ };
        let mut pool = Pool::with(&options, 5);
        for size in [100, 5000, GUARDED_MAX, 24].into_iter().cycle().take(32) {
            let chunk = pool.allocate(size, 1);
            let start = core::ptr::with_exposed_provenance_mut::<u8>(chunk);
            // SAFETY: a live chunk so long.
            let contents = unsafe { core::slice::from_raw_parts_mut(start, size) };
            assert!(contents.iter().all(|&byte| byte == 0), "{size} bytes");
            contents.fill(1);
            pool.free(chunk).expect("a correct free");
        }
    }
}

#[test]
fn the_table_takes_the_bytes_of_its_parts_and_lies_between_guard_pages() {
    for slots in [1, 64, 1000, 3000] {
        let mut pool = Pool::with(&Options { sample_rate: 1000, guarded_slots: slots as u32, ..Options::FUZZ }, 5);
        pool.allocate(1, 1);
        let parts = [size_of::<Entry>(), size_of::<u16>(), size_of::<SlotFrames>()];
        let bytes = parts.map(|each| page_ceil(slots * each)).iter().sum();
        assert_eq!(pool.guarded.table_bytes(), bytes);
        let start = core::ptr::from_ref(pool.guarded.table.entry(0).expect("a slot")).addr();
        assert_eq!(readable(start - PAGE, start + bytes + PAGE), bytes);
        assert_eq!(mappings(start - PAGE, start).len() + mappings(start + bytes, start + bytes + PAGE).len(), 2);
    }
    let mut pool = Pool::new(1);
    pool.allocate(1, 1);
    assert_eq!(
        pool.guarded.table_bytes(),
        3 * PAGE + DEPOT_BYTES - 2 * PAGE,
        "where every chunk is guarded, with a depot"
    );
}
