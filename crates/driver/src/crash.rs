//! Named crash points, for recovery tests. Compiled to nothing without the `crash-points` feature.

/// Kills this process with SIGKILL when `HIGHWATER_CRASH_POINT` names this point.
#[cfg(feature = "crash-points")]
pub(crate) use highwater_executor_crash::point;

/// Does nothing in this build.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}
