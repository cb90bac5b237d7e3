//! One driver, three executors, ten partitions, real Kafka: totals stay exact through SIGKILL of anyone.

use crate::harness::Cluster;
use highwater_testkit::kafka::{KafkaCluster, Isolation};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Deterministic input: record `i` of account `i % 97` with amount `i % 1000`.
fn produce(kafka: &KafkaCluster, topic: &str, range: std::ops::Range<u64>) {
    kafka.produce(topic, range.map(|i| {
        let payload = format!(r#"{{"account":"a{}","amount":{},"pad":"{:032}"}}"#, i % 97, i % 1000, i);
        (Some((i % 10) as i32), None::<Vec<u8>>, Some(payload.into_bytes()), None)
    }));
}

/// The same totals by plain arithmetic.
fn expected(records: u64) -> BTreeMap<String, (i64, i64)> {
    let mut totals: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for i in 0..records {
        let entry = totals.entry(format!("a{}", i % 97)).or_default();
        entry.0 += 1;
        entry.1 += (i % 1000) as i64;
    }
    totals
}

/// Folds the sink topic by key as a `read_committed` reader sees it.
fn folded(kafka: &KafkaCluster, topic: &str) -> BTreeMap<String, (i64, i64)> {
    let mut rows = BTreeMap::new();
    for record in kafka.read_all(topic, Isolation::ReadCommitted) {
        let key: Value = serde_json::from_slice(&record.key.expect("a keyed sink writes keys")).unwrap();
        let account = key["account"].as_str().unwrap().to_string();
        match record.payload {
            Some(payload) => {
                let value: Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(value["account"], key["account"]);
                rows.insert(account, (value["n"].as_i64().unwrap(), value["total"].as_i64().unwrap()));
            }
            None => {
                rows.remove(&account);
            }
        }
    }
    rows
}

fn totals_sql(kafka: &KafkaCluster, source: &str, sink: &str, extra: &str) -> String {
    let servers = kafka.bootstrap_servers();
    format!(
        "{extra}
        CREATE TABLE payments (account STRING, amount BIGINT)
          WITH ('connector'='kafka', 'topic'='{source}', 'bootstrap.servers'='{servers}', 'format'='json');
        CREATE TABLE totals (account STRING, n BIGINT, total BIGINT, PRIMARY KEY (account) NOT ENFORCED)
          WITH ('connector'='kafka', 'topic'='{sink}', 'bootstrap.servers'='{servers}', 'format'='json');
        INSERT INTO totals SELECT account, count(*), sum(amount) FROM payments GROUP BY account;"
    )
}

fn partition_counts(status: &Value, topic: &str) -> Vec<usize> {
    let executors = status["executors"].as_array().unwrap();
    executors.iter().map(|e| e["partitions"][topic].as_array().map_or(0, Vec::len)).collect()
}

#[test]
fn ten_partitions_on_three_executors_survive_sigkill_of_an_executor_and_of_the_driver() {
    let kafka = KafkaCluster::shared();
    let (source, sink) = (kafka.unique("payments"), kafka.unique("totals"));
    kafka.create_topic(&source, 10, &[]);
    produce(&kafka, &source, 0..20_000);
    let mut cluster = Cluster::start(3);
    cluster.submit("totals", &totals_sql(&kafka, &source, &sink, "SET max_offsets_per_trigger = 3000;"));
    let status = cluster.wait("4/3/3", || {
        let status = cluster.status("totals");
        let mut counts = partition_counts(&status, &source);
        counts.sort();
        (counts == [3, 3, 4]).then_some(status)
    });
    assert_eq!(status["state"], "running");
    cluster.wait_caught_up("totals");
    assert_eq!(folded(&kafka, &sink), expected(20_000));
    let status = cluster.status("totals");
    for executor in status["executors"].as_array().unwrap() {
        assert!(executor["inputRows"].as_i64().unwrap() > 0, "an executor read nothing: {status}");
    }

    produce(&kafka, &source, 20_000..60_000);
    cluster.kill_executor(1);
    cluster.wait_caught_up("totals");
    assert_eq!(folded(&kafka, &sink), expected(60_000));
    let mut counts = partition_counts(&cluster.status("totals"), &source);
    counts.sort();
    assert_eq!(counts, [5, 5]);

    produce(&kafka, &source, 60_000..100_000);
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.wait_state("totals", &["running"]);
    cluster.wait_caught_up("totals");
    assert_eq!(folded(&kafka, &sink), expected(100_000));
    let progress = cluster.json(&["progress", "totals", "--last", "1"]);
    assert_eq!(progress["name"], "totals");
}

#[test]
fn a_query_waits_without_executors_and_says_so() {
    let kafka = KafkaCluster::shared();
    let (source, sink) = (kafka.unique("payments"), kafka.unique("totals"));
    kafka.create_topic(&source, 2, &[]);
    produce_two(&kafka, &source);
    let mut cluster = Cluster::without_executors(&[]);
    cluster.submit("lonely", &totals_sql(&kafka, &source, &sink, ""));
    let status = cluster.wait_state("lonely", &["waiting"]);
    assert!(status["message"].as_str().unwrap().contains("no executor"), "{status}");
    cluster.add_executor(&[]);
    cluster.wait_state("lonely", &["running"]);
    cluster.wait_caught_up("lonely");
    assert_eq!(folded(&kafka, &sink).values().map(|(n, _)| n).sum::<i64>(), 2);
}

fn produce_two(kafka: &KafkaCluster, topic: &str) {
    let payload = |account: &str| Some(format!(r#"{{"account":"{account}","amount":1}}"#).into_bytes());
    kafka.produce(topic, [(Some(0), None::<Vec<u8>>, payload("x"), None), (Some(1), None, payload("y"), None)]);
}

#[test]
fn a_hung_executor_is_replaced_within_its_lease_and_changes_nothing_when_it_goes_on() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let kafka = KafkaCluster::shared();
    let (source, sink) = (kafka.unique("payments"), kafka.unique("totals"));
    kafka.create_topic(&source, 10, &[]);
    produce(&kafka, &source, 0..5_000);
    let mut cluster = Cluster::start(2);
    cluster.submit("totals", &totals_sql(&kafka, &source, &sink, "SET max_offsets_per_trigger = 1000;"));
    cluster.wait_caught_up("totals");
    cluster.executor(0).signal(SIGSTOP);
    produce(&kafka, &source, 5_000..20_000);
    let stopped = Instant::now();
    cluster.wait_caught_up("totals");
    assert!(stopped.elapsed() < Duration::from_secs(30), "took {:?}", stopped.elapsed());
    assert_eq!(folded(&kafka, &sink), expected(20_000));
    cluster.executor(0).signal(SIGCONT);
    produce(&kafka, &source, 20_000..40_000);
    cluster.wait("both executors", || {
        (cluster.status("totals")["executors"].as_array()?.len() == 2).then_some(())
    });
    cluster.wait_caught_up("totals");
    assert_eq!(folded(&kafka, &sink), expected(40_000));
}
