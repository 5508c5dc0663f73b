//! What a canary is made of and compared with, sixteen bytes at a time.

/// Bits of canary bytes that are the same in all: the highest is set, the lowest is not.
pub(super) const CANARY_FIXED: u64 = 0x8181_8181_8181_8181;

/// Bytes that are compared or written together. Up to strides of 256 bytes, slack is shorter than this.
pub(super) const WINDOW: usize = 16;

/// What it takes to make and to compare a whole window: constants too, so that all of it is reached from one address.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Windows {
    /// The canary's secret, twice.
    pub(super) secret: [u64; 2],
    /// Bits of the checksum that go into a canary.
    pub(super) free: [u64; 2],
    /// Sixteen bytes of nothing and sixteen of everything: read at `slack`, a mask of the last `slack` bytes.
    pub(super) masks: [u8; 2 * WINDOW],
}

impl Windows {
    pub(super) const fn new(secret: u64) -> Self {
        let mut masks = [0; 2 * WINDOW];
        let mut at = WINDOW;
        while at < 2 * WINDOW {
            masks[at] = 0xff;
            at += 1;
        }
        Self { secret: [secret; 2], free: [!CANARY_FIXED; 2], masks }
    }
}
