//! [`super::contents`] with vectors of 32 bytes: half as many instructions, and half as many entries in the store buffer, in
//! which the zeroing of a chunk that is not in the caches waits for memory.
//!
//! Inline assembly, because a `target_feature` function would not be inlined into the fast path, which is compiled for every
//! x86-64. Each piece clears the upper halves before it ends: the code around it is SSE, which is slow while they are dirty.
//!
//! Only for CPUs that have AVX2: asked once, at start.

use super::checksum::Secrets;
use super::extent::{Extent, WIDE, WIDE_SHORT};
use super::sparse::{self, AHEAD, PART};
use core::arch::asm;
use core::mem::offset_of;

/// `asm!` that may change every vector register: clearing the upper halves does so in a program that is compiled with AVX.
macro_rules! vectors {
    ($($part:tt)*) => {
        asm!(
            $($part)*
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        )
    };
}

/// Bytes in a step of the loop for longer chunks.
const STEP: usize = 4 * WIDE;

/// User areas up to this length are done in words: a block would begin in the header, and others may be looking at that.
const TINY: usize = 24;

/// Zeroes a user area.
///
/// # Safety
/// `chunk` is 8-byte aligned and writable for `bytes` bytes, the extent's capacity. The CPU has AVX2.
#[inline(always)]
pub(crate) unsafe fn zero(chunk: *mut u8, bytes: usize, extent: &Extent) {
    let end = chunk.wrapping_add(bytes);
    // SAFETY: the caller's promise; every block begins at or behind the first and ends at or before `end`.
    unsafe {
        if bytes <= TINY {
            let words = chunk.cast::<u64>();
            let last = bytes / 8 - 1;
            words.write(0);
            words.add(last / 2).write(0);
            words.add(last).write(0);
        } else if bytes <= WIDE_SHORT {
            vectors!(
                "vpxor xmm0, xmm0, xmm0",
                "vmovdqu [{chunk}], ymm0",
                "movsx {start}, byte ptr [{extent} + {second}]",
                "vmovdqu [{chunk} + {start}], ymm0",
                "movsx {start}, byte ptr [{extent} + {third}]",
                "vmovdqu [{chunk} + {start}], ymm0",
                "vmovdqu [{chunk} + {bytes} - 32], ymm0",
                "vzeroupper",
                start = out(reg) _,
                chunk = in(reg) chunk,
                bytes = in(reg) bytes,
                extent = in(reg) extent,
                second = const Extent::WIDE_BLOCKS[0],
                third = const Extent::WIDE_BLOCKS[1],
                options(nostack, preserves_flags),
            );
        } else {
            vectors!(
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
    // SAFETY: the caller's promise; every block begins at or behind the first and ends at or before `end`.
    unsafe {
        if bytes <= TINY {
            // Words, because half of a block that begins in the header would not count.
            let words = chunk.cast::<u64>();
            let last = bytes / 8 - 1;
            return words.read() | words.add(last / 2).read() | words.add(last).read() == 0;
        }
        if bytes <= WIDE_SHORT {
            vectors!(
                "vmovdqu ymm0, [{chunk}]",
                "movsx {start}, byte ptr [{extent} + {second}]",
                "vmovdqu ymm1, [{chunk} + {start}]",
                "movsx {start}, byte ptr [{extent} + {third}]",
                "vpor ymm0, ymm0, [{chunk} + {start}]",
                "vpor ymm1, ymm1, [{chunk} + {bytes} - 32]",
                "vpor ymm0, ymm0, ymm1",
                "vptest ymm0, ymm0",
                "vzeroupper",
                "jnz {other}",
                start = out(reg) _,
                chunk = in(reg) chunk,
                bytes = in(reg) bytes,
                extent = in(reg) extent,
                second = const Extent::WIDE_BLOCKS[0],
                third = const Extent::WIDE_BLOCKS[1],
                other = label { return false },
                options(nostack, readonly),
            );
        } else {
            vectors!(
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
                "jnz {other}",
                at = inout(reg) chunk => _,
                last_step = in(reg) end.sub(STEP),
                other = label { return false },
                options(nostack, readonly),
            );
        }
    }
    true
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

/// Whether a part of a long chunk is all zero.
///
/// # Safety
/// `part` is readable for [`PART`] bytes. The CPU has AVX2.
#[inline(always)]
unsafe fn is_zero_part(part: *const u8) -> bool {
    // SAFETY: the caller's promise; asking for memory ahead of time is a hint, whatever lies there.
    unsafe {
        vectors!(
            "vpxor xmm0, xmm0, xmm0",
            "vpxor xmm1, xmm1, xmm1",
            "2:",
            "prefetcht0 [{at} + {ahead}]",
            "prefetcht0 [{at} + {ahead} + 64]",
            "vpor ymm0, ymm0, [{at}]",
            "vpor ymm1, ymm1, [{at} + 32]",
            "vpor ymm0, ymm0, [{at} + 64]",
            "vpor ymm1, ymm1, [{at} + 96]",
            "add {at}, 128",
            "cmp {at}, {end}",
            "jb 2b",
            "vpor ymm0, ymm0, ymm1",
            "vptest ymm0, ymm0",
            "vzeroupper",
            "jnz {other}",
            at = inout(reg) part => _,
            end = in(reg) part.wrapping_add(PART),
            ahead = const AHEAD,
            other = label { return false },
            options(nostack, readonly),
        );
    }
    true
}

/// Zeroes a long user area where it is not zero.
///
/// # Safety
/// As for [`zero`].
#[cold]
#[inline(never)]
pub(crate) unsafe fn zero_sparse(chunk: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; the parts lie inside.
    unsafe { sparse::zero(chunk, bytes, |part| is_zero_part(part)) };
}

/// `asm!` that makes a window of canary in `xmm0`, the same in every byte of a word that the checksum leaves free, and goes on from
/// there. Without wide vectors, so the upper halves stay clear.
macro_rules! canary_window {
    ($($part:literal),+; $chunk:ident, $capacity:ident, $slack:ident, $secrets:ident, $checksum:ident; $($more:tt)*) => {
        asm!(
            "vmovd xmm0, {checksum:e}",
            "vpbroadcastd xmm0, xmm0",
            "vpand xmm0, xmm0, [{secrets} + {free}]",
            "vpxor xmm0, xmm0, [{secrets} + {secret}]",
            $($part,)+
            checksum = in(reg) $checksum,
            secrets = in(reg) $secrets,
            slack = in(reg) $slack,
            chunk = in(reg) $chunk,
            capacity = in(reg) $capacity,
            free = const offset_of!(Secrets, canary.free),
            secret = const offset_of!(Secrets, canary.secret),
            masks = const offset_of!(Secrets, canary.masks),
            out("xmm0") _,
            $($more)*
        )
    };
}

/// The last 16 bytes of a slot: `slack` bytes of canary behind zeroes.
///
/// # Safety
/// As for [`Vectors::fill_window`](super::vectors::Vectors::fill_window). The CPU has AVX2.
#[inline(always)]
pub(crate) unsafe fn fill_window(chunk: *mut u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) {
    // SAFETY: the caller's promise; a mask is 16 of the 32 bytes of the table.
    unsafe {
        canary_window!(
            "vpand xmm0, xmm0, [{secrets} + {slack} + {masks}]",
            "vpor xmm0, xmm0, [{chunk} + {capacity} - 16]",
            "vmovdqu [{chunk} + {capacity} - 16], xmm0";
            chunk, capacity, slack, secrets, checksum;
            options(nostack, preserves_flags),
        );
    }
}

/// Whether the last `slack` bytes of a slot are canary.
///
/// # Safety
/// As for [`Vectors::is_window`](super::vectors::Vectors::is_window). The CPU has AVX2.
#[inline(always)]
pub(crate) unsafe fn is_window(
    chunk: *const u8,
    capacity: usize,
    slack: usize,
    secrets: &Secrets,
    checksum: u32,
) -> bool {
    // SAFETY: the caller's promise; a mask is 16 of the 32 bytes of the table.
    unsafe {
        canary_window!(
            "vpxor xmm0, xmm0, [{chunk} + {capacity} - 16]",
            "vptest xmm0, [{secrets} + {slack} + {masks}]",
            "jnz {other}";
            chunk, capacity, slack, secrets, checksum;
            other = label { return false },
            options(nostack, readonly),
        );
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{PART, is_zero_part};

    /// What is taken for written is zeroed, and so made resident: nothing that is zero may be.
    #[test]
    fn a_part_is_zero_if_every_byte_of_it_is_and_those_beside_it_do_not_count() {
        if !crate::os::process::has_native_vectors() {
            eprintln!("this CPU has no AVX2: nothing to test");
            return;
        }
        let mut memory = [0_u8; PART + 2];
        (memory[0], memory[PART + 1]) = (!0, !0);
        let part = memory[1..].as_mut_ptr();
        // SAFETY: `PART` bytes of `memory`, and the CPU has AVX2.
        unsafe {
            assert!(is_zero_part(part));
            for at in 0..PART {
                part.add(at).write(1);
                assert!(!is_zero_part(part), "byte {at}");
                part.add(at).write(0);
            }
        }
    }
}
