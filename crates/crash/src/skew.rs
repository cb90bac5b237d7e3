//! Simulates a wall clock that is set wrong.
//!
//! Owns: by how much it is wrong, read from the file that `HIGHWATER_WALL_SKEW` names, on every call. Invariant:
//! compiled in for tests only.

use std::path::PathBuf;
use std::sync::OnceLock;

/// Returns the skew in milliseconds; 0 without a file, or if the file holds no number.
pub fn milliseconds() -> i64 {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("HIGHWATER_WALL_SKEW").map(PathBuf::from));
    let text = file.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
