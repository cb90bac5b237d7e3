//! Delays at named points.
//!
//! Owns: which points wait, and how long: up to the limit set in the environment, derived from a hash of the point, the
//! process and the number of the passing. Invariant: compiled only with debug assertions; called only on threads that
//! may block.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct Delay {
    name: String,
    most_ms: u64,
    passed: AtomicU64,
}

fn delays() -> &'static [Delay] {
    static DELAYS: OnceLock<Vec<Delay>> = OnceLock::new();
    DELAYS.get_or_init(|| {
        let wanted = std::env::var("HIGHWATER_DELAYS").unwrap_or_default();
        let parse = |one: &str| {
            let (name, most) = one.split_once(':')?;
            Some(Delay { name: name.to_string(), most_ms: most.parse().ok()?, passed: AtomicU64::new(0) })
        };
        wanted.split(',').filter_map(parse).collect()
    })
}

/// Waits if this point has a delay.
pub fn wait(name: &str) {
    let Some(delay) = delays().iter().find(|delay| delay.name == name) else { return };
    let passing = delay.passed.fetch_add(1, Ordering::Relaxed);
    let mixed = (passing ^ u64::from(std::process::id()) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    std::thread::sleep(Duration::from_millis(mixed % (delay.most_ms + 1)));
}
