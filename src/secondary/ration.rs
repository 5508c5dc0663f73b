//! How often a freed chunk of 256 KiB to 2 MiB is made inaccessible in a hot loop.
//!
//! A token bucket: each free that makes the chunk inaccessible moves its pages, which costs the program some 20 to 30
//! microseconds, so one in a millisecond spends at most some three per cent of its time on that. Ordinary programs
//! free such chunks seldom and have it on every one.

use crate::os::process;

/// Tokens at the start, and the most that are saved up.
const BURST: u32 = 64;
/// Milliseconds per token.
const PERIOD: u64 = 1;

/// The bucket. Zeroes are a valid one that fills to the brim at its first use.
pub(crate) struct Ration {
    tokens: u32,
    filled_at: u64,
}

impl Ration {
    #[cfg(test)]
    const fn new() -> Self {
        Self { tokens: 0, filled_at: 0 }
    }

    /// Spends a token; `false` when there is none.
    pub(crate) fn spend(&mut self) -> bool {
        self.spend_at(process::milliseconds())
    }

    fn spend_at(&mut self, now: u64) -> bool {
        let periods = now.saturating_sub(self.filled_at) / PERIOD;
        if periods > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(periods).unwrap_or(BURST)).min(BURST);
            self.filled_at = now;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, PERIOD, Ration};

    #[test]
    fn a_burst_is_free_and_then_one_token_comes_per_period() {
        let mut ration = Ration::new();
        for _ in 0..BURST {
            assert!(ration.spend_at(1000));
        }
        assert!(!ration.spend_at(1000));
        assert!(ration.spend_at(1000 + PERIOD));
        assert!(!ration.spend_at(1000 + PERIOD));
    }

    #[test]
    fn tokens_are_saved_up_to_the_burst_only() {
        let mut ration = Ration::new();
        assert!(ration.spend_at(5000));
        for _ in 0..BURST {
            assert!(ration.spend_at(1_000_000));
        }
        assert!(!ration.spend_at(1_000_000));
    }
}
