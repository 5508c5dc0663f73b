//! malloc+free of each size from 8 bytes to 2 MiB: the system's allocator beside testudo as a Rust program has it.
//!
//! A process has one testudo, so each profile is measured in a process of its own; the first process starts the others and
//! measures nothing itself. The usual words of criterion choose among benchmarks: `cargo bench -- /64$`.

#![allow(unsafe_code, reason = "allocators are called through `GlobalAlloc`, whose methods are unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use testudo::{Heap, Options, Testudo};

/// Says to a process which side it measures.
const SIDE: &str = "TESTUDO_BENCH_SIDE";

/// The sides, with testudo's options.
const SIDES: [(&str, &str); 5] = [
    ("system", ""),
    ("default", "profile=default"),
    ("strict", "profile=strict"),
    ("fast", "profile=fast"),
    ("heap", "profile=default"),
];

const SIZES: [usize; 19] = [
    8,
    16,
    32,
    64,
    128,
    256,
    512,
    1 << 10,
    2 << 10,
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    2 << 20,
];

/// Chunks that are live all the time: the oldest is freed for each new one, as programs do; a bare pair would find its own
/// slot in the first cache line.
const LIVE: usize = 16;

fn main() {
    match std::env::var(SIDE) {
        Ok(side) => measure(&side),
        Err(_) => start_all(),
    }
}

fn start_all() {
    let program = std::env::current_exe().expect("this program's path");
    for (side, options) in SIDES {
        let ended = Command::new(&program)
            .args(std::env::args_os().skip(1))
            .env(SIDE, side)
            .env("TESTUDO_OPTIONS", options)
            .status()
            .expect("this program can be started again");
        assert!(ended.success(), "{side}: {ended}");
    }
}

fn measure(side: &str) {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    match side {
        "system" => global(&mut criterion, side, &System),
        "heap" => private(&mut criterion, side),
        _ => global(&mut criterion, side, &Testudo::new()),
    }
    criterion.final_summary();
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

/// A program's allocator.
fn global(criterion: &mut Criterion, side: &str, allocator: &impl GlobalAlloc) {
    run(
        criterion,
        side,
        |layout| {
            // SAFETY: no size is zero.
            unsafe { allocator.alloc(layout) }
        },
        |chunk, layout| {
            // SAFETY: `run` frees what it allocated, once, with the same layout.
            unsafe { allocator.dealloc(chunk, layout) }
        },
    );
}

/// A private heap, with the options of `default`.
fn private(criterion: &mut Criterion, side: &str) {
    let heap = Heap::new(Options::DEFAULT).expect("a heap");
    run(
        criterion,
        side,
        |layout| heap.allocate(layout).expect("memory").as_ptr(),
        |chunk, layout| {
            let chunk = std::ptr::NonNull::new(chunk).expect("a chunk");
            // SAFETY: as in `global`.
            unsafe { heap.deallocate(chunk, layout) }.expect("a correct free");
        },
    );
}

fn run(criterion: &mut Criterion, side: &str, allocate: impl Fn(Layout) -> *mut u8, free: impl Fn(*mut u8, Layout)) {
    let mut group = criterion.benchmark_group("malloc+free");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let layout = layout(size);
        let mut live: [*mut u8; LIVE] = std::array::from_fn(|_| allocate(layout));
        let mut oldest = 0;
        group.bench_function(BenchmarkId::new(side, size), |bencher| {
            bencher.iter(|| {
                free(live[oldest], layout);
                let chunk = black_box(allocate(layout));
                assert!(!chunk.is_null());
                // SAFETY: a live chunk of at least eight bytes.
                unsafe { chunk.write_volatile(1) };
                live[oldest] = chunk;
                oldest = (oldest + 1) % LIVE;
            });
        });
        live.into_iter().for_each(|chunk| free(chunk, layout));
    }
    group.finish();
}
