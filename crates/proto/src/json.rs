//! The JSON documents of the contract, built from protobuf messages: camelCase, unknown = null.
//!
//! Owns: the shapes of `status`, `ls` and `lag`, for both the command line and HTTP.

use crate::v1;
use serde_json::{Map, Value, json};

/// The status of one query.
pub fn status(status: &v1::QueryStatus) -> Value {
    json!({
        "name": status.name,
        "state": state_name(status.state()),
        "runId": non_empty(&status.run_id),
        "batchId": status.batch_id,
        "message": non_empty(&status.message),
        "warnings": status.warnings,
        "executors": status.executors.iter().map(executor).collect::<Vec<_>>(),
    })
}

/// The name of a state in the contract.
pub fn state_name(state: v1::QueryState) -> &'static str {
    match state {
        v1::QueryState::Starting => "starting",
        v1::QueryState::Running => "running",
        v1::QueryState::Waiting => "waiting",
        v1::QueryState::Stopped => "stopped",
        v1::QueryState::Finished => "finished",
        v1::QueryState::Failed => "failed",
        v1::QueryState::Unspecified => "unknown",
    }
}

/// The lag of one query.
pub fn lag(lag: &v1::GetLagResponse) -> Value {
    let partition = |p: &v1::PartitionLag| {
        json!({
            "topic": p.topic,
            "partition": p.partition,
            "committedOffset": p.committed_offset,
            "earliestOffset": p.earliest_offset,
            "latestOffset": p.latest_offset,
            "lag": p.lag,
            "behindMs": p.behind_ms,
        })
    };
    json!({
        "name": lag.name,
        "totalLag": lag.total_lag,
        "partitions": lag.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}

fn executor(executor: &v1::ExecutorStatus) -> Value {
    let mut topics: Vec<_> = executor.partitions.iter().collect();
    topics.sort_by_key(|(topic, _)| topic.as_str());
    let partitions: Map<String, Value> =
        topics.into_iter().map(|(topic, list)| (topic.clone(), json!(list.partitions))).collect();
    json!({
        "id": executor.id,
        "address": executor.address,
        "slots": executor.slots,
        "partitions": partitions,
        "shards": executor.shards,
        "inputRows": executor.input_rows,
    })
}

fn non_empty(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}
