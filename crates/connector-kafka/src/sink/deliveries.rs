//! Delivery reports for the records of an open transaction.
//!
//! Owns: collecting the producer's delivery reports, and waiting for them. The producer's own thread receives them, so
//! that the last report wakes a waiting writer, and an abort needs no thread to poll.

use super::progress_topic::PROGRESS_PREFIX;
use super::token::ProgressPosition;
use crate::client::Callbacks;
use crate::error::classify;
use highwater_connector_api::error::ConnectorError;
use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, producer::ThreadedProducer};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// A producer that collects the delivery reports of its records.
pub type TransactionalProducer = ThreadedProducer<Deliveries>;

#[derive(Default)]
pub struct Deliveries {
    pub callbacks: Callbacks,
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// Records sent whose report is still missing.
    outstanding: usize,
    /// Records with a report, delivered or failed.
    delivered: u64,
    failed: Option<(String, KafkaError)>,
    progress_at: Option<ProgressPosition>,
    /// First offset of the transaction, by topic and partition.
    first: HashMap<String, BTreeMap<i32, i64>>,
}

/// The first offset of a transaction in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    pub topic: String,
    pub partition: i32,
    /// Negative if the broker did not report it.
    pub offset: i64,
}

impl Deliveries {
    pub fn new(callbacks: Callbacks) -> Self {
        Self { callbacks, ..Self::default() }
    }

    /// Clears the reports of the previous transaction.
    pub fn reset(&self) {
        *self.seen.lock() = Seen::default();
    }

    /// Waits until every record has a report or one has failed. Returns false if no report arrives within `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        let mut seen = self.seen.lock();
        let mut known = seen.delivered;
        let mut deadline = Instant::now() + patience;
        while seen.outstanding > 0 && seen.failed.is_none() {
            if !self.changed.wait_until(&mut seen, deadline).timed_out() {
                continue;
            }
            if seen.delivered == known {
                return false;
            }
            known = seen.delivered;
            deadline = Instant::now() + patience;
        }
        true
    }

    pub fn failed(&self, context: &str) -> Result<(), ConnectorError> {
        match &self.seen.lock().failed {
            Some((topic, error)) => Err(delivery_error(context, topic, error)),
            None => Ok(()),
        }
    }

    pub fn progress_at(&self) -> Option<ProgressPosition> {
        self.seen.lock().progress_at
    }

    /// Returns the first offset of the transaction in every partition that it has written to.
    pub fn first(&self) -> Vec<First> {
        let seen = self.seen.lock();
        let first = |topic: &String, (partition, offset): (&i32, &i64)| First {
            topic: topic.clone(),
            partition: *partition,
            offset: *offset,
        };
        seen.first.iter().flat_map(|(topic, all)| all.iter().map(move |one| first(topic, one))).collect()
    }

    /// Counts a record. Must be called before it is sent, since its report may arrive at once.
    pub fn sending(&self) {
        self.seen.lock().outstanding += 1;
    }

    /// Takes back the count of a record that the queue refused. Waits up to `pause` until other records leave the
    /// queue.
    pub fn refused(&self, pause: Option<Duration>) {
        let mut seen = self.seen.lock();
        seen.outstanding = seen.outstanding.saturating_sub(1);
        if let Some(pause) = pause {
            let _ = self.changed.wait_for(&mut seen, pause);
        }
    }

    fn report(&self, topic: &str, partition: i32, delivered: Result<i64, &KafkaError>) {
        let mut seen = self.seen.lock();
        seen.outstanding = seen.outstanding.saturating_sub(1);
        seen.delivered += 1;
        match delivered {
            Ok(offset) => {
                if topic.starts_with(PROGRESS_PREFIX) {
                    seen.progress_at = Some(ProgressPosition { partition, offset });
                }
                if let Some(known) = seen.first.get_mut(topic) {
                    known.entry(partition).or_insert(offset);
                } else {
                    seen.first.insert(topic.to_string(), [(partition, offset)].into());
                }
            }
            // The record belongs to an aborted transaction.
            Err(error) if is_purged(error) => {}
            Err(error) => {
                if seen.failed.is_none() {
                    seen.failed = Some((topic.to_string(), error.clone()));
                }
            }
        }
        if seen.outstanding == 0 || seen.failed.is_some() {
            self.changed.notify_all();
        }
    }
}

impl AsRef<Callbacks> for Deliveries {
    fn as_ref(&self) -> &Callbacks {
        &self.callbacks
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        self.callbacks.error(error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.callbacks.log(level, facility, line);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => self.report(message.topic(), message.partition(), Ok(message.offset())),
            Err((error, message)) => self.report(message.topic(), message.partition(), Err(error)),
        }
    }
}

/// Returns a request for the ends of these partitions.
pub fn ends_of(partitions: &[First]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for one in partitions {
        list.add_partition_offset(&one.topic, one.partition, Offset::End)?;
    }
    Ok(list)
}

fn is_purged(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(error.rdkafka_error_code(), Some(C::PurgeQueue | C::PurgeInflight))
}

pub fn delivery_error(context: &str, topic: &str, error: &KafkaError) -> ConnectorError {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
        return ConnectorError::Refused {
            context: context.to_string(),
            message: format!(
                "a row is too large for topic '{topic}': raise its max.message.bytes and the sink's \
                 'kafka.message.max.bytes', or write less into one row"
            ),
        };
    }
    classify(format!("{context}: writing to topic '{topic}'"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn patience_is_for_silence_not_for_the_whole() {
        let deliveries = Deliveries::default();
        (0..12).for_each(|_| deliveries.sending());
        let begun = Instant::now();
        let all = std::thread::scope(|scope| {
            scope.spawn(|| {
                for offset in 0..12 {
                    std::thread::sleep(PATIENCE / 6);
                    deliveries.report("t", 0, Ok(offset));
                }
            });
            deliveries.wait(PATIENCE)
        });
        assert!(all && begun.elapsed() > PATIENCE, "{:?}", begun.elapsed());
        deliveries.sending();
        assert!(!deliveries.wait(PATIENCE / 10), "nobody reports");
    }

    #[test]
    fn the_first_offset_of_every_partition_is_kept() {
        let deliveries = Deliveries::default();
        for (topic, partition, offset) in [("a", 1, 7), ("a", 1, 8), ("b", 0, 3), ("a", 0, -1001)] {
            deliveries.sending();
            deliveries.report(topic, partition, Ok(offset));
        }
        let mut first: Vec<(String, i32, i64)> =
            deliveries.first().into_iter().map(|one| (one.topic, one.partition, one.offset)).collect();
        first.sort();
        assert_eq!(first, [("a".into(), 0, -1001), ("a".into(), 1, 7), ("b".into(), 0, 3)]);
        deliveries.reset();
        assert_eq!(deliveries.first(), []);
    }
}
