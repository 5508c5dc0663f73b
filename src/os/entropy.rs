//! The seed of all randomness.

use super::file;
use super::process::Errno;

/// Neither `getrandom` nor `/dev/urandom` gave bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoEntropy;

/// Fills `seed` from the kernel: `getrandom`, or `/dev/urandom` where a sandbox forbids the call.
///
/// There is no third source: a predictable key would weaken every check in silence.
pub(crate) fn fill(seed: &mut [u8; 32]) -> Result<(), NoEntropy> {
    let _errno = Errno::keep();
    fill_from_call(seed).or_else(|_| fill_from_device(seed))
}

fn fill_from_call(seed: &mut [u8; 32]) -> Result<(), NoEntropy> {
    let mut filled = 0;
    while let Some(rest) = seed.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: `rest` is writable for its length. The bare system call: glibc's wrapper is a
        // cancellation point.
        let count = unsafe { libc::syscall(libc::SYS_getrandom, rest.as_mut_ptr(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) if count > 0 => filled += count,
            // SAFETY: errno of this thread.
            _ if unsafe { *libc::__errno_location() } == libc::EINTR => {}
            _ => return Err(NoEntropy),
        }
    }
    Ok(())
}

fn fill_from_device(seed: &mut [u8; 32]) -> Result<(), NoEntropy> {
    let whole = seed.len();
    match file::read(c"/dev/urandom", seed) {
        Some(read) if read.len() == whole => Ok(()),
        _ => Err(NoEntropy),
    }
}
