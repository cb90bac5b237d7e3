//! Free TCP ports for servers that must know their port before they start.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below Linux's range for outgoing connections, so that none of these takes the port of a broker that is down between
/// a kill and a restart.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Returns a port of 127.0.0.1 on which nothing listens.
pub fn free_port() -> u16 {
    // Test binaries run in parallel: each begins at another port.
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let candidate = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(candidate).expect("the range lies below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
