//! A smooth rate limit: a token bucket with a small burst (Turner 1986, "New directions in communications").
//!
//! Owns: the arithmetic. Does not own: a clock; time is an argument, in milliseconds.

/// Size of the burst: how much may accumulate while nothing is taken, as time.
const BURST_MS: i64 = 100;
/// A batch is planned only when at least this much time's worth of records is allowed.
const QUANTUM_MS: i64 = 10;
/// Tokens are counted in thousandths of a record, so that a millisecond adds exactly `per_second` of them.
const RECORD: i64 = 1000;

/// Allows `per_second` records, evenly, however often it is asked.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    per_second: i64,
    /// Thousandths of a record; negative after more was taken than was available.
    tokens: i64,
    at_ms: i64,
}

impl RateLimiter {
    pub fn new(per_second: u64, now_ms: i64) -> Self {
        Self { per_second: i64::try_from(per_second.max(1)).unwrap_or(i64::MAX), tokens: 0, at_ms: now_ms }
    }

    fn burst(&self) -> i64 {
        self.per_second.saturating_mul(BURST_MS).max(RECORD)
    }

    /// The smallest number of tokens that a batch is planned for.
    fn useful(&self) -> i64 {
        self.per_second.saturating_mul(QUANTUM_MS).clamp(RECORD, self.burst())
    }

    fn tokens_at(&self, now_ms: i64) -> i64 {
        let elapsed_ms = (now_ms - self.at_ms).max(0);
        self.tokens.saturating_add(elapsed_ms.saturating_mul(self.per_second)).min(self.burst())
    }

    /// Returns how many records may be read now.
    pub fn available(&mut self, now_ms: i64) -> u64 {
        self.tokens = self.tokens_at(now_ms);
        self.at_ms = self.at_ms.max(now_ms);
        if self.tokens < self.useful() { 0 } else { u64::try_from(self.tokens / RECORD).unwrap_or(0) }
    }

    /// Counts records as read. Taking more than was available makes the next pause longer.
    pub fn take(&mut self, count: u64) {
        let taken = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(RECORD);
        self.tokens = self.tokens.saturating_sub(taken);
    }

    /// Returns when a useful number of records is available, milliseconds; `now_ms` if it is already.
    pub fn next_at_ms(&self, now_ms: i64) -> i64 {
        let missing = self.useful().saturating_sub(self.tokens_at(now_ms));
        if missing <= 0 {
            return now_ms;
        }
        now_ms.saturating_add(missing / self.per_second + i64::from(missing % self.per_second != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_rate_holds_over_any_second(rate in 1u64..200_000, steps in proptest::collection::vec(1i64..50, 1..400)) {
            let mut limiter = RateLimiter::new(rate, 0);
            let (mut now, mut taken) = (0i64, 0u64);
            for step in steps {
                now += step;
                let n = limiter.available(now);
                limiter.take(n);
                taken += n;
            }
            let allowed = rate as f64 * now as f64 / 1000.0 + 1.0;
            prop_assert!(taken as f64 <= allowed, "{} of {} in {} ms", taken, allowed, now);
        }

        #[test]
        fn something_is_available_after_waiting_until_next_at(rate in 1u64..200_000) {
            let mut limiter = RateLimiter::new(rate, 0);
            let mut now = 0i64;
            let mut taken = 0u64;
            while now < 3_000 {
                now = limiter.next_at_ms(now).max(now + 1);
                let n = limiter.available(now);
                prop_assert!(n > 0);
                limiter.take(n);
                taken += n;
            }
            let fair = rate as f64 * now as f64 / 1000.0;
            prop_assert!(taken as f64 >= fair * 0.8 - 2.0, "{} of {}", taken, fair);
        }

        #[test]
        fn any_window_gets_at_most_the_rate_and_one_burst(
            rate in 1u64..200_000,
            steps in proptest::collection::vec((1i64..400, 0.0f64..=1.0), 1..60),
        ) {
            let mut limiter = RateLimiter::new(rate, 0);
            let mut now = 0i64;
            let mut takes: Vec<(i64, u64)> = Vec::new();
            for (step, share) in steps {
                now += step;
                // A reader that takes less than is allowed must not save up the rest.
                let n = (limiter.available(now) as f64 * share) as u64;
                limiter.take(n);
                takes.push((now, n));
            }
            for first in 0..takes.len() {
                let mut sum = 0;
                for (at, n) in &takes[first..] {
                    sum += n;
                    let allowed = rate as f64 * (at - takes[first].0) as f64 / 1000.0 + (rate as f64 * 0.1).max(1.0);
                    prop_assert!(sum as f64 <= allowed + 1.0, "{} of {} in {} ms", sum, allowed, at - takes[first].0);
                }
            }
        }

        #[test]
        fn taking_too_much_is_paid_back(rate in 1u64..10_000, excess in 1u64..20_000) {
            let mut limiter = RateLimiter::new(rate, 0);
            limiter.take(excess);
            let free = limiter.next_at_ms(0);
            prop_assert!(free as f64 * rate as f64 / 1000.0 >= excess as f64, "free again after {} ms", free);
            prop_assert_eq!(limiter.clone().available(free - 1), 0);
            prop_assert!(limiter.available(free) > 0);
        }
    }
}
