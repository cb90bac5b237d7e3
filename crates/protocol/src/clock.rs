//! Two clocks: one that never jumps, for everything scheduled, and the time of batches, which follows the wall clock.
//!
//! Owns: how the time of batches follows the wall clock. Does not own: reading clocks (time comes in as [`Now`]).
//!
//! The time of batches never goes back, stands still or leaps: it runs at half the speed of real time at least, and at
//! twice that speed at most. A wall clock that is set an hour forward and back again therefore leaves only a small
//! error, and one that is set back slows the time of batches down instead of freezing it until both agree again.

/// A moment, by both clocks, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock's time when the process began plus the time passed since. Never jumps.
    pub ms: i64,
    /// The wall clock's time. It may jump.
    pub wall_ms: i64,
}

/// For callers whose two clocks agree.
impl From<i64> for Now {
    fn from(ms: i64) -> Self {
        Self { ms, wall_ms: ms }
    }
}

/// The time of a query's batches.
#[derive(Clone, Debug)]
pub struct BatchClock {
    /// In halves of a millisecond, so that half speed is exact.
    halves: i64,
    now: Now,
}

impl BatchClock {
    /// Begins at the wall clock's time, but not before `last_ms`, the time of the last batch (`None` before the first).
    pub fn new(now: Now, last_ms: Option<i64>) -> Self {
        Self { halves: last_ms.map_or(now.wall_ms, |last| last.max(now.wall_ms)).saturating_mul(2), now }
    }

    /// Advances the time of batches to this moment.
    pub fn advance(&mut self, now: Now) {
        let passed = now.ms.saturating_sub(self.now.ms).max(0);
        let wall = now.wall_ms.saturating_mul(2);
        let (slowest, fastest) =
            (self.halves.saturating_add(passed), self.halves.saturating_add(passed.saturating_mul(4)));
        self.halves = wall.clamp(slowest, fastest);
        self.now = Now { ms: self.now.ms.max(now.ms), wall_ms: now.wall_ms };
    }

    pub fn now_ms(&self) -> i64 {
        self.halves.div_euclid(2)
    }

    /// Returns the earliest time, by the clock that never jumps, at which the time of batches can reach `time_ms`.
    pub fn reaches_at_ms(&self, time_ms: i64) -> i64 {
        let missing = time_ms.saturating_sub(self.now_ms()).max(0);
        let wait = if self.now.wall_ms > self.now_ms() { missing / 2 + missing % 2 } else { missing };
        self.now.ms.saturating_add(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn it_equals_a_wall_clock_that_does_not_jump() {
        let mut clock = BatchClock::new(1_000.into(), None);
        for ms in [1_000, 1_001, 1_500, 90_000] {
            clock.advance(ms.into());
            assert_eq!((clock.now_ms(), clock.reaches_at_ms(ms + 7)), (ms, ms + 7));
        }
    }

    #[test]
    fn a_wall_clock_set_back_slows_it_down_without_freezing_it() {
        let mut clock = BatchClock::new(HOUR.into(), None);
        for ms in 0..=HOUR {
            clock.advance(Now { ms: HOUR + ms, wall_ms: ms });
            assert_eq!(clock.now_ms(), HOUR + ms / 2);
        }
        clock.advance(Now { ms: 3 * HOUR, wall_ms: 2 * HOUR });
        assert_eq!(clock.now_ms(), 2 * HOUR, "after two hours both agree");
        clock.advance(Now { ms: 3 * HOUR + 5, wall_ms: 2 * HOUR + 5 });
        assert_eq!(clock.now_ms(), 2 * HOUR + 5);
    }

    #[test]
    fn a_wall_clock_set_forward_and_back_leaves_a_small_error() {
        let mut clock = BatchClock::new(0.into(), None);
        clock.advance(Now { ms: 60_000, wall_ms: 60_000 + HOUR });
        assert_eq!(clock.now_ms(), 120_000, "a minute ahead, not an hour");
        clock.advance(Now { ms: 180_000, wall_ms: 180_000 });
        assert_eq!(clock.now_ms(), 180_000, "two minutes later the error is gone");
    }

    #[test]
    fn it_begins_at_the_time_of_the_last_batch() {
        let mut clock = BatchClock::new(0.into(), Some(HOUR));
        assert_eq!(clock.now_ms(), HOUR);
        clock.advance(1_000.into());
        assert_eq!(clock.now_ms(), HOUR + 500);
    }

    proptest! {
        #[test]
        fn it_never_goes_back_stands_still_or_leaps(
            steps in prop::collection::vec((0i64..100_000, -HOUR..HOUR, prop::bool::weighted(0.2)), 1..200),
        ) {
            let (mut ms, mut skew) = (HOUR, 0);
            let mut clock = BatchClock::new(ms.into(), None);
            for (passed, jump, jumps) in steps {
                let before = clock.now_ms();
                let reach = clock.reaches_at_ms(before + passed);
                ms += passed;
                skew = if jumps { jump } else { skew };
                clock.advance(Now { ms, wall_ms: ms + skew });
                let advanced = clock.now_ms() - before;
                prop_assert!(2 * advanced >= passed - 1 && advanced <= 2 * passed, "{} in {} ms", advanced, passed);
                prop_assert!(reach <= ms, "the wake-up is not too late");
            }
            ms += 4 * HOUR;
            clock.advance(Now { ms, wall_ms: ms + skew });
            prop_assert!((clock.now_ms() - ms - skew).abs() <= 2 * HOUR, "it approaches the wall clock again");
        }
    }
}
