//! Totals and rows stay exact while processes die, hang or join.

use highwater_testkit::payments::partition_counts;
use highwater_testkit::{Highwater, KafkaCluster, Payments};
use std::time::{Duration, Instant};

#[test]
fn ten_partitions_on_three_executors_survive_sigkill_of_an_executor_and_of_the_driver() {
    let payments = Payments::new(KafkaCluster::shared(), "ten-on-three", 10);
    payments.produce(0..20_000, 10);
    let mut cluster = Highwater::start(3);
    cluster.submit("totals", &payments.sql("SET max_offsets_per_trigger = 3000;"));
    cluster.wait("4/3/3", || (partition_counts(&cluster, "totals", &payments.source) == [3, 3, 4]).then_some(()));
    cluster.wait_caught_up("totals");
    payments.assert_exact(20_000);
    let status = cluster.status("totals");
    assert_eq!(status["state"], "running");
    for executor in status["executors"].as_array().unwrap() {
        assert!(executor["inputRows"].as_i64().unwrap() > 0, "an executor read nothing: {status}");
        assert!(executor["shards"].as_i64().unwrap() > 20, "shards are not spread: {status}");
    }

    payments.produce(20_000..60_000, 10);
    cluster.kill_executor(1);
    cluster.wait_caught_up("totals");
    payments.assert_exact(60_000);
    assert_eq!(partition_counts(&cluster, "totals", &payments.source), [5, 5]);

    payments.produce(60_000..100_000, 10);
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.wait_caught_up("totals");
    payments.assert_exact(100_000);
    assert_eq!(cluster.status("totals")["state"], "running");

    cluster.add_executor(&[]);
    cluster.wait("the newcomer's partitions", || {
        (partition_counts(&cluster, "totals", &payments.source) == [3, 3, 4]).then_some(())
    });
    payments.produce(100_000..110_000, 10);
    cluster.wait_caught_up("totals");
    payments.assert_exact(110_000);
}

#[test]
fn a_query_without_executors_waits_and_shows_that() {
    let payments = Payments::new(KafkaCluster::shared(), "lonely", 2);
    payments.produce(0..2, 2);
    let mut cluster = Highwater::start(0);
    cluster.submit("lonely", &payments.sql(""));
    let status = cluster.wait_state("lonely", &["waiting"]);
    assert!(status["message"].as_str().unwrap().contains("executor"), "{status}");
    cluster.add_executor(&[]);
    cluster.wait_caught_up("lonely");
    cluster.wait_state("lonely", &["running"]);
    payments.assert_exact(2);
    cluster.kill_executor(0);
    cluster.wait_state("lonely", &["waiting"]);
}

#[test]
fn a_hung_executor_is_replaced_within_its_lease_and_changes_nothing_when_it_resumes() {
    let payments = Payments::new(KafkaCluster::shared(), "hung", 10);
    payments.produce(0..5_000, 10);
    let mut cluster = Highwater::start(2);
    cluster.submit("totals", &payments.sql("SET max_offsets_per_trigger = 1000;"));
    cluster.wait_caught_up("totals");
    payments.produce(5_000..10_000, 10);
    cluster.executor(0).freeze();
    let stopped = Instant::now();
    payments.produce(10_000..20_000, 10);
    cluster.wait_caught_up("totals");
    assert!(stopped.elapsed() < Duration::from_secs(40), "took {:?}", stopped.elapsed());
    payments.assert_exact(20_000);
    cluster.executor(0).thaw();
    cluster.wait("both executors", || (cluster.status("totals")["executors"].as_array()?.len() == 2).then_some(()));
    payments.produce(20_000..40_000, 10);
    cluster.wait_caught_up("totals");
    payments.assert_exact(40_000);
}

#[test]
fn executors_wait_for_their_driver_and_rejoin_when_it_returns() {
    let payments = Payments::new(KafkaCluster::shared(), "rejoin", 4);
    let mut cluster = Highwater::start(1);
    cluster.submit("totals", &payments.sql(""));
    payments.produce(0..1_000, 4);
    cluster.wait_caught_up("totals");
    cluster.kill_driver();
    cluster.add_executor(&[]);
    payments.produce(1_000..2_000, 4);
    cluster.start_driver(&[]);
    cluster.wait("both executors", || (cluster.status("totals")["executors"].as_array()?.len() == 2).then_some(()));
    cluster.wait_caught_up("totals");
    payments.assert_exact(2_000);
}
