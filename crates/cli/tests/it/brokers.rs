//! Brokers die: a run survives the death of one, and waits while all are down.

use highwater_testkit::{Highwater, KafkaCluster, Payments};

const PARTITIONS: u64 = 6;

#[test]
fn one_run_outlives_the_leader_the_coordinator_and_an_outage_of_all_brokers() {
    let kafka = KafkaCluster::start(3);
    let payments = Payments::new(&kafka, "brokers", PARTITIONS as i32);
    payments.produce(0..10_000, PARTITIONS);
    let cluster = Highwater::start(2);
    cluster.submit("totals", &payments.sql("SET max_offsets_per_trigger = 2000;"));
    cluster.wait_caught_up("totals");
    payments.assert_exact(10_000);
    let run = cluster.status("totals")["runId"].clone();

    crate::visible::a_commit_that_one_leader_has_not_seen_is_not_published(&kafka);
    crate::windows::a_partition_behind_a_lost_connection_is_not_idle(&kafka, &cluster);
    progress_is_replicated_like_the_rows(&kafka, &cluster);

    // The leader of a source partition, while a backlog is read.
    payments.produce(10_000..40_000, PARTITIONS);
    let leader = kafka.leader(&payments.source, 0);
    kafka.kill_broker(leader);
    cluster.wait_caught_up("totals");
    payments.assert_exact(40_000);
    kafka.restart_broker(leader);
    kafka.wait_in_sync(&payments.source);
    kafka.wait_in_sync("__transaction_state");

    // The coordinator of a writer's transactions.
    let query = cluster.progress("totals")[0]["id"].as_str().unwrap().to_string();
    payments.produce(40_000..70_000, PARTITIONS);
    let coordinator = kafka.transaction_coordinator(&format!("highwater-{query}-0-0"));
    kafka.kill_broker(coordinator);
    cluster.wait_caught_up("totals");
    payments.assert_exact(70_000);
    kafka.restart_broker(coordinator);
    kafka.wait_in_sync(&payments.source);

    // All of them.
    payments.produce(70_000..100_000, PARTITIONS);
    kafka.stop_all();
    cluster.wait("a warning", || warned_of_brokers(&cluster).then_some(()));
    assert_ne!(cluster.status("totals")["state"], "failed");
    kafka.start_all();
    cluster.wait_caught_up("totals");
    payments.assert_exact(100_000);
    let status = cluster.wait_state("totals", &["running"]);
    assert_eq!(status["runId"], run, "another run: {status}");
    cluster.wait("the warning to end", || (!warned_of_brokers(&cluster)).then_some(()));
}

/// A sink's progress topic has the replication of its topic, whatever the brokers' default.
fn progress_is_replicated_like_the_rows(kafka: &KafkaCluster, cluster: &Highwater) {
    kafka.create_topic_on("once", &[2]);
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    let script = format!(
        "CREATE TABLE t (id BIGINT) {}; CREATE TABLE o (id BIGINT) {}; INSERT INTO o SELECT id FROM t;",
        with("brokers-payments"),
        with("once")
    );
    cluster.submit("once", &script);
    cluster.wait_caught_up("once");
    let query = cluster.progress("once")[0]["id"].as_str().unwrap().to_string();
    assert_eq!(kafka.replicas(&format!("__highwater_progress-{query}-0")), 1);
    let totals = cluster.progress("totals")[0]["id"].as_str().unwrap().to_string();
    assert_eq!(kafka.replicas(&format!("__highwater_progress-{totals}-0")), 3);
    cluster.ok(&["drop", "once", "--force"]);
}

fn warned_of_brokers(cluster: &Highwater) -> bool {
    let status = cluster.status("totals");
    status["warnings"].as_array().unwrap().iter().any(|warning| warning.as_str().unwrap().contains("brokers"))
}
