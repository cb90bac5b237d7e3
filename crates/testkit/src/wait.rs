//! Waiting, with a deadline, for something that another process does.
//!
//! Invariant: every wait is for a condition, never for a fixed time; a failure names the condition that did not hold.

use std::time::{Duration, Instant};

/// Pause between two checks. Short, since most waits end after a few of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Returns the first `Some` of `probe`; panics if the deadline passes.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until `condition` holds; panics if the deadline passes.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}
