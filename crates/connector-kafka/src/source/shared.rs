//! State shared by a reader's threads and its async side.
//!
//! Owns: the lock around the buffers of one thread, and wake-ups in both directions. Does not own: consumers.
//! Invariant: nothing blocks while the lock is held.

use super::buffer::PartitionBuffer;
use super::queue::ConsumerQueue;
use highwater_connector_api::source::Place;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// State shared with one worker thread of a `KafkaReader`.
pub struct WorkerShared {
    state: Mutex<WorkerState>,
    /// Wakes a worker that waits for memory.
    space: Condvar,
    /// Wakes a worker that polls; `None` once the worker has ended.
    queue: Mutex<Option<Arc<ConsumerQueue>>>,
    /// Wakes range reads that wait for their next chunk.
    pub progress: Notify,
    /// Notified when availability changes; shared by all workers of the reader.
    pub available: Arc<Notify>,
}

/// The state behind the lock.
#[derive(Default)]
pub struct WorkerState {
    pub partitions: BTreeMap<i32, PartitionBuffer>,
    /// Partitions whose assignment the worker must update: added, restarted or removed.
    pub dirty: BTreeSet<i32>,
    /// Id of the topic that positions belong to; `None` if unknown.
    pub topic_id: Option<String>,
    pub generations: u64,
    pub stop: bool,
    /// Set by `wake`, so that a wake-up between a check and a wait is not lost.
    pub woken: bool,
}

impl WorkerState {
    pub fn memory_bytes(&self) -> usize {
        self.partitions.values().map(PartitionBuffer::memory_bytes).sum()
    }

    /// Restarts `partition` at this place, with an empty buffer.
    pub fn restart(&mut self, partition: i32, place: Place) {
        tracing::info!(partition, offset = place.start, "reads a partition from here");
        self.generations += 1;
        let mut buffer = PartitionBuffer::new(self.generations, place.start, place.limit);
        buffer.last = place.last.filter(|last| last.offset < place.start);
        self.partitions.insert(partition, buffer);
        self.dirty.insert(partition);
    }
}

impl WorkerShared {
    pub fn new(queue: Arc<ConsumerQueue>, available: Arc<Notify>) -> Self {
        Self {
            state: Mutex::default(),
            space: Condvar::new(),
            queue: Mutex::new(Some(queue)),
            progress: Notify::new(),
            available,
        }
    }

    /// Runs `change` under the lock.
    pub fn with<R>(&self, change: impl FnOnce(&mut WorkerState) -> R) -> R {
        change(&mut self.state.lock())
    }

    /// Wakes the worker, whether it polls or waits for memory, so that it checks its state at once.
    pub fn wake(&self) {
        self.state.lock().woken = true;
        self.space.notify_one();
        if let Some(queue) = self.queue.lock().as_ref() {
            queue.wake();
        }
    }

    /// Waits until woken.
    pub fn wait(&self) {
        let mut state = self.state.lock();
        while !state.woken && !state.stop {
            self.space.wait(&mut state);
        }
        state.woken = false;
    }

    /// Drops this reference to the consumer, so that the worker closes it.
    pub fn forget_queue(&self) {
        self.queue.lock().take();
    }

    /// Wakes waiting range reads, and reports that availability has changed.
    pub fn tell(&self) {
        self.progress.notify_waiters();
        self.available.notify_one();
    }
}
