//! How long the vectors are that the fast paths zero, look and compare with.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::checksum::Secrets;
use super::contents;
use super::extent::Extent;
use super::windows::WINDOW;

/// How long the vectors are that a fast path works with. A type, so that the choice costs nothing there.
pub(crate) trait Vectors {
    /// [`contents::zero`].
    ///
    /// # Safety
    /// As there.
    unsafe fn zero(chunk: *mut u8, bytes: usize, extent: &Extent);

    /// [`contents::is_zero`].
    ///
    /// # Safety
    /// As there.
    unsafe fn is_zero(chunk: *const u8, extent: &Extent) -> bool;

    /// Writes the last 16 bytes of a slot that is zero: `slack` bytes of canary. A header that is among these bytes stays as it is.
    ///
    /// # Safety
    /// `chunk` is writable for `capacity` bytes, and for 8 in front of it; `capacity` is at least 8, `slack` at most 16.
    unsafe fn fill_window(chunk: *mut u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32);

    /// Whether the last `slack` bytes of a slot are canary.
    ///
    /// # Safety
    /// As for [`Self::fill_window`], readable.
    unsafe fn is_window(chunk: *const u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) -> bool;
}

/// Sixteen bytes, which every CPU can do.
pub(crate) struct Ordinary;

impl Vectors for Ordinary {
    #[inline(always)]
    unsafe fn zero(chunk: *mut u8, bytes: usize, extent: &Extent) {
        // SAFETY: the caller's promise.
        unsafe { contents::zero(chunk, bytes, extent) }
    }

    #[inline(always)]
    unsafe fn is_zero(chunk: *const u8, extent: &Extent) -> bool {
        // SAFETY: the caller's promise.
        unsafe { contents::is_zero(chunk, extent) }
    }

    #[inline(always)]
    unsafe fn fill_window(chunk: *mut u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) {
        // SAFETY: the caller's promise.
        unsafe { fill_last(chunk, capacity, slack, secrets, checksum) }
    }

    #[inline(always)]
    unsafe fn is_window(chunk: *const u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { is_last(chunk, capacity, slack, secrets, checksum) }
    }
}

/// AVX2's 32 bytes. Only for CPUs that have it.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Wide;

#[cfg(target_arch = "x86_64")]
impl Vectors for Wide {
    #[inline(always)]
    unsafe fn zero(chunk: *mut u8, bytes: usize, extent: &Extent) {
        // SAFETY: the caller's promise; `process::has_native_vectors` said so before this type was chosen.
        unsafe {
            if bytes <= contents::LONG {
                avx2::zero(chunk, bytes, extent);
            } else if bytes < super::sparse::SPARSE {
                contents::zero_long(chunk, bytes);
            } else {
                avx2::zero_sparse(chunk, bytes);
            }
        }
    }

    #[inline(always)]
    unsafe fn is_zero(chunk: *const u8, extent: &Extent) -> bool {
        // SAFETY: as above.
        unsafe {
            if extent.capacity() <= contents::LONG {
                avx2::is_zero(chunk, extent)
            } else {
                avx2::is_zero_long(chunk, extent)
            }
        }
    }

    #[inline(always)]
    unsafe fn fill_window(chunk: *mut u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) {
        // SAFETY: as above.
        unsafe { avx2::fill_window(chunk, capacity, slack, secrets, checksum) }
    }

    #[inline(always)]
    unsafe fn is_window(chunk: *const u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) -> bool {
        // SAFETY: as above.
        unsafe { avx2::is_window(chunk, capacity, slack, secrets, checksum) }
    }
}

/// The last 16 bytes of a slot of which `slack` are canary, and the others zero.
#[inline(always)]
fn window(slack: usize, secrets: &Secrets, checksum: u32) -> u128 {
    // SAFETY: `slack` is at most 16, so the mask lies in the table.
    let mask = unsafe { secrets.canary.masks.as_ptr().add(slack).cast::<u128>().read_unaligned() };
    pattern(secrets, checksum) & mask
}

/// [`Secrets::canary`], twice.
#[inline(always)]
fn pattern(secrets: &Secrets, checksum: u32) -> u128 {
    let word = u128::from(secrets.canary(checksum));
    word | word << 64
}

/// [`Vectors::fill_window`] for every CPU.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn fill_last(chunk: *mut u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let last = chunk.add(capacity).sub(WINDOW).cast::<u128>();
        last.write_unaligned(last.read_unaligned() | window(slack, secrets, checksum));
    }
}

/// [`Vectors::is_window`] for every CPU.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn is_last(chunk: *const u8, capacity: usize, slack: usize, secrets: &Secrets, checksum: u32) -> bool {
    // SAFETY: the caller's promise; `slack` is at most 16, so the mask lies in the table.
    unsafe {
        let seen = chunk.add(capacity).sub(WINDOW).cast::<u128>().read_unaligned();
        let mask = secrets.canary.masks.as_ptr().add(slack).cast::<u128>().read_unaligned();
        (seen ^ pattern(secrets, checksum)) & mask == 0
    }
}
