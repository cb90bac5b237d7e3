//! What a user asked for, after parsing and before any planning: the query and its sources.
//!
//! Owns: the typed options of the SQL contract. Does not own: parsing them (sql), using them (driver).

use crate::identity::PlanIdentity;
use crate::ids::{QueryId, SourceId};
use crate::offsets::{Positions, TopicPartition, as_pairs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When the next micro-batch is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// As soon as the batch before is committed and something is there to read.
    #[default]
    Asap,
    /// At multiples of the interval since the Unix epoch.
    Every { interval_ms: u64 },
    /// Ends are fixed at the first start; batches within the limits until they are reached; then finished.
    AvailableNow,
    /// One batch, ignoring limits, then finished.
    Once,
}

/// What a sink receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputMode {
    /// Final rows only; nothing is ever taken back.
    Append,
    /// Every change at its commit, keyed by the sink's primary key.
    Update,
    /// The whole result at every batch.
    Complete,
}

/// Where a source begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartingOffsets {
    #[default]
    Earliest,
    Latest,
    /// First record at or after this time, in milliseconds since the Unix epoch.
    Timestamp {
        timestamp_ms: i64,
    },
    /// Exact positions. −2 = earliest, −1 = latest (Spark). Partitions not named: earliest.
    Explicit {
        offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    },
}

/// Where a source ends; a query whose sources all end is finished when they are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndingOffsets {
    Latest,
    Timestamp {
        timestamp_ms: i64,
    },
    /// Exact exclusive ends. −1 = latest. Partitions not named: latest.
    Explicit {
        offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    },
}

/// What to do when records below the earliest retained offset are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDataLoss {
    #[default]
    Fail,
    Earliest,
    Latest,
}

/// What to do with a record that does not decode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRecord {
    #[default]
    Fail,
    Skip,
    /// Writes the raw record to this topic (else to `<source topic>-dead-letters`), in the transaction of its batch.
    DeadLetter {
        topic: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsolationLevel {
    #[default]
    ReadCommitted,
    ReadUncommitted,
}

/// Options of one source table that planning needs. Durations in milliseconds, rates per second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceOptions {
    pub starting_offsets: StartingOffsets,
    pub ending_offsets: Option<EndingOffsets>,
    /// Offsets per micro-batch, all partitions together.
    pub max_offsets_per_trigger: Option<u64>,
    /// Offsets needed before a batch is planned, unless `max_trigger_delay_ms` has passed.
    pub min_offsets_per_trigger: Option<u64>,
    pub max_trigger_delay_ms: Option<u64>,
    /// Records per second, all partitions together, smooth.
    pub max_records_per_second: Option<u64>,
    pub on_data_loss: OnDataLoss,
    pub on_bad_record: OnBadRecord,
    /// Rows that operators drop as late are written to this topic, in the transaction of their batch.
    #[serde(default)]
    pub late_topic: Option<String>,
    /// A partition read to its end for this long no longer holds the watermark.
    pub idle_timeout_ms: Option<u64>,
    pub isolation_level: IsolationLevel,
}

/// What planning needs to know of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSpec {
    pub id: SourceId,
    /// The table's name in the script.
    pub table: String,
    pub topic: String,
    pub options: SourceOptions,
    /// The table declares `WATERMARK FOR`.
    pub has_watermark: bool,
}

/// The state people asked for; what the query really does is its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    Running,
    Stopped,
    /// Ended by itself; `start` resumes it.
    Finished,
    /// Ended by an error; `start` resumes it.
    Failed,
}

/// A query as stored durably at submit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerySpec {
    pub id: QueryId,
    pub name: String,
    /// The script as submitted (secrets still as `${env:…}` references).
    pub sql: String,
    pub desired: DesiredState,
    /// Why it failed or finished, for people.
    pub message: Option<String>,
    pub created_at_ms: i64,
    /// Start positions, resolved once at submit (`latest` and timestamps too).
    #[serde(with = "as_pairs")]
    pub start_positions: Positions,
    /// Ends, fixed once: by `ending_offsets`, or by `available_now` at its first start.
    #[serde(with = "as_pairs")]
    pub end_positions: Positions,
    /// Kafka topic ids at submit, by topic. Replaced by `source_topic_ids`: two clusters may have topics of one name.
    pub topic_ids: BTreeMap<String, String>,
    /// Kafka topic ids that `start_positions` belong to, to notice a topic recreated under its name.
    #[serde(default)]
    pub source_topic_ids: BTreeMap<SourceId, String>,
    /// Kafka topic ids that `end_positions` belong to; they are fixed again when a finished query is started.
    #[serde(default)]
    pub end_topic_ids: BTreeMap<SourceId, String>,
    /// The plan that the query's state is of; `None` in specs of before it was noted.
    #[serde(default)]
    pub plan: Option<PlanIdentity>,
}

/// Positions of one topic, for callers that hold them per partition.
pub fn explicit_offset(offsets: &BTreeMap<String, BTreeMap<i32, i64>>, tp: &TopicPartition) -> Option<i64> {
    offsets.get(tp.topic.as_ref())?.get(&tp.partition).copied()
}
