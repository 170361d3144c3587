//! A token bucket: how fast the shell accepts TCP connections (spec/mesh.md 11).

use std::time::{Duration, Instant};

/// Tokens a full bucket holds.
const CAPACITY: u32 = 20;
/// Time in which one token comes back.
const REFILL: Duration = Duration::from_millis(50);

/// Holds up to 20 tokens, one more every 50 ms. The accept loop takes one per connection.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    tokens: u32,
    /// When the count above was right.
    counted_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: CAPACITY,
            counted_at: now,
        }
    }

    /// Takes a token, or says when to ask again.
    ///
    /// # Errors
    ///
    /// The instant at which the next token is there.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.refill(now);
        if self.tokens == 0 {
            return Err(self.counted_at + REFILL);
        }
        self.tokens -= 1;
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted_at);
        let earned = elapsed.as_nanos() / REFILL.as_nanos();
        let missing = CAPACITY - self.tokens;
        if earned >= u128::from(missing) {
            self.tokens = CAPACITY;
            self.counted_at = self.counted_at.max(now);
        } else {
            let earned = u32::try_from(earned).expect("smaller than the missing tokens");
            self.tokens += earned;
            self.counted_at += REFILL * earned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::base;

    /// F38: guesses are rate-limited.
    #[test]
    fn twenty_tokens_are_there_at_once_and_the_next_after_50_ms() {
        let start = base();
        let mut bucket = TokenBucket::new(start);
        for _ in 0..20 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let at = bucket.take(start).unwrap_err();
        assert_eq!(at, start + REFILL);
        assert_eq!(bucket.take(at), Ok(()));
        assert!(bucket.take(at).is_err());
    }

    #[test]
    fn an_idle_bucket_fills_up_but_no_further() {
        let start = base();
        let mut bucket = TokenBucket::new(start);
        for _ in 0..20 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let later = start + Duration::from_secs(3600);
        for _ in 0..20 {
            assert_eq!(bucket.take(later), Ok(()));
        }
        assert!(bucket.take(later).is_err());
    }
}
