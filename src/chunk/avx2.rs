//! [`super::contents`] with vectors of 32 bytes: half as many instructions, and half as many entries in the store buffer, in
//! which the zeroing of a chunk that is not in the caches waits for memory.
//!
//! Inline assembly, because a `target_feature` function would not be inlined into the fast path, which is compiled for every
//! x86-64. Each piece clears the upper halves before it ends: the code around it is SSE, which is slow while they are dirty.
//!
//! Only for CPUs that have AVX2: asked once, at start.

use super::extent::{BLOCK, Extent, WIDE, WIDE_SHORT};
use core::arch::asm;

/// Bytes in a step of the loop for longer chunks.
const STEP: usize = 4 * WIDE;

/// User areas up to this length are covered by a block that begins in the header and one that ends where they do.
const TINY: usize = 24;

/// Zeroes a user area; with [`TINY`] bytes or less, the 8 in front too.
///
/// # Safety
/// `chunk` is writable for `bytes` bytes, the extent's capacity, and for the 8 bytes in front. The CPU has AVX2.
#[inline(always)]
pub(crate) unsafe fn zero(chunk: *mut u8, bytes: usize, extent: &Extent) {
    let end = chunk.wrapping_add(bytes);
    // SAFETY: the caller's promise; every block begins at or behind the first and ends at or before `end`.
    unsafe {
        if bytes <= TINY {
            let (front, back) = (chunk.sub(8).cast::<u128>(), end.sub(BLOCK).cast::<u128>());
            front.write_unaligned(0);
            back.write_unaligned(0);
        } else if bytes <= WIDE_SHORT {
            asm!(
                "vpxor xmm0, xmm0, xmm0",
                "vmovdqu [{chunk}], ymm0",
                "vmovdqu [{chunk} + {second}], ymm0",
                "vmovdqu [{chunk} + {third}], ymm0",
                "vmovdqu [{end} - 32], ymm0",
                "vzeroupper",
                chunk = in(reg) chunk,
                second = in(reg) extent.wide_block(0),
                third = in(reg) extent.wide_block(1),
                end = in(reg) end,
                out("xmm0") _,
                options(nostack, preserves_flags),
            );
        } else {
            asm!(
                "vpxor xmm0, xmm0, xmm0",
                "2:",
                "vmovdqu [{at}], ymm0",
                "vmovdqu [{at} + 32], ymm0",
                "vmovdqu [{at} + 64], ymm0",
                "vmovdqu [{at} + 96], ymm0",
                "add {at}, 128",
                "cmp {at}, {last_step}",
                "jb 2b",
                "vmovdqu [{last_step}], ymm0",
                "vmovdqu [{last_step} + 32], ymm0",
                "vmovdqu [{last_step} + 64], ymm0",
                "vmovdqu [{last_step} + 96], ymm0",
                "vzeroupper",
                at = inout(reg) chunk => _,
                last_step = in(reg) end.sub(STEP),
                out("xmm0") _,
                options(nostack),
            );
        }
    }
}

/// Whether a user area is all zero.
///
/// # Safety
/// As for [`zero`], readable.
#[inline(always)]
pub(crate) unsafe fn is_zero(chunk: *const u8, extent: &Extent) -> bool {
    let bytes = extent.capacity();
    let end = chunk.wrapping_add(bytes);
    let zero: u8;
    // SAFETY: the caller's promise; every block begins at or behind the first and ends at or before `end`.
    unsafe {
        if bytes <= TINY {
            // Words, because of a block that begins in the header half would not count.
            let words = chunk.cast::<u64>();
            let last = bytes / 8 - 1;
            return words.read() | words.add(last / 2).read() | words.add(last).read() == 0;
        }
        if bytes <= WIDE_SHORT {
            asm!(
                "vmovdqu ymm0, [{chunk}]",
                "vmovdqu ymm1, [{chunk} + {second}]",
                "vpor ymm0, ymm0, [{chunk} + {third}]",
                "vpor ymm1, ymm1, [{end} - 32]",
                "vpor ymm0, ymm0, ymm1",
                "vptest ymm0, ymm0",
                "vzeroupper",
                "setz {zero}",
                zero = out(reg_byte) zero,
                chunk = in(reg) chunk,
                second = in(reg) extent.wide_block(0),
                third = in(reg) extent.wide_block(1),
                end = in(reg) end,
                out("xmm0") _,                out("xmm1") _,                options(nostack, readonly),
            );
        } else {
            asm!(
                "vmovdqu ymm0, [{last_step}]",
                "vmovdqu ymm1, [{last_step} + 32]",
                "vpor ymm0, ymm0, [{last_step} + 64]",
                "vpor ymm1, ymm1, [{last_step} + 96]",
                "2:",
                "vpor ymm0, ymm0, [{at}]",
                "vpor ymm1, ymm1, [{at} + 32]",
                "vpor ymm0, ymm0, [{at} + 64]",
                "vpor ymm1, ymm1, [{at} + 96]",
                "add {at}, 128",
                "cmp {at}, {last_step}",
                "jb 2b",
                "vpor ymm0, ymm0, ymm1",
                "vptest ymm0, ymm0",
                "vzeroupper",
                "setz {zero}",
                zero = out(reg_byte) zero,
                at = inout(reg) chunk => _,
                last_step = in(reg) end.sub(STEP),
                out("xmm0") _,                out("xmm1") _,                options(nostack, readonly),
            );
        }
    }
    zero != 0
}

/// [`is_zero`] for user areas of any length from [`WIDE_SHORT`] on: a call, so that fast paths stay short.
///
/// # Safety
/// As there; more than [`WIDE_SHORT`] bytes.
#[inline(never)]
pub(crate) unsafe fn is_zero_long(chunk: *const u8, extent: &Extent) -> bool {
    debug_assert!(extent.capacity() > WIDE_SHORT);
    // SAFETY: the caller's promise.
    unsafe { is_zero(chunk, extent) }
}
