//! What a user asked for: the query and its sources, parsed but not planned.
//!
//! Owns: the typed options of the SQL contract. Does not own: parsing them (crate `sql`), using them (the query
//! machine).

use crate::identity::PlanIdentity;
use crate::ids::{QueryId, SourceId};
use crate::offsets::{Positions, TopicPartition, as_pairs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When the next micro-batch is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// As soon as the previous batch is committed and there is something to read.
    #[default]
    Asap,
    /// At multiples of the interval since the Unix epoch.
    Every { interval_ms: u64 },
    /// Reads in batches, within the limits, up to ends that are fixed at the first start, then finishes.
    AvailableNow,
    /// Reads everything in one batch, ignoring limits, then finishes.
    Once,
}

/// What a sink receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputMode {
    /// Final rows only; none is ever retracted.
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
    /// Exact positions. −2 = earliest, −1 = latest (as in Spark). Partitions not named start at the earliest.
    Explicit {
        offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    },
}

/// Where a source ends. A query finishes when all its sources have ends and have reached them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndingOffsets {
    Latest,
    Timestamp {
        timestamp_ms: i64,
    },
    /// Exact exclusive ends. −1 = latest. Partitions not named end at the latest.
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

/// What to do when a key of a keyed sink has more than one live row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnKeyConflict {
    /// The sink shows one of the rows, and the key is counted and warned of.
    #[default]
    Warn,
    Fail,
}

/// What to do with a record that does not decode, or on which an expression fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRecord {
    #[default]
    Fail,
    Skip,
    /// Writes the raw record to this topic, in the transaction of its batch; `None` means `<source
    /// topic>-dead-letters`.
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
    /// Offsets that must be available before a batch is planned, unless `max_trigger_delay_ms` has passed.
    pub min_offsets_per_trigger: Option<u64>,
    pub max_trigger_delay_ms: Option<u64>,
    /// Records per second, all partitions together, spread evenly over time.
    pub max_records_per_second: Option<u64>,
    pub on_data_loss: OnDataLoss,
    pub on_bad_record: OnBadRecord,
    /// Topic to which rows that operators drop as late are written, in the transaction of their batch; `None` drops
    /// them.
    #[serde(default)]
    pub late_topic: Option<String>,
    /// A partition that was at its end for this long does not hold back the watermark; `None` means that all do.
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

/// The state that the user asked for; a query's status says what it really does.
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
    /// Why it failed or finished, for the user.
    pub message: Option<String>,
    pub created_at_ms: i64,
    /// Start positions, resolved once at submit (`latest` and timestamps too).
    #[serde(with = "as_pairs")]
    pub start_positions: Positions,
    /// End positions, fixed once: by `ending_offsets`, or by `available_now` at the first start.
    #[serde(with = "as_pairs")]
    pub end_positions: Positions,
    /// Kafka topic ids at submit, by topic. Replaced by `source_topic_ids`, since two clusters may have topics of one
    /// name.
    pub topic_ids: BTreeMap<String, String>,
    /// Kafka topic ids that `start_positions` belong to: they show whether a topic was recreated.
    #[serde(default)]
    pub source_topic_ids: BTreeMap<SourceId, String>,
    /// Kafka topic ids that `end_positions` belong to. Both are set again when a finished query is started.
    #[serde(default)]
    pub end_topic_ids: BTreeMap<SourceId, String>,
    /// Identity of the plan that wrote the query's state; `None` in specs that are older than this field.
    #[serde(default)]
    pub plan: Option<PlanIdentity>,
}

/// Returns the offset given for one partition; `None` if `offsets` does not name it.
pub fn explicit_offset(offsets: &BTreeMap<String, BTreeMap<i32, i64>>, tp: &TopicPartition) -> Option<i64> {
    offsets.get(tp.topic.as_ref())?.get(&tp.partition).copied()
}
