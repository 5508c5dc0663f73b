//! The queue of freed large chunks whose addresses stay inaccessible.
//!
//! Bug: a dangling pointer to a large chunk. While its address range is in the queue, every access
//! faults. Cost: address space and one mapping each; memory none. How much address space is held is summed up beside the
//! bytes of the chunks: a chunk that has shrunk holds more than it is long.

/// Chunks that must pass before an address may come back.
const FURTHER_FREES: usize = 1000;

/// A freed chunk in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waiting {
    chunk: usize,
    /// Its size in bytes.
    bytes: usize,
    /// Bytes of address space of its mapping.
    held: usize,
}

/// Freed large chunks, oldest first.
pub(crate) struct AddressQuarantine {
    queue: [Waiting; FURTHER_FREES + 1],
    oldest: usize,
    length: usize,
    bytes: usize,
    held: usize,
    limit: usize,
}

impl AddressQuarantine {
    /// A queue whose members leave when `limit` bytes were freed after them, or 1,000 chunks.
    #[cfg(test)]
    const fn new(limit: usize) -> Self {
        Self {
            queue: [Waiting { chunk: 0, bytes: 0, held: 0 }; FURTHER_FREES + 1],
            oldest: 0,
            length: 0,
            bytes: 0,
            held: 0,
            limit,
        }
    }

    /// Changes the number of bytes.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    fn at(&self, position: usize) -> Waiting {
        self.queue.get((self.oldest + position) % (FURTHER_FREES + 1)).copied().unwrap_or_default()
    }

    /// Adds a chunk of so many bytes that holds so much address space; returns the oldest one when it has to leave for that. Threads that add at the same time have not yet
    /// come to `pop_due`, so the queue may be full.
    #[must_use]
    pub(crate) fn push(&mut self, chunk: usize, bytes: usize, held: usize) -> Option<usize> {
        let displaced = if self.length > FURTHER_FREES { self.pop() } else { None };
        let place = (self.oldest + self.length) % (FURTHER_FREES + 1);
        if let Some(place) = self.queue.get_mut(place) {
            *place = Waiting { chunk, bytes, held };
            self.length += 1;
            self.bytes += bytes;
            self.held += held;
        }
        displaced
    }

    /// Takes out the oldest chunk if enough was freed after it.
    pub(crate) fn pop_due(&mut self) -> Option<usize> {
        let oldest = self.at(0);
        let due = self.length > FURTHER_FREES || self.length > 0 && self.bytes - oldest.bytes >= self.limit.max(1);
        if due { self.pop() } else { None }
    }

    /// Takes out the oldest chunk.
    pub(crate) fn pop(&mut self) -> Option<usize> {
        if self.length == 0 {
            return None;
        }
        let Waiting { chunk, bytes, held } = self.at(0);
        self.oldest = (self.oldest + 1) % (FURTHER_FREES + 1);
        self.length -= 1;
        self.bytes -= bytes;
        self.held -= held;
        Some(chunk)
    }

    /// Bytes of the chunks in the queue.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of address space that they hold.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressQuarantine, FURTHER_FREES};

    #[test]
    fn a_chunk_stays_for_a_thousand_further_frees() {
        let mut queue = AddressQuarantine::new(usize::MAX);
        for chunk in 1..=FURTHER_FREES {
            assert_eq!(queue.push(chunk, 1, 2), None);
            assert_eq!(queue.pop_due(), None);
        }
        assert_eq!(queue.push(9999, 1, 2), None);
        assert_eq!(queue.pop_due(), Some(1));
        assert_eq!(queue.pop_due(), None);
    }

    #[test]
    fn a_chunk_leaves_when_enough_bytes_were_freed_after_it() {
        let mut queue = AddressQuarantine::new(100);
        assert_eq!(queue.push(1, 5000, 9000), None);
        assert_eq!(queue.pop_due(), None);
        assert_eq!(queue.push(2, 99, 100), None);
        assert_eq!(queue.pop_due(), None);
        assert_eq!(queue.push(3, 1, 7), None);
        assert_eq!(queue.pop_due(), Some(1));
        assert_eq!(queue.pop_due(), None);
        assert_eq!((queue.bytes(), queue.held()), (100, 107), "of the two that wait");
    }

    /// Many threads give large chunks back at once, and each adds before any of them looks for what is due.
    #[test]
    fn every_chunk_leaves_once_however_many_are_added_in_a_row() {
        let mut queue = AddressQuarantine::new(usize::MAX);
        let all = 1..=FURTHER_FREES * 3;
        let mut left: Vec<usize> = all.clone().filter_map(|chunk| queue.push(chunk, 10, 30)).collect();
        while let Some(chunk) = queue.pop() {
            left.push(chunk);
        }
        assert!(left.into_iter().eq(all));
        assert_eq!((queue.bytes(), queue.held()), (0, 0));
    }
}
