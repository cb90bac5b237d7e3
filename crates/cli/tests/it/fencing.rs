//! All processes die while transactions are open: those that return end all transactions, however few return.

use highwater_testkit::payments::partition_counts;
use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 3;

#[test]
fn transactions_of_executors_that_never_return_do_not_hold_up_readers() {
    let kafka = KafkaCluster::shared();
    kafka.create_topic("orphans-in", PARTITIONS);
    kafka.create_topic("orphans-out", 1);
    let produce = |ids: std::ops::Range<i32>| {
        kafka.produce("orphans-in", ids.map(|id| Message::json(&json!({"id": id})).partition(id % PARTITIONS)));
    };
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    let script = format!(
        "SET min_offsets_per_trigger = 30; CREATE TABLE t (id BIGINT) {}; CREATE TABLE o (id BIGINT) {}; INSERT INTO o SELECT id FROM t;",
        with("orphans-in"),
        with("orphans-out")
    );
    let mut cluster = Highwater::start(0);
    for _ in 0..PARTITIONS {
        // Each writes its rows and then waits an hour before it flushes them, so that none can abort meanwhile.
        cluster.add_executor(&[("HIGHWATER_DELAYS", "executor_before_flush:3600000".to_string())]);
    }
    cluster.submit("orphans", &script);
    cluster.wait("a partition for each", || {
        (partition_counts(&cluster, "orphans", "orphans-in") == [1, 1, 1]).then_some(())
    });
    produce(0..30);
    cluster.wait("rows of three open transactions", || {
        (kafka.read_all("orphans-out", Isolation::Uncommitted).len() == 30).then_some(())
    });
    assert!(kafka.read_all("orphans-out", Isolation::CommittedSoFar).is_empty());
    cluster.kill_driver();
    (0..PARTITIONS as usize).for_each(|number| cluster.kill_executor(number));

    cluster.start_driver(&[]);
    let returned = Instant::now();
    cluster.add_executor(&[]);
    cluster.wait("all rows to be readable", || {
        (kafka.read_all("orphans-out", Isolation::CommittedSoFar).len() == 30).then_some(())
    });
    assert!(returned.elapsed() < Duration::from_secs(60), "readers waited {:?}", returned.elapsed());
    produce(30..60);
    cluster.wait_caught_up("orphans");
    let records = kafka.read_all("orphans-out", Isolation::Committed);
    let ids: BTreeSet<i64> = records.iter().map(|record| record.json()["id"].as_i64().unwrap()).collect();
    assert_eq!((records.len(), ids), (60, (0..60).collect()));
}
