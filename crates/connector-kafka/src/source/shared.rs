//! What a reader's threads and its async side share.
//!
//! Owns: the lock around the buffers of one thread, and waking each other. Does not own: Kafka.
//! Invariant: nothing blocks while the lock is held.

use super::buffer::PartitionBuffer;
use super::queue::ConsumerQueue;
use highwater_connector_api::source::Place;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// One worker thread's side of a `KafkaReader`.
pub struct WorkerShared {
    state: Mutex<WorkerState>,
    /// Wakes a worker that waits for space.
    space: Condvar,
    /// Wakes a worker that polls; gone when the worker ended.
    queue: Mutex<Option<Arc<ConsumerQueue>>>,
    /// Readers wait here for their next chunk.
    pub progress: Notify,
    /// Of all workers of the reader: availability changed.
    pub available: Arc<Notify>,
}

/// Guarded by the lock.
#[derive(Default)]
pub struct WorkerState {
    pub partitions: BTreeMap<i32, PartitionBuffer>,
    /// Partitions whose consumer must be looked at: added, moved or removed.
    pub dirty: BTreeSet<i32>,
    /// Id of the topic that positions belong to, where it is known.
    pub topic_id: Option<String>,
    pub generations: u64,
    pub stop: bool,
    /// Set by `wake`, so that a wake between a check and a wait is not lost.
    pub woken: bool,
}

impl WorkerState {
    pub fn memory_bytes(&self) -> usize {
        self.partitions.values().map(PartitionBuffer::memory_bytes).sum()
    }

    /// Has the consumer of `partition` start at this place, with an empty buffer.
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

    /// Makes the worker look at its state at once, wherever it waits.
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

    /// Lets go of the consumer, so that the worker is the one to close it.
    pub fn forget_queue(&self) {
        self.queue.lock().take();
    }

    /// Tells waiting readers and whoever watches availability.
    pub fn tell(&self) {
        self.progress.notify_waiters();
        self.available.notify_one();
    }
}
