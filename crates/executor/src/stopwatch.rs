//! Where the time of a task goes.
//!
//! Owns: the clock of the counters. Does not own: what is counted (`highwater_protocol::metrics`).

use highwater_dataflow::runtime::Clock;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The clock of the counters: the time since this process first read it.
pub const CLOCK: Clock = Clock(elapsed);

fn elapsed() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Adds the time that `work` takes to `sum_us`, microseconds.
pub fn timed<T>(sum_us: &mut u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    *sum_us += u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    done
}
