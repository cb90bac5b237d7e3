//! Progress of writers, kept in Kafka beside their rows: the newest batch that each of them has written.
//!
//! Owns: the topics, the form of their records, and reading them. Invariants: a progress record is in the same
//! transaction as its rows, so that it is visible if and only if they are. Every sink of a query has its own topic with
//! one partition: an open transaction hides later records from `read_committed` readers, so in a shared topic a dead
//! writer of another query would hold up recovery until its timeout. Recovery may fence only its own query's writers.

use crate::client::{self, Lookup};
use crate::error::classify;
use crate::options::KafkaOptions;
use highwater_connector_api::error::ConnectorError;
use highwater_protocol::ids::{QueryId, SinkId};
use highwater_protocol::options::IsolationLevel;
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Prefix of the names of progress topics.
pub const PROGRESS_PREFIX: &str = "__highwater_progress-";
/// The only partition of a progress topic.
pub const PROGRESS_PARTITION: i32 = 0;
/// Longest wait for one answer of the brokers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a record after which the reader checks whether the topics still exist.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest time for reading all topics.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Context of this module's errors.
const READING: &str = "reading the progress of sinks";

/// Returns the name of a sink's progress topic, which is compacted, has one partition and is created at submit.
pub fn progress_topic(query: QueryId, sink: SinkId) -> String {
    format!("{PROGRESS_PREFIX}{query}-{sink}")
}

/// Key of a progress record: the writer.
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
    /// The newest batch that the writer has published.
    pub batch: u64,
    /// Digest of that batch's records, 32 hex digits.
    pub digest: String,
    pub rows: u64,
    /// Name of the query.
    pub name: String,
    /// Name of the sink's table.
    pub table: String,
    /// Topic of the sink; `None` if rows name their topics.
    pub topic: Option<String>,
    /// Epoch of the driver that planned the batch.
    pub epoch: u64,
}

/// Reads progress topics.
pub struct ProgressReader {
    consumer: Lookup,
}

impl ProgressReader {
    pub fn open(options: &KafkaOptions, isolation: IsolationLevel) -> Result<Self, ConnectorError> {
        let mut config = client::consumer(options, "highwater-progress", isolation)?;
        config.set("fetch.wait.max.ms", "20").set("queued.min.messages", "1000");
        Ok(Self { consumer: client::lookup(&config, "reading progress")? })
    }

    fn failed(error: &KafkaError) -> ConnectorError {
        classify(READING, error)
    }

    /// Returns the names of all progress topics of the cluster.
    pub fn topics(&self) -> Result<Vec<String>, ConnectorError> {
        let metadata = client::metadata(&self.consumer, None, TIMEOUT, || READING.to_string())?;
        let names = metadata.topics().iter().map(|topic| topic.name());
        Ok(names.filter(|name| name.starts_with(PROGRESS_PREFIX)).map(str::to_string).collect())
    }

    /// Returns the end of a topic as this reader sees it: the high watermark under `read_uncommitted`, the last stable
    /// offset under `read_committed`. `None` if the topic does not exist.
    pub fn end(&self, topic: &str) -> Result<Option<i64>, ConnectorError> {
        let metadata = client::metadata(&self.consumer, Some(topic), TIMEOUT, || READING.to_string())?;
        if metadata.topics().first().is_none_or(|topic| topic.partitions().is_empty()) {
            return Ok(None);
        }
        let ends =
            self.consumer.fetch_watermarks(topic, PROGRESS_PARTITION, TIMEOUT).map_err(|error| Self::failed(&error))?;
        Ok(Some(ends.1))
    }

    /// Returns the newest progress of every writer in all progress topics. Topics may be deleted meanwhile.
    pub fn read_everything(&self) -> Result<BTreeMap<ProgressKey, Progress>, ConnectorError> {
        loop {
            let topics: BTreeMap<String, Option<i64>> = self.topics()?.into_iter().map(|topic| (topic, None)).collect();
            match self.read(&topics) {
                // A topic was deleted in between: list the topics again.
                Err(_) if self.missing(&topics)?.is_some() => {}
                result => return result,
            }
        }
    }

    /// Returns the first of these topics that does not exist; `None` if all exist.
    fn missing(&self, topics: &BTreeMap<String, Option<i64>>) -> Result<Option<String>, ConnectorError> {
        let there = self.topics()?;
        Ok(topics.keys().find(|topic| !there.contains(topic)).cloned())
    }

    /// Returns the newest progress of every writer in `topics`. Each topic is read from the given offset, or from its
    /// beginning if that is `None`, to the end that this reader sees. It is an error if a topic is deleted meanwhile,
    /// since its progress is then unknown.
    pub fn read(
        &self,
        topics: &BTreeMap<String, Option<i64>>,
    ) -> Result<BTreeMap<ProgressKey, Progress>, ConnectorError> {
        let mut list = TopicPartitionList::new();
        for (topic, from) in topics {
            let offset = from.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(topic, PROGRESS_PARTITION, offset).map_err(|error| Self::failed(&error))?;
        }
        self.consumer.assign(&list).map_err(|error| Self::failed(&error))?;
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut found = BTreeMap::new();
        let (mut ended, mut heard) = (0, Instant::now());
        while ended < topics.len() {
            // librdkafka takes long to report a deleted topic, and meanwhile this loop would wait.
            if heard.elapsed() > SILENCE {
                if let Some(topic) = self.missing(topics)? {
                    return Err(ConnectorError::Unavailable {
                        context: READING.into(),
                        message: format!("topic '{topic}' was deleted"),
                    });
                }
                heard = Instant::now();
            }
            match self.consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if let Some((key, progress)) = parse(message.key(), message.payload()) {
                        found.insert(key, progress);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(error)) if Instant::now() > deadline => return Err(Self::failed(&error)),
                None if Instant::now() > deadline => {
                    return Err(ConnectorError::Unavailable {
                        context: READING.into(),
                        message: "the brokers do not return all records in time".into(),
                    });
                }
                // librdkafka retries by itself.
                Some(Err(_)) | None => {}
            }
        }
        self.consumer.unassign().map_err(|error| Self::failed(&error))?;
        Ok(found)
    }
}

fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Option<(ProgressKey, Progress)> {
    let key = serde_json::from_slice(key?).ok()?;
    Some((key, serde_json::from_slice(value?).ok()?))
}
