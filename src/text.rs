//! Text that is put together without allocating.

use core::fmt::{self, Write};

/// Text on the stack; what does not fit is cut off.
pub(crate) struct Text<const BYTES: usize> {
    bytes: [u8; BYTES],
    length: usize,
}

impl<const BYTES: usize> Text<BYTES> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; BYTES], length: 0 }
    }

    /// Adds one byte, be it text or not.
    pub(crate) fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    /// Bytes that still fit.
    pub(crate) const fn room(&self) -> usize {
        BYTES - self.length
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<const BYTES: usize> Write for Text<BYTES> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(text.bytes()) {
            *place = byte;
            self.length += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Text;
    use core::fmt::Write;

    #[test]
    fn a_text_that_is_too_long_is_cut_off() {
        let mut text = Text::<4>::new();
        write!(text, "abcdefgh").expect("never fails");
        assert_eq!(text.as_bytes(), b"abcd");
    }
}
