//! The name of a file among the options, kept in place so that options can be copied and read without allocating.

use crate::text::Text;
use core::fmt::{self, Write};

/// The longest name, in bytes.
const MOST: usize = 159;

/// An absolute file name of at most 159 bytes, or none. `%p` in it stands for the number of the process, and in that of heap
/// profiles `%n` for the number of the profile.
///
/// ```
/// use testudo::{FilePath, Options};
///
/// let report_path = FilePath::new(b"/var/log/testudo-%p.jsonl").ok_or("not an absolute name")?;
/// let options = Options { report_path, ..Options::DEFAULT };
/// assert_eq!(options.report_path.as_bytes(), b"/var/log/testudo-%p.jsonl");
/// assert!(FilePath::new(b"relative").is_none() && options.heap_profile_path.is_none());
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FilePath {
    bytes: [u8; MOST],
    length: u8,
}

impl FilePath {
    /// No file.
    pub const NONE: Self = Self { bytes: [0; MOST], length: 0 };

    /// The file of this name; `None` unless it begins with `/`, has at most 159 bytes and no zero among them.
    #[must_use]
    pub fn new(name: &[u8]) -> Option<Self> {
        let mut path = Self::NONE;
        path.bytes.get_mut(..name.len())?.copy_from_slice(name);
        path.length = name.len() as u8;
        (name.starts_with(b"/") && !name.contains(&0)).then_some(path)
    }

    /// The name; empty when there is none.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The name with the number of the process in place of `%p` and that of the file in place of `%n`, terminated by a
    /// zero.
    pub(crate) fn expanded(&self, process: i32, file: u32) -> Text<256> {
        let mut name = Text::new();
        let mut rest = self.as_bytes();
        while let [first, behind @ ..] = rest {
            rest = behind;
            // Writing cannot fail: `Text` cuts off instead.
            match (first, behind) {
                (b'%', [b'p', behind @ ..]) => {
                    rest = behind;
                    let _ = write!(name, "{process}");
                }
                (b'%', [b'n', behind @ ..]) => {
                    rest = behind;
                    let _ = write!(name, "{file}");
                }
                _ => name.push(*first),
            }
        }
        name.push(0);
        name
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.length == 0
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl fmt::Display for FilePath {
    /// The name, with escapes for what is not plain text.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::{FilePath, MOST};

    #[test]
    fn numbers_replace_their_signs() {
        let path = FilePath::new(b"/a%p-%n-%q%").expect("a name");
        assert_eq!(path.expanded(47, 3).as_bytes(), b"/a47-3-%q%\0");
    }

    #[test]
    fn a_name_is_absolute_and_fits() {
        assert_eq!(FilePath::new(b"/var/log/x").expect("fine").as_bytes(), b"/var/log/x");
        let longest = [b'/'; MOST];
        assert_eq!(FilePath::new(&longest).expect("fine").as_bytes(), longest);
        assert!(FilePath::NONE.is_none() && !FilePath::new(b"/x").expect("fine").is_none());
        let odd = FilePath::new(b"/a\nb").expect("fine");
        assert_eq!((odd.to_string(), format!("{odd:?}")), ("/a\\nb".to_owned(), "/a\\nb".to_owned()));
        for wrong in [&b""[..], b"relative", b"/a\0b", &[b'/'; MOST + 1]] {
            assert_eq!(FilePath::new(wrong), None);
        }
    }
}
