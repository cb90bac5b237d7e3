//! Progress of one micro-batch, with the names of Spark's `StreamingQueryProgress`.
//!
//! Owns: the document's shape. Unknown values are null, counts are plain numbers, times ISO-8601 in UTC.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One committed micro-batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamingQueryProgress {
    pub id: String,
    pub run_id: String,
    pub name: String,
    /// When the batch was planned.
    pub timestamp: String,
    pub batch_id: u64,
    /// From planning to commit, milliseconds.
    pub batch_duration: i64,
    pub num_input_rows: u64,
    pub input_rows_per_second: Option<f64>,
    pub processed_rows_per_second: Option<f64>,
    /// Milliseconds per phase.
    pub duration_ms: BTreeMap<String, i64>,
    pub event_time: EventTime,
    pub state_operators: Vec<StateOperatorProgress>,
    pub sources: Vec<SourceProgress>,
    pub sink: SinkProgress,
    /// Records that did not decode and were skipped or dead-lettered, in this batch.
    pub num_bad_records: u64,
    /// Offsets skipped under `on_data_loss` since the query was created.
    pub num_lost_offsets: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventTime {
    pub max: Option<String>,
    pub min: Option<String>,
    pub avg: Option<String>,
    pub watermark: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateOperatorProgress {
    pub operator_id: u32,
    pub operator_name: String,
    /// What the operator keeps in its state.
    pub description: String,
    /// Windows that end at or before this time were closed before this batch: their rows were late.
    pub late_before: Option<String>,
    /// Windows that end at or before this time are closed now.
    pub close_before: Option<String>,
    pub num_rows_total: u64,
    pub num_rows_updated: u64,
    pub num_rows_removed: u64,
    pub num_rows_dropped_by_watermark: u64,
    /// Rows of state expired because they were not written for `state_ttl`.
    pub num_rows_expired: u64,
    /// Retractions of rows that had expired before.
    pub num_rows_ignored: u64,
    pub memory_used_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceProgress {
    pub description: String,
    /// Watermark after this batch.
    pub watermark: Option<String>,
    /// `{"topic":{"0":100}}`
    pub start_offset: Option<Value>,
    pub end_offset: Option<Value>,
    pub latest_offset: Option<Value>,
    pub num_input_rows: u64,
    pub input_rows_per_second: Option<f64>,
    pub processed_rows_per_second: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkProgress {
    pub description: String,
    pub num_output_rows: Option<i64>,
}
