//! Progress of writers, kept in Kafka beside their rows: which batch each one holds.
//!
//! Owns: the topics, their records' form, and reading them. Invariants: a progress record is in the same
//! transaction as the rows it tells of, so that it is there if and only if they are. Every sink of a query has a topic
//! of its own with one partition: an open transaction hides all that lies behind it from `read_committed` readers, so
//! a dead stranger's, in a shared topic, would hold up recovery until its timeout; our own we may fence.

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

/// What the names of progress topics begin with.
pub const PROGRESS_PREFIX: &str = "__highwater_progress-";
/// Its only partition.
pub const PROGRESS_PARTITION: i32 = 0;
/// Longest wait for one answer of the brokers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without a record it is looked whether the topics are still there.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest wait for the brokers to hand out records that are there.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What is tried here, in errors.
const READING: &str = "reading the progress of sinks";

/// Name of a sink's progress topic: compacted, one partition, made when the query is submitted.
pub fn progress_topic(query: QueryId, sink: SinkId) -> String {
    format!("{PROGRESS_PREFIX}{query}-{sink}")
}

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

    /// Names of all progress topics.
    pub fn topics(&self) -> Result<Vec<String>, ConnectorError> {
        let metadata = client::metadata(&self.consumer, None, TIMEOUT, || READING.to_string())?;
        let names = metadata.topics().iter().map(|topic| topic.name());
        Ok(names.filter(|name| name.starts_with(PROGRESS_PREFIX)).map(str::to_string).collect())
    }

    /// The end of a topic as this reader sees it: the high watermark if it is `read_uncommitted`, the last stable
    /// offset if it is `read_committed`. `None` when the topic does not exist.
    pub fn end(&self, topic: &str) -> Result<Option<i64>, ConnectorError> {
        let metadata = client::metadata(&self.consumer, Some(topic), TIMEOUT, || READING.to_string())?;
        if metadata.topics().first().is_none_or(|topic| topic.partitions().is_empty()) {
            return Ok(None);
        }
        let ends =
            self.consumer.fetch_watermarks(topic, PROGRESS_PARTITION, TIMEOUT).map_err(|error| Self::failed(&error))?;
        Ok(Some(ends.1))
    }

    /// The newest progress of every writer in all topics there are. Those of other queries may be deleted meanwhile.
    pub fn read_everything(&self) -> Result<BTreeMap<ProgressKey, Progress>, ConnectorError> {
        loop {
            let topics: BTreeMap<String, Option<i64>> = self.topics()?.into_iter().map(|topic| (topic, None)).collect();
            match self.read(&topics) {
                // Every turn takes a deletion that came in between.
                Err(_) if self.missing(&topics)?.is_some() => {}
                result => return result,
            }
        }
    }

    /// The first of these topics that does not exist.
    fn missing(&self, topics: &BTreeMap<String, Option<i64>>) -> Result<Option<String>, ConnectorError> {
        let there = self.topics()?;
        Ok(topics.keys().find(|topic| !there.contains(topic)).cloned())
    }

    /// The newest progress of every writer in some topics, each read from the given offset (else its beginning) to
    /// the end this reader sees. A topic that is deleted meanwhile is an error: nobody knows what it held.
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
            // A client waits long before it believes that a topic is gone, and this one holds up others.
            if heard.elapsed() > SILENCE {
                if let Some(topic) = self.missing(topics)? {
                    return Err(ConnectorError::Unavailable {
                        context: READING.into(),
                        message: format!("topic '{topic}' is gone"),
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
                        message: "the brokers do not hand out its records".into(),
                    });
                }
                // librdkafka tries again by itself.
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
