//! A fuzz target in Rust with one planted heap bug of each kind, and testudo as its allocator: no sanitizer, and nothing
//! to preload.
//!
//! The first byte of an input chooses the bug, the second must be `!` for it to happen. Nothing here panics: an input that
//! ends the process was stopped by the heap, or by the address that it had been given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use testudo::{Options, Testudo};

#[global_allocator]
static ALLOCATOR: Testudo = Testudo::with(Options::FUZZ);

fuzz_target!(|data: &[u8]| {
    if let Some(&kind) = data.first() {
        parse(kind, data.get(1) == Some(&b'!'));
    }
});

fn parse(kind: u8, bug: bool) {
    let small = Layout::new::<[u8; 24]>();
    let large = Layout::new::<[u8; 400_000]>();
    // SAFETY: without the bugs, which are the point, each chunk is used as long as it is live and within its bounds, and
    // given back once.
    unsafe {
        let (one, other) = (black_box(alloc(small)), black_box(alloc(large)));
        one.write_bytes(1, 24);
        let by = usize::from(bug);
        match kind {
            // Overflow by one byte, read.
            b'a' => drop(black_box(one.add(23 + by).read_volatile())),
            // Overflow by one byte, write.
            b'b' => one.add(23 + by).write_volatile(0),
            // Underflow.
            b'c' => one.sub(4 * by).write_volatile(0),
            // Overflow of a large chunk.
            b'd' => other.add(399_999 + by).write_volatile(0),
            // Double free.
            b'e' if bug => dealloc(one, small),
            // Free of an address inside a chunk.
            b'f' if bug => dealloc(one.add(8), small),
            // Write after free.
            b'g' if bug => {
                dealloc(one, small);
                one.add(3).write_volatile(b'x');
                return dealloc(other, large);
            }
            // Read after free.
            b'h' if bug => {
                dealloc(one, small);
                black_box(one.add(3).read_volatile());
                return dealloc(other, large);
            }
            // Use after free of a large chunk.
            b'i' if bug => {
                dealloc(other, large);
                other.add(100).write_volatile(b'x');
                return dealloc(one, small);
            }
            // Given back with a wrong size.
            b'k' if bug => return dealloc(one, Layout::new::<[u8; 25]>()),
            // Given back with a wrong alignment.
            b'l' if bug => return dealloc(one, Layout::new::<[u64; 3]>()),
            // An index that was never written.
            b'm' => {
                let indices = black_box(alloc(Layout::new::<[u32; 16]>())).cast::<u32>();
                if !bug {
                    indices.write_bytes(0, 16);
                }
                black_box(one.add(indices.add(2).read_volatile() as usize).read_volatile());
                dealloc(indices.cast(), Layout::new::<[u32; 16]>());
            }
            _ => {}
        }
        dealloc(one, small);
        dealloc(other, large);
    }
}
