//! Steps: how a task shows that it makes progress.
//!
//! Owns: one counter per task. Does not own: who reads it (the worker's heartbeat, the driver).
/// Cheap to clone; all clones share the counter of one task.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Cheap to clone; all clones count for one task.
#[derive(Clone, Debug, Default)]
pub struct Steps(Arc<AtomicU64>);

impl Steps {
    /// Counts a step: a chunk was read, computed, sent or written.
    pub fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
