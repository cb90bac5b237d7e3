//! What a task reports when it is done: the partial results that the driver gathers into a checkpoint.
//!
//! Owns: the report's shape. Invariant: a report is about exactly one attempt of one task.

use crate::ids::{OperatorId, ShardId, TaskId};
use crate::key_conflicts::ConflictChanges;
use crate::metrics::TaskMetrics;
use crate::offsets::{LastRecord, SourcePartition, as_pairs};
use crate::plan::WriterPlan;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Result of one task attempt. Its sink writes are flushed but not committed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    pub task: TaskId,
    #[serde(with = "as_pairs")]
    pub partitions: BTreeMap<SourcePartition, PartitionReport>,
    pub writers: Vec<WriterReport>,
    pub state: Vec<StateDelta>,
    pub operators: Vec<OperatorMetrics>,
    #[serde(default)]
    pub metrics: TaskMetrics,
}

/// What was read of one partition's range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Records seen in the range, bad ones included.
    pub records: u64,
    pub size_bytes: u64,
    /// Order-independent checksum of (offset, payload) of the range's records.
    pub checksum: u64,
    /// Highest watermark value of the range's records, milliseconds; `None` if none has one.
    pub max_watermark_ms: Option<i64>,
    /// Event times of the range's records; `None` if the query does not read them or no record has one.
    #[serde(default)]
    pub event_time: Option<EventTimes>,
    /// Newest record timestamp (Kafka's) of the range, milliseconds.
    pub max_timestamp_ms: Option<i64>,
    /// Records that did not decode, or on which an expression failed, and that were skipped or dead-lettered.
    pub bad_records: u64,
    /// The last of the range's records; `None` if there is none or its leader epoch is unknown.
    #[serde(default)]
    pub last_record: Option<LastRecord>,
    /// Columns of the source's schema that none of the range's records has a field for; `None` if nothing is known of that.
    #[serde(default)]
    pub absent: Option<BTreeSet<u32>>,
}

/// The columns absent from some records and from others. `None`, of either, says nothing.
pub fn absent_from_both(some: Option<BTreeSet<u32>>, others: Option<BTreeSet<u32>>) -> Option<BTreeSet<u32>> {
    match (some, others) {
        (Some(some), Some(others)) => Some(&some & &others),
        (some, others) => some.or(others),
    }
}

/// Event times of some records, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTimes {
    pub min_ms: i64,
    pub max_ms: i64,
    pub avg_ms: i64,
    /// Number of records that have an event time.
    pub records: u64,
}

impl EventTimes {
    /// Combines the event times of these records and others.
    pub fn and(self, other: Self) -> Self {
        let (mine, theirs) = (i128::from(self.records), i128::from(other.records));
        let sum = i128::from(self.avg_ms) * mine + i128::from(other.avg_ms) * theirs;
        Self {
            min_ms: self.min_ms.min(other.min_ms),
            max_ms: self.max_ms.max(other.max_ms),
            avg_ms: i64::try_from(sum / (mine + theirs).max(1)).unwrap_or(i64::MAX),
            records: self.records + other.records,
        }
    }

    /// Combines the event times of several parts, some of which may have none; `None` if all have none.
    pub fn all(parts: impl Iterator<Item = Option<Self>>) -> Option<Self> {
        parts.flatten().reduce(Self::and)
    }
}

/// What one writer holds, flushed and uncommitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterReport {
    pub plan: WriterPlan,
    pub rows: u64,
    /// Order-independent 128-bit digest of the encoded rows.
    pub digest: u128,
    /// What the sink's connector needs to find the write again; `None` if it needs nothing or there is no write.
    /// Checkpoints older than tokens store a `progress_at` here, whose JSON text becomes the token.
    #[serde(default, alias = "progress_at")]
    pub token: Option<WriterToken>,
}

/// Bytes that a sink's connector writes and reads; opaque to everything else. Stored as hexadecimal text.
#[derive(Clone, PartialEq, Eq)]
pub struct WriterToken(pub Vec<u8>);

impl Serialize for WriterToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        serializer.serialize_str(&digits.collect::<String>())
    }
}

impl<'de> Deserialize<'de> for WriterToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(digits) => {
                unhex(&digits).map(Self).ok_or_else(|| D::Error::custom("a writer's token is not hexadecimal"))
            }
            before_tokens => serde_json::to_vec(&before_tokens).map(Self).map_err(D::Error::custom),
        }
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    digits.as_bytes().chunks(2).map(byte).collect()
}

impl std::fmt::Debug for WriterToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriterToken({})", String::from_utf8_lossy(&self.0))
    }
}

/// State that changed in one operator of one task, encoded as in [`crate::state_delta`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDelta {
    pub operator: OperatorId,
    pub first_shard: ShardId,
    pub end_shard: ShardId,
    /// Changed keys, deletions included.
    pub keys: u64,
    /// Order-independent digest of the changes.
    pub digest: u128,
    /// Encoded changes; see [`crate::state_delta`].
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

impl StateDelta {
    /// Adds the changes of other shards of the same operator.
    pub fn append(&mut self, other: &Self) {
        self.keys += other.keys;
        self.digest = self.digest.wrapping_add(other.digest);
        self.bytes.extend_from_slice(crate::state_delta::entries(&other.bytes));
    }
}

impl std::fmt::Debug for StateDelta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "StateDelta(op {}, shards {}..{}, {} keys, {} bytes)",
            self.operator,
            self.first_shard,
            self.end_shard,
            self.keys,
            self.bytes.len()
        )
    }
}

/// Counters of one operator in one task and batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorMetrics {
    pub operator: OperatorId,
    /// Live rows of state after the batch, in this task's shards.
    pub state_rows: u64,
    /// Memory of that state.
    pub state_bytes: u64,
    pub rows_updated: u64,
    pub rows_removed: u64,
    /// Late rows: dropped because their window was closed.
    pub late_rows: u64,
    /// Rows of state expired because they were not written for `state_ttl`.
    #[serde(default)]
    pub expired_rows: u64,
    /// Retractions of rows that had expired before.
    #[serde(default)]
    pub ignored_rows: u64,
    /// Keys of a keyed sink that got or lost a second live row.
    #[serde(default)]
    pub key_conflicts: ConflictChanges,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SinkId, WriterId};

    #[test]
    fn a_token_is_stored_unchanged_and_an_older_progress_position_becomes_one() {
        let plan = WriterPlan { sink: SinkId(2), writer: WriterId(1) };
        let report = |token: Option<&[u8]>| WriterReport {
            plan,
            rows: 3,
            digest: 39,
            token: token.map(|bytes| WriterToken(bytes.to_vec())),
        };
        for report in [report(None), report(Some(&[])), report(Some(&[0, 7, 255]))] {
            let stored = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<WriterReport>(&stored).unwrap(), report, "{stored}");
        }
        let before = |end: &str| -> WriterReport {
            let stored = format!(r#"{{"plan":{{"sink":2,"writer":1}},"rows":3,"digest":39{end}}}"#);
            serde_json::from_str(&stored).unwrap()
        };
        let position = r#"{"partition":0,"offset":17}"#;
        assert_eq!(before(&format!(r#","progress_at":{position}"#)), report(Some(position.as_bytes())));
        assert_eq!(before(r#","progress_at":null"#), report(None));
        assert_eq!(before(""), report(None));
        assert!(serde_json::from_str::<WriterToken>(r#""7""#).is_err());
        assert!(serde_json::from_str::<WriterToken>(r#""+7""#).is_err());
    }

    #[test]
    fn event_times_add_up() {
        let one = |ms: i64, records| Some(EventTimes { min_ms: ms, max_ms: ms, avg_ms: ms, records });
        let all = EventTimes::all([one(10, 1), None, one(40, 2)].into_iter());
        assert_eq!(all, Some(EventTimes { min_ms: 10, max_ms: 40, avg_ms: 30, records: 3 }));
        assert_eq!(EventTimes::all([None].into_iter()), None);
    }
}
