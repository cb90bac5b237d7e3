//! The prepare record: the checkpoint of one micro-batch, written durably in one step.
//!
//! Owns: what is in a checkpoint. Does not own: its bytes on disk (crate `checkpoint`).
//! Invariant: `positions` never go below those of the record before, unless the record lists the partition in `reset`
//! (checked by [`PrepareRecord::regressed`]).

use crate::ids::{AttemptId, BatchId, OperatorId, QueryId, SourceId};
use crate::key_conflicts::KeyConflicts;
use crate::offsets::{LastRecords, Positions, SourcePartition, as_pairs};
use crate::plan::BatchPlan;
use crate::report::{PartitionReport, StateDelta, WriterReport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Everything needed to finish micro-batch `plan.batch`, or to continue after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrepareRecord {
    pub query: QueryId,
    pub attempt: AttemptId,
    pub plan: BatchPlan,
    /// Positions after this batch: the next offset to read of every known partition.
    #[serde(with = "as_pairs")]
    pub positions: Positions,
    #[serde(with = "as_pairs")]
    pub partitions: BTreeMap<SourcePartition, PartitionReport>,
    /// Watermarks after this batch.
    pub watermarks: BTreeMap<SourceId, SourceWatermark>,
    /// Reports of every writer of the plan.
    pub writers: Vec<WriterReport>,
    /// State changes. Their bytes are stored in blobs, their digests here.
    pub state: Vec<StateDelta>,
    /// Counters since the query was created.
    pub totals: Totals,
    /// Ids of the topics that `positions` belong to.
    #[serde(default)]
    pub topic_ids: BTreeMap<SourceId, String>,
    /// Ends of sources whose topic was recreated; they replace those in the query's spec.
    #[serde(default, with = "as_pairs")]
    pub ends: Positions,
    /// Partitions whose position was reset by `on_data_loss` before this batch, because their topic was recreated or
    /// their log truncated: only the positions of these may go back or be absent.
    #[serde(default)]
    pub reset: BTreeSet<SourcePartition>,
    /// The last records that the logs must still hold for reading to continue at `positions`.
    #[serde(default, with = "as_pairs")]
    pub last_records: LastRecords,
}

/// Watermark of one source: the minimum over its partitions that are not idle. Never goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceWatermark {
    /// Milliseconds; `None` until every active partition has a value.
    pub current_ms: Option<i64>,
    /// Highest value seen per partition.
    #[serde(with = "as_pairs")]
    pub partitions: BTreeMap<SourcePartition, i64>,
}

/// Counters over the whole life of a query, so that nothing is dropped silently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub input_rows: u64,
    pub output_rows: u64,
    pub late_rows: u64,
    pub bad_records: u64,
    /// Offsets skipped under `on_data_loss`.
    pub lost_offsets: u64,
    /// Number of resets by `on_data_loss`: once per recreated topic, once per truncated partition.
    #[serde(default)]
    pub resets: u64,
    /// Of sources whose records have fields by name.
    #[serde(default)]
    pub absent: BTreeMap<SourceId, AbsentColumns>,
    /// Keyed sinks in which some keys have more than one live row now, by their operator.
    #[serde(default)]
    pub key_conflicts: BTreeMap<OperatorId, KeyConflicts>,
}

/// Columns of a source's schema that no record has had a field for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbsentColumns {
    /// Records that this is known of.
    pub records: u64,
    pub columns: BTreeSet<u32>,
}

impl Totals {
    /// Counts what the ranges of a batch say of absent columns. A column that was there once is not absent again.
    pub fn count_absent(&mut self, partitions: &BTreeMap<SourcePartition, PartitionReport>) {
        for (partition, report) in partitions {
            let Some(absent) = &report.absent else { continue };
            let known = self.absent.entry(partition.source).or_insert_with(|| {
                let columns = absent.clone();
                AbsentColumns { records: 0, columns }
            });
            known.columns.retain(|column| absent.contains(column));
            known.records += report.records;
        }
    }
}

impl PrepareRecord {
    pub fn batch(&self) -> BatchId {
        self.plan.batch
    }

    /// Returns the first partition whose position would go back if this record followed `previous`; `None` if none
    /// would.
    pub fn regressed(&self, previous: &PrepareRecord) -> Option<SourcePartition> {
        previous
            .positions
            .iter()
            .filter(|(key, _)| !self.reset.contains(*key))
            .find(|(key, old)| self.positions.get(*key).is_none_or(|new| new < *old))
            .map(|(key, _)| key.clone())
    }
}
