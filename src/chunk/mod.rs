//! A chunk: what the program gets, with its sealed header in front and canaries behind.
//!
//! ```text
//!  slot i                                         slot i+1
//!  |8 bytes |header 8|user area: S - 8 bytes ...............|header|
//!  |of slot |        |requested size ....|slack: canaries   |
//!  | i-1    |        ^ chunk address, 16-byte aligned
//! ```

#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod canary;
pub(crate) mod checksum;
pub(crate) mod contents;
pub(crate) mod extent;
pub(crate) mod header;
mod sparse;
pub(crate) mod vectors;
mod windows;
