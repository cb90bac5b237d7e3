//! Kafka positions: partitions, half-open ranges, and the positions of all sources of a query.
//!
//! Owns: the arithmetic of offsets. Invariant: an `OffsetRange` never has `end < start`.

use crate::ids::SourceId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A partition of a topic. Ordered by topic, then partition number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A partition as one source of the query reads it (two tables may read the same topic).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourcePartition {
    pub source: SourceId,
    pub tp: TopicPartition,
}

/// Half-open range of offsets `start..end`. `end` is a position: the next offset to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    pub start: i64,
    pub end: i64,
}

impl OffsetRange {
    /// Returns `None` when `end < start`: such a range would move offsets backwards.
    pub fn new(start: i64, end: i64) -> Option<Self> {
        (end >= start).then_some(Self { start, end })
    }
    /// Number of offsets spanned (not records: markers and compaction leave gaps).
    pub fn len(&self) -> i64 {
        self.end - self.start
    }
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// The log of a partition as its brokers describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnds {
    /// First offset retained.
    pub earliest: i64,
    /// Position after the last record that the source may read: the last stable offset under `read_committed`.
    pub latest: i64,
    /// Position after the last record written, open transactions included (the high watermark).
    pub log_end: i64,
}

/// The last record before a position. A log that still holds a record of this leader epoch at this offset also holds
/// everything that was read below it; a log that was truncated there and rewritten has a higher epoch (KIP-320).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    pub offset: i64,
    pub leader_epoch: i32,
}

/// Next offset to read of every partition of every source.
pub type Positions = BTreeMap<SourcePartition, i64>;
/// The last record before each position; absent where none was read or its leader epoch is unknown.
pub type LastRecords = BTreeMap<SourcePartition, LastRecord>;
/// Ranges of one micro-batch. Partitions without new records may be absent.
pub type Ranges = BTreeMap<SourcePartition, OffsetRange>;

/// Serializes maps keyed by a struct as a list of pairs, so that JSON can hold them.
pub mod as_pairs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }
    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Converts positions to Spark's layout, `{"topic":{"0":100,"1":150}}`, exclusive ends. If two sources read the same
/// partition, the smaller position counts.
pub fn to_topic_json(positions: &Positions) -> serde_json::Value {
    let mut topics: BTreeMap<&str, BTreeMap<i32, i64>> = BTreeMap::new();
    for (key, offset) in positions {
        let slot = topics.entry(&key.tp.topic).or_default().entry(key.tp.partition).or_insert(*offset);
        *slot = (*slot).min(*offset);
    }
    let object = topics
        .into_iter()
        .map(|(topic, partitions)| {
            let inner = partitions.into_iter().map(|(p, o)| (p.to_string(), o.into())).collect();
            (topic.to_string(), serde_json::Value::Object(inner))
        })
        .collect();
    serde_json::Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(source: u32, topic: &str, partition: i32) -> SourcePartition {
        SourcePartition { source: SourceId(source), tp: TopicPartition::new(topic, partition) }
    }

    #[test]
    fn topic_json_is_nested_by_topic_and_takes_the_smaller_position() {
        let positions =
            Positions::from([(p(0, "a", 0), 100), (p(0, "a", 1), 150), (p(1, "a", 0), 90), (p(2, "b", 7), 0)]);
        assert_eq!(to_topic_json(&positions), serde_json::json!({"a": {"0": 90, "1": 150}, "b": {"7": 0}}));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder(#[serde(with = "as_pairs")] Positions);

    proptest! {
        #[test]
        fn positions_survive_json(entries in proptest::collection::btree_map((0u32..3, 0i32..9), any::<i64>(), 0..9)) {
            let held = Holder(entries.into_iter().map(|((source, n), at)| (p(source, "t", n), at)).collect());
            let text = serde_json::to_string(&held).unwrap();
            prop_assert_eq!(serde_json::from_str::<Holder>(&text).unwrap(), held);
        }

        #[test]
        fn a_range_never_ends_before_it_starts(start in -9i64..9, end in -9i64..9) {
            let range = OffsetRange::new(start, end);
            prop_assert_eq!(range.is_some(), start <= end);
            prop_assert_eq!(range.map(|range| (range.len(), range.is_empty())), range.map(|_| (end - start, start == end)));
        }
    }
}
