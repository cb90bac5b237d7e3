//! The driver's clock: the only place that reads the time for decisions.
//!
//! Owns: reading the wall clock and the monotonic clock. Does not own: what follows from a jump (`protocol::clock`).

use highwater_protocol::clock::Now;
use std::sync::Arc;
use std::time::Instant;

/// Cheap to clone; all clones share one clock.
#[derive(Clone)]
pub(crate) struct Clock {
    began: Instant,
    began_at_ms: i64,
    wall: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self::over(wall_ms)
    }

    /// A clock with another wall clock.
    pub fn over(wall: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { began: Instant::now(), began_at_ms: wall(), wall: Arc::new(wall) }
    }

    /// The current time, by both clocks. `ms` never jumps.
    pub fn now(&self) -> Now {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Now { ms: self.began_at_ms.saturating_add(passed), wall_ms: (self.wall)() }
    }
}

/// The wall clock, milliseconds since the Unix epoch: for users, and to compare with times that others wrote.
pub(crate) fn wall_ms() -> i64 {
    chrono::Utc::now().timestamp_millis().saturating_add(highwater_crash::wall_skew_ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_jump_of_the_wall_clock_moves_only_wall_ms() {
        let wall = Arc::new(AtomicI64::new(5 * HOUR));
        let clock = Clock::over({
            let wall = wall.clone();
            move || wall.load(Ordering::Relaxed)
        });
        for jump in [-HOUR, 2 * HOUR, -3 * HOUR] {
            let before = clock.now();
            wall.fetch_add(jump, Ordering::Relaxed);
            let after = clock.now();
            assert_eq!(after.wall_ms, before.wall_ms + jump);
            assert!((0..HOUR).contains(&(after.ms - before.ms)), "{before:?} {after:?}");
        }
    }
}
