//! Progress of writers, kept in Kafka beside their rows: which batch each one holds.
//!
//! Owns: the topic, its records' form, and reading them. Invariant: a progress record is in the same transaction
//! as the rows it tells of, so that it is there if and only if they are.

use crate::client;
use crate::error::ConnectorError;
use highwater_core::options::IsolationLevel;
use highwater_engine::query::KafkaOptions;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Compacted; made when the first query with a Kafka sink is submitted.
pub const PROGRESS_TOPIC: &str = "__highwater_progress";
/// Longest wait for one answer of the brokers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for other writers' open transactions to end, which hide what lies behind them.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Key of a progress record: whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProgressKey {
    /// UUID of the query.
    pub query: String,
    /// Number of the sink in its script.
    pub sink: u32,
    pub writer: u32,
}

/// Value of a progress record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The newest batch the sink holds of this writer.
    pub batch: u64,
    /// Of that batch's records, hexadecimal.
    pub digest: String,
    pub rows: u64,
    /// Name of the query.
    pub name: String,
    /// Name of the sink's table.
    pub table: String,
    /// Topic of the sink; none when rows say theirs.
    pub topic: Option<String>,
    /// Of the driver that planned the batch.
    pub epoch: u64,
}

/// Reads the progress topic.
pub struct ProgressReader {
    consumer: BaseConsumer,
}

impl ProgressReader {
    pub fn open(options: &KafkaOptions) -> Result<Self, ConnectorError> {
        let mut config = client::consumer(options, "highwater-progress", IsolationLevel::ReadCommitted)?;
        config.set("fetch.wait.max.ms", "20").set("queued.min.messages", "1000").set("enable.partition.eof", "true");
        let context = "reading progress";
        let consumer = config.create().map_err(|error| client::creation_error(context, &error))?;
        Ok(Self { consumer })
    }

    fn failed(error: &KafkaError) -> ConnectorError {
        ConnectorError::kafka(format!("reading topic '{PROGRESS_TOPIC}'"), error)
    }

    /// Number of partitions; 0 when the topic does not exist.
    pub fn partitions(&self) -> Result<i32, ConnectorError> {
        let metadata = self.consumer.fetch_metadata(Some(PROGRESS_TOPIC), TIMEOUT).map_err(|e| Self::failed(&e))?;
        Ok(metadata.topics().first().map_or(0, |topic| topic.partitions().len() as i32))
    }

    /// The high watermark of every partition, that is the end of all that was written, committed or not. Taken after
    /// writers were fenced, everything of theirs lies below it.
    pub fn high_watermarks(&self, options: &KafkaOptions) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        // The end a read_committed client is told is the last stable offset.
        let config = client::consumer(options, "highwater-progress", IsolationLevel::ReadUncommitted)?;
        let client: BaseConsumer =
            config.create().map_err(|error| client::creation_error("reading progress", &error))?;
        self.ends_by(&client)
    }

    /// The last stable offset of every partition: what can be read at once.
    pub fn stable_ends(&self) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        self.ends_by(&self.consumer)
    }

    fn ends_by(&self, client: &BaseConsumer) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        let mut ends = BTreeMap::new();
        for partition in 0..self.partitions()? {
            let (_, end) =
                client.fetch_watermarks(PROGRESS_TOPIC, partition, TIMEOUT).map_err(|error| Self::failed(&error))?;
            ends.insert(partition, end);
        }
        Ok(ends)
    }

    /// The newest committed progress of every writer, from the given offsets (else the beginning) to `ends`.
    pub fn read(
        &self,
        from: &BTreeMap<i32, i64>,
        ends: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<ProgressKey, Progress>, ConnectorError> {
        let mut list = TopicPartitionList::new();
        let mut open: BTreeMap<i32, i64> = ends.iter().filter(|(_, end)| **end > 0).map(|(p, end)| (*p, *end)).collect();
        for partition in open.keys() {
            let offset = from.get(partition).map_or(Offset::Beginning, |offset| Offset::Offset(*offset));
            list.add_partition_offset(PROGRESS_TOPIC, *partition, offset).map_err(|error| Self::failed(&error))?;
        }
        self.consumer.assign(&list).map_err(|error| Self::failed(&error))?;
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut found = BTreeMap::new();
        while !open.is_empty() {
            match self.consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    if let Some((key, progress)) = parse(message.key(), message.payload()) {
                        found.insert(key, progress);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) if Instant::now() > deadline => return Err(Self::failed(&error)),
                // librdkafka tries again by itself.
                Some(Err(_)) => {}
            }
            self.drop_read(&mut open)?;
            if Instant::now() > deadline && !open.is_empty() {
                return Err(ConnectorError::Unavailable {
                    context: format!("reading topic '{PROGRESS_TOPIC}'"),
                    message: format!(
                        "open transactions hide its end in partitions {:?}; waiting for them to end",
                        open.keys().collect::<Vec<_>>()
                    ),
                });
            }
        }
        Ok(found)
    }

    /// Positions, not records: markers and compaction leave gaps.
    fn drop_read(&self, open: &mut BTreeMap<i32, i64>) -> Result<(), ConnectorError> {
        let positions = self.consumer.position().map_err(|error| Self::failed(&error))?;
        for element in positions.elements() {
            if let (Offset::Offset(position), Some(end)) = (element.offset(), open.get(&element.partition()))
                && position >= *end
            {
                open.remove(&element.partition());
            }
        }
        Ok(())
    }
}

fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Option<(ProgressKey, Progress)> {
    let key = serde_json::from_slice(key?).ok()?;
    Some((key, serde_json::from_slice(value?).ok()?))
}
