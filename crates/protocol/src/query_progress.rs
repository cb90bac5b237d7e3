//! Progress of one micro-batch, with the names of Spark's `StreamingQueryProgress`.
//!
//! Owns: the document's shape. Unknown values are null, counts are plain numbers, times ISO-8601 in UTC.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Where rows and time went; empty for a batch adopted from an earlier run.
    pub stages: Vec<StageProgress>,
    pub sources: Vec<SourceProgress>,
    pub sink: SinkProgress,
    /// Records that did not decode, or on which an expression failed, and that were skipped or dead-lettered, in this batch.
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
    /// Keys of a keyed sink under which more than one row is live.
    #[serde(default)]
    pub num_key_conflicts: u64,
    pub memory_used_bytes: u64,
    /// Time of the operator in all tasks.
    pub all_updates_time_ms: u64,
}

/// Work of one stage, all its tasks together. Times are milliseconds on threads of executors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageProgress {
    pub stage_id: u32,
    pub num_tasks: u64,
    /// In all steps and for the output; waiting does not count.
    pub time_ms: f64,
    /// The same of the task with the most.
    pub slowest_task_ms: f64,
    /// Waiting for records of a source.
    pub wait_ms: f64,
    /// Sending rows to other stages, and writing them to sinks.
    pub output_ms: f64,
    pub steps: Vec<StepProgress>,
}

/// One operator of a stage, or (the last step of a pipeline) the exchange or sink that the pipeline ends in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepProgress {
    /// Index of the pipeline within its stage.
    pub pipeline: usize,
    /// As `explain` shows it; shared by the documents of a run.
    pub description: Arc<str>,
    /// The operator of `state_operators`; `None`: it keeps no state.
    pub operator_id: Option<u32>,
    pub num_input_rows: u64,
    pub num_output_rows: u64,
    /// Those of `num_output_rows` that retract a row.
    pub num_retracted_rows: u64,
    pub time_ms: f64,
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
