//! Named crash points: places between planning and commit where a recovery test kills the process or slows it down.
//!
//! Owns: the effect of the points. It exists only in builds with debug assertions (`cargo build`, `cargo test`), and
//! only if the environment names a point; in release builds [`point`] is an empty inline function.
//!
//! - `HIGHWATER_CRASH_POINT=name[:nth]` names the point, and which passing of it kills (default 1, the first).
//! - `HIGHWATER_CRASH_LOG=FILE`: the name is appended to FILE before the process dies, so that a test can check that
//!   its point was reached. A process started with the point already in FILE is not killed, so that a restarted process
//!   survives.
//! - `HIGHWATER_DELAYS=name:ms,name:ms` delays each passing of a point by up to `ms` milliseconds, always the same for
//!   the same passing, so that tasks overtake each other as on busy machines.
//! - `HIGHWATER_WALL_SKEW=FILE` adds the milliseconds in FILE to the driver's wall clock whenever it is read.

#[cfg(debug_assertions)]
mod delays;
#[cfg(debug_assertions)]
mod skew;

/// Kills this process with SIGKILL, or waits, if the environment names this point.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    delays::wait(name);
    armed::point(name);
}

/// By how many milliseconds the wall clock is wrong, according to the environment.
#[cfg(debug_assertions)]
pub fn wall_skew_ms() -> i64 {
    skew::milliseconds()
}

/// Always 0 in this build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn wall_skew_ms() -> i64 {
    0
}

/// Does nothing in this build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        log: Option<PathBuf>,
        /// Passings left until the kill, this one included.
        left: AtomicU64,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED.get_or_init(from_environment).as_ref()
    }

    fn from_environment() -> Option<Armed> {
        let wanted = std::env::var("HIGHWATER_CRASH_POINT").ok()?;
        let (name, nth) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        let log = std::env::var_os("HIGHWATER_CRASH_LOG").map(PathBuf::from);
        let hit_before = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains(name));
        if log.as_ref().is_some_and(hit_before) {
            return None;
        }
        Some(Armed { name: name.to_string(), log, left: AtomicU64::new(nth.parse().unwrap_or(1)) })
    }

    pub fn point(name: &str) {
        let Some(armed) = armed().filter(|armed| armed.name == name) else { return };
        if armed.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        if let Some(path) = &armed.log
            && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
        {
            // The kill matters more than its note: without the note the test fails.
            let _ = writeln!(file, "{name}");
            let _ = file.sync_all();
        }
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        // Not reached, since SIGKILL cannot be handled; but this thread may still run until it is delivered.
        loop {
            std::thread::park();
        }
    }
}
