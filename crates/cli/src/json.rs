//! The JSON documents of the contract. Those shared with HTTP are in crate `proto`.
//!
//! Owns: the documents that only the command line has. Invariants: camelCase; unknown is null, never a missing key.

pub use highwater_proto::json::{lag, state_name, status};
use highwater_proto::v1::{ExecutorStatus, QueryStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The document of `ls`.
pub fn list(queries: &[QueryStatus]) -> Value {
    Value::Array(queries.iter().map(status).collect())
}

/// The document of `submit`.
pub fn submitted(name: &str, query_id: &str, warnings: &[String]) -> Value {
    json!({"name": name, "queryId": query_id, "warnings": warnings})
}

/// Partitions of one executor, by topic in order.
pub fn partitions(executor: &ExecutorStatus) -> BTreeMap<&str, &[i32]> {
    executor.partitions.iter().map(|(topic, list)| (topic.as_str(), list.partitions.as_slice())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_proto::v1::{GetLagResponse, PartitionLag, PartitionList, QueryLimit, QueryState};

    #[test]
    fn status_before_the_first_run_has_every_key() {
        let wire = QueryStatus { name: "q".into(), state: QueryState::Starting.into(), ..QueryStatus::default() };
        assert_eq!(
            status(&wire).to_string(),
            r#"{"name":"q","state":"starting","runId":null,"batchId":null,"message":null,"warnings":[],"executors":[]}"#
        );
    }

    #[test]
    fn status_names_each_executors_share() {
        let list = |numbers: &[i32]| PartitionList { partitions: numbers.to_vec() };
        let wire = QueryStatus {
            name: "q".into(),
            state: QueryState::Running.into(),
            run_id: "r".into(),
            batch_id: Some(0),
            message: String::new(),
            warnings: vec!["w".into()],
            executors: vec![ExecutorStatus {
                id: "e".into(),
                address: "127.0.0.1:4".into(),
                slots: 2,
                partitions: [("b".to_string(), list(&[0])), ("a".to_string(), list(&[0, 1]))].into(),
                shards: 32,
                input_rows: 7,
            }],
            query_id: "u".into(),
            limits: vec![QueryLimit { name: "trigger".into(), table: String::new(), value: "asap".into() }],
        };
        assert_eq!(
            status(&wire).to_string(),
            concat!(
                r#"{"name":"q","state":"running","runId":"r","batchId":0,"message":null,"warnings":["w"],"executors":["#,
                r#"{"id":"e","address":"127.0.0.1:4","slots":2,"partitions":{"a":[0,1],"b":[0]},"shards":32,"inputRows":7}]}"#
            )
        );
    }

    #[test]
    fn unknown_lag_is_null() {
        let known = PartitionLag {
            topic: "t".into(),
            partition: 0,
            committed_offset: Some(5),
            earliest_offset: Some(0),
            latest_offset: Some(9),
            lag: Some(4),
            behind_ms: Some(1200),
        };
        let unknown = PartitionLag { topic: "t".into(), partition: 1, ..PartitionLag::default() };
        let wire = GetLagResponse { name: "q".into(), total_lag: None, partitions: vec![known, unknown] };
        assert_eq!(
            lag(&wire).to_string(),
            concat!(
                r#"{"name":"q","totalLag":null,"partitions":["#,
                r#"{"topic":"t","partition":0,"committedOffset":5,"earliestOffset":0,"latestOffset":9,"lag":4,"behindMs":1200},"#,
                r#"{"topic":"t","partition":1,"committedOffset":null,"earliestOffset":null,"latestOffset":null,"lag":null,"behindMs":null}]}"#
            )
        );
    }

    #[test]
    fn every_state_has_its_name() {
        let words: Vec<_> = (1..=6).filter_map(|n| QueryState::try_from(n).ok()).map(state_name).collect();
        assert_eq!(words, ["starting", "running", "waiting", "stopped", "finished", "failed"]);
    }
}
