//! Brokers that allow only short transactions: reported at once, and batches are planned to fit.

use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::json;

const RECORDS: usize = 60_000;

#[test]
fn short_transactions_are_refused_with_both_numbers_or_get_batches_that_fit() {
    let kafka = KafkaCluster::start_with(1, "transaction.max.timeout.ms=2500");
    kafka.create_topic("short-in", 1);
    kafka.create_topic("short-out", 1);
    let servers = kafka.bootstrap_servers();
    let script = |option: &str| {
        let with = |topic: &str, option: &str| {
            format!(
                "('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json' {option})"
            )
        };
        format!(
            "SET trigger = 'once'; CREATE TABLE t (id BIGINT) WITH {}; CREATE TABLE o (id BIGINT) WITH {};
             INSERT INTO o SELECT id FROM t;",
            with("short-in", ""),
            with("short-out", option)
        )
    };
    kafka.produce("short-in", (0..RECORDS).map(|id| Message::json(&json!({"id": id})).partition(0)));
    let mut cluster = Highwater::start(0);
    // A delay for every chunk that is read, so that a single batch of all chunks takes too long.
    cluster.add_executor(&[("HIGHWATER_DELAYS", "executor_mid_read:1500".to_string())]);

    let file = cluster.file("short.sql", &script(""));
    let refused = cluster.run(&["submit", &file]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("600000 ms") && stderr.contains("at most 2500 ms"), "{stderr}");
    assert!(stderr.contains("'kafka.transaction.timeout.ms' = '2500'"), "{stderr}");

    cluster.submit("short", &script(", 'kafka.transaction.timeout.ms'='2500'"));
    cluster.wait_state("short", &["finished"]);
    let records = kafka.read_all("short-out", Isolation::Committed);
    let mut ids: Vec<i64> = records.iter().map(|record| record.json()["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..RECORDS as i64).collect::<Vec<_>>());
    assert!(cluster.progress("short").len() > 1, "one batch was to take too long");
}
