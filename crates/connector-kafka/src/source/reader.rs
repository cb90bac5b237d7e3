//! The async side of a source: assigning partitions, reporting availability, reading ranges, releasing records.
//!
//! Owns: distributing partitions over worker threads, and waiting without blocking. Does not own: polling and decoding
//! (`worker`). Invariant: reading a range returns all its records in order, or an error; records are never skipped.

use super::buffer::Found;
use super::chunk::ChunkDecoder;
use super::queue::ConsumerQueue;
use super::shared::{WorkerShared, WorkerState};
use super::worker::Worker;
use crate::client;
use crate::options::source_options;
use async_trait::async_trait;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::source::{
    Chunk, PartitionAvailability, Place, RangeRead, SourceEvent, SourceReader, SourceReaderConfig,
};
use highwater_protocol::offsets::{OffsetRange, TopicPartition};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// Reads the partitions of one source table that are assigned to this process. Cheap to clone; the consumers are closed
/// with the last clone.
#[derive(Clone)]
pub struct KafkaReader {
    inner: Arc<Inner>,
}

struct Inner {
    topic: Arc<str>,
    /// Id of the topic that the reader is bound to; `None` before `bind`, `Some(None)` if any topic of the name will
    /// do.
    bound: Mutex<Option<Option<String>>>,
    workers: Vec<Arc<WorkerShared>>,
    available: Arc<Notify>,
    aligned: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.with(|state| state.stop = true);
            worker.wake();
        }
    }
}

impl KafkaReader {
    /// Starts the threads; nothing is read before `assign`. An event is sent when something changes, and never repeated
    /// for the same problem.
    pub fn start(config: SourceReaderConfig, events: UnboundedSender<SourceEvent>) -> Result<Self, ConnectorError> {
        let (options, topic) = source_options(&config.table)?;
        let context = format!("table '{}'", config.table.name);
        let group = format!("highwater-{}", config.query);
        let mut client = client::consumer(&options, &group, config.table.options.isolation_level)?;
        client::note_topic_ids(&mut client);
        let available = Arc::new(Notify::new());
        let mut inner = Inner {
            topic: topic.clone(),
            bound: Mutex::default(),
            workers: Vec::new(),
            available: available.clone(),
            aligned: config.aligned,
        };
        for number in 0..config.readers.max(1) {
            let queue = Arc::new(ConsumerQueue::new(client::lookup(&client, &context)?)?);
            let shared = Arc::new(WorkerShared::new(queue.clone(), available.clone()));
            let decoder = ChunkDecoder::new(&config.table)?;
            let worker = Worker::new(topic.clone(), queue, shared.clone(), decoder, &config, events.clone());
            std::thread::Builder::new()
                .name(format!("source-{}-{number}", config.table.name))
                .spawn(move || worker.run())
                .map_err(|error| ConnectorError::Unavailable {
                    context: context.clone(),
                    message: format!("cannot start a reader thread: {error}"),
                })?;
            inner.workers.push(shared);
        }
        Ok(Self { inner: Arc::new(inner) })
    }
}

#[async_trait]
impl SourceReader for KafkaReader {
    fn bind(&self, topic_id: Option<&str>) -> bool {
        let mut bound = self.inner.bound.lock();
        match &*bound {
            Some(bound) => return bound.as_deref() == topic_id,
            None => *bound = Some(topic_id.map(str::to_string)),
        }
        for worker in &self.inner.workers {
            worker.with(|state| state.topic_id = topic_id.map(str::to_string));
        }
        true
    }

    fn assign(&self, partitions: &BTreeMap<TopicPartition, Place>) {
        let wanted: BTreeMap<i32, Place> = partitions
            .iter()
            .filter(|(tp, _)| tp.topic == self.inner.topic)
            .map(|(tp, place)| (tp.partition, *place))
            .collect();
        let mut unplaced = wanted.clone();
        for worker in &self.inner.workers {
            worker.with(|state| {
                keep(state, &wanted);
                unplaced.retain(|partition, _| !state.partitions.contains_key(partition));
            });
        }
        for (partition, place) in unplaced {
            let count = |worker: &&Arc<WorkerShared>| worker.with(|state| state.partitions.len());
            if let Some(worker) = self.inner.workers.iter().min_by_key(count) {
                worker.with(|state| state.restart(partition, place));
            }
        }
        for worker in &self.inner.workers {
            worker.wake();
            // Readers of a partition that was removed must see the error.
            worker.tell();
        }
    }

    fn availability(&self) -> Vec<(TopicPartition, PartitionAvailability)> {
        let mut changed = Vec::new();
        for worker in &self.inner.workers {
            worker.with(|state| {
                for (partition, buffer) in state.partitions.iter_mut().filter(|(_, buffer)| buffer.changed) {
                    buffer.changed = false;
                    let availability = PartitionAvailability {
                        position: buffer.position(),
                        at_end: buffer.at_end(),
                        buffered_bytes: buffer.memory_bytes(),
                        marks: if self.inner.aligned { buffer.take_marks() } else { Vec::new() },
                    };
                    changed.push((TopicPartition::new(self.inner.topic.clone(), *partition), availability));
                }
            });
        }
        changed
    }

    async fn changed(&self) {
        self.inner.available.notified().await;
    }

    fn read(&self, tp: &TopicPartition, range: OffsetRange) -> Box<dyn RangeRead> {
        Box::new(KafkaRange { reader: self.inner.clone(), tp: tp.clone(), next: range.start, end: range.end })
    }

    fn release(&self, tp: &TopicPartition, up_to: i64) {
        for worker in &self.inner.workers {
            let released = worker.with(|state| match state.partitions.get_mut(&tp.partition) {
                Some(buffer) => {
                    buffer.release(up_to);
                    true
                }
                None => false,
            });
            if released {
                worker.wake();
            }
        }
    }
}

/// Drops partitions that are no longer wanted, and restarts those whose buffer does not have the wanted start.
fn keep(state: &mut WorkerState, wanted: &BTreeMap<i32, Place>) {
    for partition in state.partitions.keys().copied().collect::<Vec<_>>() {
        match (wanted.get(&partition), state.partitions.get_mut(&partition)) {
            (Some(place), Some(buffer)) if buffer.serves(place.start) => {
                buffer.limit = place.limit;
                buffer.tell_again();
                state.dirty.insert(partition);
            }
            (Some(place), _) => state.restart(partition, *place),
            (None, _) => {
                state.partitions.remove(&partition);
                state.dirty.insert(partition);
            }
        }
    }
}

/// A range being read.
struct KafkaRange {
    reader: Arc<Inner>,
    tp: TopicPartition,
    next: i64,
    end: i64,
}

enum Step {
    Chunk(Box<Chunk>),
    Wait,
    /// The buffer must be looked up again: offsets without records were skipped, or the partition was restarted.
    Again,
}

#[async_trait]
impl RangeRead for KafkaRange {
    async fn next(&mut self) -> Result<Option<Chunk>, ConnectorError> {
        while self.next < self.end {
            let worker = self.worker()?.clone();
            // Registered before the lookup, so that progress in between is not missed.
            let progress = worker.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            match self.step(&worker)? {
                Step::Chunk(chunk) => return Ok(Some(*chunk)),
                Step::Again => {}
                Step::Wait => {
                    worker.wake();
                    progress.await;
                }
            }
        }
        Ok(None)
    }
}

impl KafkaRange {
    fn worker(&self) -> Result<&Arc<WorkerShared>, ConnectorError> {
        let holds =
            |worker: &&Arc<WorkerShared>| worker.with(|state| state.partitions.contains_key(&self.tp.partition));
        self.reader.workers.iter().find(holds).ok_or_else(|| self.gone())
    }

    fn gone(&self) -> ConnectorError {
        ConnectorError::Closed(format!("{} is not assigned to this reader any more", self.tp))
    }

    fn step(&mut self, worker: &WorkerShared) -> Result<Step, ConnectorError> {
        let found = worker.with(|state| {
            if state.stop {
                return Err(self.gone());
            }
            let Some(buffer) = state.partitions.get_mut(&self.tp.partition) else { return Err(self.gone()) };
            if let Some(failure) = &buffer.failure {
                return Err(failure.clone());
            }
            let found = buffer.find(self.next);
            match found {
                Found::NotYet => {
                    buffer.wanted = buffer.wanted.max(self.end);
                    if buffer.limit.is_some_and(|limit| limit < self.end) {
                        buffer.limit = Some(self.end);
                        state.dirty.insert(self.tp.partition);
                    }
                }
                Found::Gone => {
                    let place = Place { start: self.next, limit: buffer.limit, last: None };
                    state.restart(self.tp.partition, place);
                }
                _ => {}
            }
            Ok(found)
        })?;
        match found {
            Found::NotYet => Ok(Step::Wait),
            Found::Gone => Ok(Step::Again),
            Found::Nothing { to } => {
                self.next = to.min(self.end);
                Ok(Step::Again)
            }
            Found::Chunk(chunk) => {
                let slice = chunk.slice(self.next, self.end)?;
                self.next = (chunk.last_offset() + 1).min(self.end);
                Ok(if slice.records == 0 { Step::Again } else { Step::Chunk(Box::new(slice)) })
            }
        }
    }
}
