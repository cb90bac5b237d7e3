//! Two clocks: one that never jumps, for all that is scheduled, and the time of batches, which follows the wall clock.
//!
//! Owns: how the time of batches follows. Does not own: reading clocks (time comes in as [`Now`]).
//!
//! The time of batches never goes back, and never stands still or leaps: while a moment passes it advances by at least
//! half of it and at most twice as much. So a wall clock that is set an hour forward and back again leaves it off by
//! little, and one that is set back makes it slow rather than frozen until both agree again.

/// A moment, by both clocks, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock's time when the process began, and what has passed since: it never jumps.
    pub ms: i64,
    /// The wall clock's time. It may jump.
    pub wall_ms: i64,
}

/// Both clocks agree.
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
    /// Begins at the wall clock's time, but not before `last_ms`, the time of the last batch.
    pub fn new(now: Now, last_ms: Option<i64>) -> Self {
        Self { halves: last_ms.map_or(now.wall_ms, |last| last.max(now.wall_ms)).saturating_mul(2), now }
    }

    /// Moves on to this moment.
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

    /// When, by the clock that never jumps, this time of batches may be reached at the earliest, as things are.
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
    fn it_is_the_wall_clock_while_that_does_not_jump() {
        let mut clock = BatchClock::new(1_000.into(), None);
        for ms in [1_000, 1_001, 1_500, 90_000] {
            clock.advance(ms.into());
            assert_eq!((clock.now_ms(), clock.reaches_at_ms(ms + 7)), (ms, ms + 7));
        }
    }

    #[test]
    fn an_hour_back_makes_it_slow_and_not_frozen() {
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
    fn an_hour_forward_and_back_leaves_little() {
        let mut clock = BatchClock::new(0.into(), None);
        clock.advance(Now { ms: 60_000, wall_ms: 60_000 + HOUR });
        assert_eq!(clock.now_ms(), 120_000, "a minute ahead, not an hour");
        clock.advance(Now { ms: 180_000, wall_ms: 180_000 });
        assert_eq!(clock.now_ms(), 180_000, "two minutes later nothing is left of it");
    }

    #[test]
    fn it_begins_where_the_last_batch_was() {
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
                prop_assert!(reach <= ms, "a wake for it is not too late");
            }
            ms += 4 * HOUR;
            clock.advance(Now { ms, wall_ms: ms + skew });
            prop_assert!((clock.now_ms() - ms - skew).abs() <= 2 * HOUR, "and it comes closer again");
        }
    }
}
