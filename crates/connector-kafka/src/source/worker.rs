//! A reader thread: polls its consumer, decodes, fills buffers.
//!
//! Owns: one consumer, undecoded records, back-pressure. Does not own: the buffers (shared with the async side),
//! assigning a partition (`placing`), handling errors (`failing`). The thread never sleeps: it waits for events of
//! Kafka or, if memory is full, for free memory.
//! Records are decoded only when a range read wants them or a chunk is full, so that slowly arriving records do not
//! become batches of one row.

use super::buffer::PartitionBuffer;
use super::chunk::ChunkDecoder;
use super::incarnation::Incarnation;
use super::queue::{ConsumerQueue, Polled, Record};
use super::raw::RawRecords;
use super::shared::{WorkerShared, WorkerState};
use super::trouble::Trouble;
use super::validation::Validation;
use highwater_connector_api::source::{Place, SourceEvent, SourceReaderConfig};
use highwater_protocol::offsets::TopicPartition;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Number of records of a full chunk, which is decoded at once.
const CHUNK_RECORDS: usize = 8192;
/// Size in bytes of a full chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Number of records from which on a chunk is decoded if there are no events.
const IDLE_RECORDS: usize = 1024;
/// Maximum number of events between two reports of progress.
const ROUND: usize = 4096;
/// Longest wait for an event; a wake-up ends it at once.
const WAIT: Duration = Duration::from_secs(1);
/// Longest wait for an event while the consumer is not ready for a seek.
const SEEK_AGAIN: Duration = Duration::from_millis(5);

/// A partition of the worker's consumer.
pub(super) struct Held {
    tp: TopicPartition,
    pub(super) generation: u64,
    raw: RawRecords,
    /// Offset of the next record to read.
    pub(super) next: i64,
    limit: Option<i64>,
    at_end: bool,
    /// Whether the partition is read to its limit or failed, and so not assigned to the consumer.
    pub(super) parked: bool,
    pub(super) paused: bool,
    pub(super) validation: Validation,
}

pub struct Worker {
    pub(super) topic: Arc<str>,
    pub(super) queue: Arc<ConsumerQueue>,
    pub(super) shared: Arc<WorkerShared>,
    decoder: ChunkDecoder,
    prefetch_bytes: usize,
    /// Whether partitions with an empty buffer are read even if memory is full.
    aligned: bool,
    pub(super) held: BTreeMap<i32, Held>,
    /// Partitions that changed in this round.
    touched: BTreeSet<i32>,
    pub(super) incarnation: Incarnation,
    pub(super) trouble: Trouble,
}

impl Worker {
    pub fn new(
        topic: Arc<str>,
        queue: Arc<ConsumerQueue>,
        shared: Arc<WorkerShared>,
        decoder: ChunkDecoder,
        config: &SourceReaderConfig,
        events: UnboundedSender<SourceEvent>,
    ) -> Self {
        let trouble = Trouble::new(topic.clone(), queue.consumer().client().context().clone(), events);
        let (held, touched, incarnation) = (BTreeMap::new(), BTreeSet::new(), Incarnation::default());
        let (prefetch_bytes, aligned) = (config.prefetch_bytes, config.aligned);
        Self { topic, queue, shared, decoder, prefetch_bytes, aligned, held, touched, incarnation, trouble }
    }

    /// Runs until the reader is dropped.
    pub fn run(mut self) {
        while !self.shared.with(|state| state.stop) {
            self.apply_changes();
            let wait = if self.validate_due() { SEEK_AGAIN } else { WAIT };
            self.decode_wanted(false);
            if self.is_full() {
                self.shared.wait();
                continue;
            }
            let drained = self.poll_round(wait);
            self.decode_wanted(drained);
            self.publish();
        }
        self.shared.forget_queue();
    }

    /// Updates the consumer's assignment to match the buffers.
    fn apply_changes(&mut self) {
        let (dirty, topic_id) = self.shared.with(|state| (std::mem::take(&mut state.dirty), state.topic_id.clone()));
        if dirty.is_empty() {
            return;
        }
        self.incarnation.expect(topic_id);
        if self.incarnation.other().is_some() {
            // The assignment may be for a newer topic: a request for metadata makes the client learn the topic's id
            // again.
            let _ = self.queue.consumer().fetch_metadata(Some(&self.topic), WAIT);
        }
        for partition in dirty {
            let place = self.shared.with(|state| {
                let buffer = state.partitions.get(&partition)?;
                Some((buffer.generation, Place { start: buffer.start, limit: buffer.limit, last: buffer.last }))
            });
            if let Err(error) = self.apply(partition, place) {
                self.fail_to_place(partition, &error);
            }
        }
    }

    fn apply(&mut self, partition: i32, place: Option<(u64, Place)>) -> Result<(), KafkaError> {
        let Some((generation, Place { start, limit, last })) = place else {
            return self.let_go(partition);
        };
        if let Some(held) = self.held.get_mut(&partition)
            && held.generation == generation
        {
            held.limit = limit;
            let goes_on = limit.is_none_or(|limit| held.next < limit);
            if held.parked && goes_on {
                held.parked = false;
                self.place(partition)?;
            }
            self.touched.insert(partition);
            return Ok(());
        }
        self.let_go(partition)?;
        let tp = TopicPartition::new(self.topic.clone(), partition);
        let parked = limit.is_some_and(|limit| start >= limit);
        let raw = RawRecords::default();
        let validation = Validation::behind(last);
        let held = Held { tp, generation, raw, next: start, limit, at_end: false, parked, paused: false, validation };
        self.held.insert(partition, held);
        self.touched.insert(partition);
        if parked { Ok(()) } else { self.place(partition) }
    }

    fn let_go(&mut self, partition: i32) -> Result<(), KafkaError> {
        self.touched.remove(&partition);
        let unplaced = match self.held.get(&partition) {
            Some(held) if !held.parked => self.unplace(partition),
            _ => Ok(()),
        };
        self.held.remove(&partition);
        unplaced
    }

    /// Handles events until there are none, or `ROUND` of them. Returns true if no event is left.
    fn poll_round(&mut self, mut wait: Duration) -> bool {
        for _ in 0..ROUND {
            let queue = Arc::clone(&self.queue);
            if queue.poll(wait, |polled| self.take(polled)).is_none() {
                if !wait.is_zero() {
                    self.trouble.check(self.queue.consumer());
                }
                return true;
            }
            wait = Duration::ZERO;
        }
        false
    }

    fn take(&mut self, polled: Polled<'_>) {
        match polled {
            Polled::Record(record) => self.take_record(&record),
            Polled::EndOfPartition { partition, offset } => {
                self.trouble.over();
                if !self.incarnation.is_expected() {
                    return self.topic_changed();
                }
                self.take_end(partition, offset);
            }
            Polled::Failed { partition, code, message, fatal } => self.take_failure(partition, code, message, fatal),
            Polled::TopicId { topic, id } if *topic == *self.topic => {
                self.incarnation.observe(id);
                if self.incarnation.other().is_some() {
                    self.topic_changed();
                }
            }
            Polled::TopicId { .. } | Polled::Other => {}
        }
    }

    fn take_end(&mut self, partition: i32, offset: i64) {
        let Some(held) = self.held.get_mut(&partition).filter(|held| held.is_read()) else { return };
        if offset < held.next && held.validation.last.take().is_some() {
            // Reading began behind the last record, and found no record up to this end. A fetch at the position shows
            // whether the log reaches that far.
            if let Err(error) = self.place_again(partition) {
                self.fail_to_place(partition, &error);
            }
            return;
        }
        held.next = held.next.max(offset);
        held.at_end = true;
        self.touched.insert(partition);
        self.park_at_limit(partition);
    }

    fn take_record(&mut self, record: &Record<'_>) {
        self.trouble.over();
        if !self.incarnation.is_expected() {
            return self.topic_changed();
        }
        let keep = self.decoder.keep;
        let Some(held) = self.held.get_mut(&record.partition).filter(|held| held.is_read()) else { return };
        if record.offset < held.next {
            if held.validation.is_new(record.offset, held.next) {
                self.rewritten(record.partition, record.offset);
            }
            return;
        }
        if held.limit.is_none_or(|limit| record.offset < limit) {
            held.raw.push(record, keep);
            held.validation.last = record.as_last();
        }
        held.next = record.offset + 1;
        held.at_end = false;
        let full = held.raw.len() >= CHUNK_RECORDS || held.raw.size_bytes() >= CHUNK_BYTES;
        let limited = held.limit.is_some_and(|limit| held.next >= limit);
        self.touched.insert(record.partition);
        if limited {
            self.park_at_limit(record.partition);
        }
        if full {
            self.decode(record.partition);
        }
    }

    /// Stops reading a partition that reached its limit.
    fn park_at_limit(&mut self, partition: i32) {
        let reached = |held: &&mut Held| held.limit.is_some_and(|limit| held.next >= limit);
        if let Some(held) = self.held.get_mut(&partition).filter(reached) {
            // Reading continues exactly at the limit if the limit is lifted.
            held.next = held.limit.unwrap_or(held.next);
            held.parked = true;
            if let Err(error) = self.unplace(partition) {
                tracing::warn!(topic = %self.topic, partition, %error, "cannot stop reading a finished partition");
            }
        }
    }

    /// Decodes records that a range read waits for; if `idle`, also chunks of `IDLE_RECORDS` or more.
    fn decode_wanted(&mut self, idle: bool) {
        let ready: Vec<i32> = self.shared.with(|state| {
            let wants = |partition: &i32, held: &Held| {
                let wanted = state.partitions.get(partition).map_or(i64::MIN, |buffer| buffer.wanted);
                let first = held.raw.offsets.first().copied();
                first.is_some_and(|first| first < wanted) || (idle && held.raw.len() >= IDLE_RECORDS)
            };
            self.held
                .iter()
                .filter(|(partition, held)| wants(partition, held))
                .map(|(partition, _)| *partition)
                .collect()
        });
        for partition in ready {
            self.decode(partition);
        }
        self.publish();
    }

    fn decode(&mut self, partition: i32) {
        let Some(held) = self.held.get_mut(&partition).filter(|held| !held.raw.is_empty()) else { return };
        let decoded = self.decoder.decode(&held.tp, &held.raw);
        held.raw.clear();
        let (generation, next, at_end) = (held.generation, held.next, held.at_end);
        match decoded {
            Ok(chunk) => self.shared.with(|state| {
                if let Some(buffer) = current(state, partition, generation) {
                    buffer.push(Arc::new(chunk));
                    buffer.advance(next, at_end, None, 0);
                }
            }),
            Err(failure) => return self.fail(partition, failure),
        }
        self.touched.insert(partition);
    }

    /// Reports the progress of the partitions that changed in this round.
    fn publish(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.touched);
        self.shared.with(|state| {
            for partition in touched {
                let Some(held) = self.held.get(&partition) else { continue };
                if let Some(buffer) = current(state, partition, held.generation) {
                    buffer.advance(held.next, held.at_end, held.raw.offsets.first().copied(), held.raw.size_bytes());
                }
            }
        });
        self.shared.tell();
    }

    /// Returns true if polling must stop: buffers hold `prefetch_bytes` or more, and no partition may continue. If some
    /// may, pauses all others. A partition may continue if a range read waits for its records or, with `aligned`, if
    /// its buffer is empty, since other partitions may wait for its watermark.
    fn is_full(&mut self) -> bool {
        let (limit, aligned) = (self.prefetch_bytes, self.aligned);
        let (full, starved): (bool, BTreeSet<i32>) = self.shared.with(|state| {
            let full = state.memory_bytes() >= limit;
            let goes_on = |buffer: &PartitionBuffer| buffer.starved() || aligned && buffer.hungry();
            let starved =
                state.partitions.iter().filter(|(_, buffer)| goes_on(buffer)).map(|(partition, _)| *partition);
            (full, if full { starved.collect() } else { BTreeSet::new() })
        });
        if full && starved.is_empty() {
            return true;
        }
        for (partition, held) in &mut self.held {
            let pause = full && !starved.contains(partition);
            if held.parked || pause == held.paused {
                continue;
            }
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, *partition);
            let consumer = self.queue.consumer();
            let result = if pause { consumer.pause(&list) } else { consumer.resume(&list) };
            match result {
                Ok(()) => held.paused = pause,
                Err(error) => tracing::debug!(topic = %self.topic, partition, %error, "cannot pause or resume"),
            }
        }
        false
    }
}

/// Returns the buffer of a partition; `None` if the partition has been restarted or removed since `generation`.
pub(super) fn current(state: &mut WorkerState, partition: i32, generation: u64) -> Option<&mut PartitionBuffer> {
    state.partitions.get_mut(&partition).filter(|buffer| buffer.generation == generation)
}
