//! The driver's questions about a source's topic: its partitions, their ends, offsets by time.
//!
//! Owns: resolving `starting_offsets` and `ending_offsets` to positions. Does not own: reading records. All calls
//! block. Ends are the ends that readers see: under `read_committed`, the last stable offset. Only idleness is decided
//! by the end of the log itself.

use super::options::source_options;
use crate::client::{self, Lookup};
use crate::error::{classify, classify_code};
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::source::SourceMonitor;
use highwater_protocol::ids::SourceId;
use highwater_protocol::offsets::{LogEnds, Positions, SourcePartition, TopicPartition};
use highwater_protocol::options::{EndingOffsets, IsolationLevel, StartingOffsets};
use highwater_protocol::query::TopicLook;
use highwater_sql::tables::SourceTable;
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for brokers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for records of which only the timestamps are needed.
const RECORD_TIMEOUT: Duration = Duration::from_millis(500);

/// Explicit offset that means the earliest, as in Spark.
const EARLIEST: i64 = -2;
/// Explicit offset that means the latest, as in Spark.
const LATEST: i64 = -1;

/// A client that queries one source's topic. It is kept open between calls.
pub struct TopicMonitor {
    consumer: Lookup,
    /// Also sees open transactions, to detect idleness; `None` if idleness does not matter or `consumer` sees them.
    uncommitted: Option<Lookup>,
    /// The topic id of the last `look`.
    last_id: Option<String>,
    source: SourceId,
    topic: Arc<str>,
    servers: String,
    starting: StartingOffsets,
    table: String,
}

impl TopicMonitor {
    /// Creates the client; only the other calls contact brokers.
    pub fn open(table: &SourceTable) -> Result<Self, ConnectorError> {
        let (options, topic) = source_options(table)?;
        let context = format!("table '{}'", table.name);
        let mut config = client::consumer(&options, "highwater-monitor", table.options.isolation_level)?;
        // The monitor reads single records only.
        config.set("queued.min.messages", "1").set("queued.max.messages.kbytes", "2048");
        let consumer = client::lookup(&config, &context)?;
        let idles = table.watermark.is_some() && table.options.idle_timeout_ms.is_some();
        let uncommitted = match table.options.isolation_level {
            IsolationLevel::ReadCommitted if idles => {
                config.set("isolation.level", "read_uncommitted");
                Some(client::lookup(&config, &context)?)
            }
            _ => None,
        };
        Ok(Self {
            consumer,
            uncommitted,
            last_id: None,
            source: table.id,
            topic,
            servers: options.bootstrap_servers.clone(),
            starting: table.options.starting_offsets.clone(),
            table: table.name.clone(),
        })
    }

    /// Returns timestamps in milliseconds as `timestamp_at`, for many partitions at once.
    fn timestamps_at(&mut self, offsets: &BTreeMap<i32, i64>) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        let context = format!("reading record times of topic '{}'", self.topic);
        let failed = |error: KafkaError| classify(context.clone(), &error);
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset)).map_err(failed)?;
        }
        self.consumer.assign(&list).map_err(failed)?;
        let deadline = Instant::now() + RECORD_TIMEOUT;
        let mut found = BTreeMap::new();
        let mut open: Vec<i32> = offsets.keys().copied().collect();
        while !open.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    if let Some(time) = message.timestamp().to_millis() {
                        found.entry(message.partition()).or_insert(time);
                    }
                    open.retain(|partition| *partition != message.partition());
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|open| *open != partition),
                // Best effort: the result then lacks the partition.
                Some(Err(error)) => tracing::debug!(topic = %self.topic, %error, "a record's time could not be read"),
                None => {}
            }
        }
        self.consumer.unassign().map_err(failed)?;
        Ok(found)
    }

    fn key(&self, partition: i32) -> SourcePartition {
        SourcePartition { source: self.source, tp: TopicPartition::new(self.topic.clone(), partition) }
    }

    fn keyed(&self, positions: BTreeMap<i32, i64>) -> Positions {
        positions.into_iter().map(|(partition, offset)| (self.key(partition), offset)).collect()
    }

    fn ends_of(&self, partitions: &[i32]) -> Result<BTreeMap<i32, LogEnds>, ConnectorError> {
        let earliest = self.list_offsets(&self.consumer, partitions, Offset::Beginning)?;
        let latest = self.list_offsets(&self.consumer, partitions, Offset::End)?;
        let log_end = match &self.uncommitted {
            Some(consumer) => self.list_offsets(consumer, partitions, Offset::End)?,
            None => latest.clone(),
        };
        let both = |partition: &i32| {
            let (earliest, latest) = (*earliest.get(partition)?, *latest.get(partition)?);
            Some((*partition, LogEnds { earliest, latest, log_end: *log_end.get(partition)? }))
        };
        Ok(partitions.iter().filter_map(both).collect())
    }

    /// Returns the first offset at or after a time (in milliseconds) per partition; the end if no record is that new.
    fn at_time(&self, ends: &BTreeMap<i32, LogEnds>, timestamp_ms: i64) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        let partitions: Vec<i32> = ends.keys().copied().collect();
        // Kafka gives negative times a special meaning, and no record is older than the epoch.
        let found = self.list_offsets(&self.consumer, &partitions, Offset::Offset(timestamp_ms.max(0)))?;
        Ok(ends
            .iter()
            .map(|(partition, ends)| {
                let at = found.get(partition).copied().filter(|offset| *offset >= 0).unwrap_or(ends.latest);
                (*partition, at.min(ends.latest))
            })
            .collect())
    }

    /// Sends one ListOffsets request to each leader. librdkafka passes on −2 and −1, which mean the beginning and the
    /// end, and any other number as a time. The result is −1 if no record is at or after the time.
    fn list_offsets(
        &self,
        consumer: &Lookup,
        partitions: &[i32],
        what: Offset,
    ) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        let context =
            || format!("table '{}': looking up offsets of topic '{}' at {}", self.table, self.topic, self.servers);
        let failed = |error: KafkaError| client::failed(&self.consumer, context(), &error);
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic, *partition, what).map_err(failed)?;
        }
        let answer = consumer.offsets_for_times(list, TIMEOUT).map_err(failed)?;
        let mut found = BTreeMap::new();
        for element in answer.elements() {
            element.error().map_err(failed)?;
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => -1,
            };
            found.insert(element.partition(), offset);
        }
        Ok(found)
    }

    /// Returns the given positions, checked against the log; partitions without one get `default`.
    fn explicit(
        &self,
        ends: &BTreeMap<i32, LogEnds>,
        offsets: &BTreeMap<String, BTreeMap<i32, i64>>,
        default: i64,
    ) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        let none = BTreeMap::new();
        let named = offsets.get(&*self.topic).unwrap_or(&none);
        check_explicit(&self.topic, ends, named, default)
    }
}

impl SourceMonitor for TopicMonitor {
    fn partitions(&self) -> Result<Vec<i32>, ConnectorError> {
        let context = || format!("table '{}': looking up topic '{}' at {}", self.table, self.topic, self.servers);
        let metadata = client::metadata(&self.consumer, Some(&self.topic), TIMEOUT, context)?;
        let missing = || ConnectorError::MissingTopic { topic: self.topic.to_string(), servers: self.servers.clone() };
        let topic = metadata.topics().iter().find(|topic| topic.name() == &*self.topic).ok_or_else(missing)?;
        if let Some(code) = topic.error() {
            let code = RDKafkaErrorCode::from(code);
            return Err(match code {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => missing(),
                code => classify_code(context(), Some(code), code.to_string()),
            });
        }
        let mut partitions: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
        partitions.sort_unstable();
        if partitions.is_empty() { Err(missing()) } else { Ok(partitions) }
    }

    fn identity(&mut self) -> Result<Option<(String, String)>, ConnectorError> {
        let id = crate::topic_id::topic_id(self.consumer.client(), &self.topic, TIMEOUT).map_err(|code| {
            classify_code(format!("describing topic '{}'", self.topic), Some(code), code.to_string())
        })?;
        Ok(id.map(|id| (self.topic.to_string(), id)))
    }

    fn resolve_start(&mut self) -> Result<Positions, ConnectorError> {
        let partitions = self.partitions()?;
        let ends = self.ends_of(&partitions)?;
        let positions = match self.starting.clone() {
            StartingOffsets::Earliest => ends.iter().map(|(partition, ends)| (*partition, ends.earliest)).collect(),
            StartingOffsets::Latest => ends.iter().map(|(partition, ends)| (*partition, ends.latest)).collect(),
            StartingOffsets::Timestamp { timestamp_ms } => self.at_time(&ends, timestamp_ms)?,
            StartingOffsets::Explicit { offsets } => self.explicit(&ends, &offsets, EARLIEST)?,
        };
        Ok(self.keyed(positions))
    }

    fn resolve_end(&mut self, ending: &EndingOffsets) -> Result<Positions, ConnectorError> {
        let partitions = self.partitions()?;
        let ends = self.ends_of(&partitions)?;
        let positions = match ending {
            EndingOffsets::Latest => ends.iter().map(|(partition, ends)| (*partition, ends.latest)).collect(),
            EndingOffsets::Timestamp { timestamp_ms } => self.at_time(&ends, *timestamp_ms)?,
            EndingOffsets::Explicit { offsets } => self.explicit(&ends, offsets, LATEST)?,
        };
        Ok(self.keyed(positions))
    }

    fn ends(&mut self) -> Result<BTreeMap<SourcePartition, LogEnds>, ConnectorError> {
        let partitions = self.partitions()?;
        Ok(self.ends_of(&partitions)?.into_iter().map(|(partition, ends)| (self.key(partition), ends)).collect())
    }

    fn look_at_identity(&mut self) -> Result<TopicLook, ConnectorError> {
        self.partitions()?;
        let id = self.identity()?.map(|(_, id)| id);
        Ok(TopicLook { source: self.source, id, ends: BTreeMap::new() })
    }

    fn look(&mut self) -> Result<TopicLook, ConnectorError> {
        let mut ends = self.ends();
        let id = self.identity()?.map(|(_, id)| id);
        if id != self.last_id {
            // The ends that were read before the id may belong to an earlier topic of this name.
            ends = self.ends();
            self.last_id.clone_from(&id);
        }
        if let Err(error @ ConnectorError::MissingTopic { .. }) = ends {
            return Err(error);
        }
        let ends = ends.unwrap_or_else(|error| {
            tracing::debug!(topic = %self.topic, %error, "the ends of the topic could not be read");
            BTreeMap::new()
        });
        Ok(TopicLook { source: self.source, id, ends })
    }

    fn timestamp_at(&mut self, tp: &TopicPartition, offset: i64) -> Result<Option<i64>, ConnectorError> {
        let found = self.timestamps_at(&BTreeMap::from([(tp.partition, offset)]))?;
        Ok(found.get(&tp.partition).copied())
    }
}

fn check_explicit(
    topic: &Arc<str>,
    ends: &BTreeMap<i32, LogEnds>,
    named: &BTreeMap<i32, i64>,
    default: i64,
) -> Result<BTreeMap<i32, i64>, ConnectorError> {
    let tp = |partition: i32| TopicPartition::new(topic.clone(), partition);
    if let Some(partition) = named.keys().find(|partition| !ends.contains_key(*partition)) {
        let count = i32::try_from(ends.len()).unwrap_or(i32::MAX);
        return Err(ConnectorError::MissingPartition { tp: tp(*partition), count });
    }
    let mut positions = BTreeMap::new();
    for (partition, ends) in ends {
        let position = match named.get(partition).copied().unwrap_or(default) {
            EARLIEST => ends.earliest,
            LATEST => ends.latest,
            offset if (ends.earliest..=ends.latest).contains(&offset) => offset,
            position => {
                let (tp, earliest, latest) = (tp(*partition), ends.earliest, ends.latest);
                return Err(ConnectorError::OffsetOutOfRange { tp, position, earliest, latest });
            }
        };
        positions.insert(*partition, position);
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> BTreeMap<i32, LogEnds> {
        BTreeMap::from([
            (0, LogEnds { earliest: 100, latest: 200, log_end: 200 }),
            (1, LogEnds { earliest: 0, latest: 50, log_end: 50 }),
        ])
    }

    #[test]
    fn explicit_offsets_are_checked() {
        let topic: Arc<str> = "t".into();
        let check =
            |named: &[(i32, i64)], default| check_explicit(&topic, &ends(), &named.iter().copied().collect(), default);
        assert_eq!(check(&[(0, 150)], EARLIEST).unwrap(), BTreeMap::from([(0, 150), (1, 0)]));
        assert_eq!(check(&[(0, -2), (1, -1)], LATEST).unwrap(), BTreeMap::from([(0, 100), (1, 50)]));
        assert_eq!(check(&[], LATEST).unwrap(), BTreeMap::from([(0, 200), (1, 50)]));
        let error = check(&[(0, 99)], EARLIEST).unwrap_err().to_string();
        assert!(error.starts_with("offset 99 out of range for t-0: earliest available is 100"), "{error}");
        let error = check(&[(0, 201)], EARLIEST).unwrap_err().to_string();
        assert!(error.contains("latest available is 200"), "{error}");
        let error = check(&[(7, 1)], EARLIEST).unwrap_err().to_string();
        assert!(error.contains("t-7 does not exist") && error.contains("2 partitions"), "{error}");
    }
}
