//! An unclean leader election takes records away that were read, and others are written in their place.

use crate::table::Tables;
use highwater_testkit::{Highwater, Isolation, KafkaCluster};

#[test]
fn a_log_that_was_truncated_and_grew_again_is_told_from_the_one_that_was_read() {
    let kafka: &'static KafkaCluster = Box::leak(Box::new(KafkaCluster::start(3)));
    let policies = ["fail", "earliest", "latest"];
    let input = "truncated-in".to_string();
    kafka.create_replicated_on(
        &input,
        &[1, 2],
        &[("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")],
    );
    let tables = policies.map(|policy| {
        let output = format!("truncated-{policy}-out");
        kafka.create_topic(&output, 1);
        Tables { kafka, input: input.clone(), output }
    });
    let cluster = Highwater::start(1);
    tables[0].produce(0, 0..10);
    for (policy, tables) in policies.iter().zip(&tables) {
        cluster.submit(policy, &tables.copy(&format!("SET on_data_loss = '{policy}';"), ""));
    }
    let all_have = |count: usize| tables.iter().all(|tables| tables.ids().len() >= count);
    cluster.wait("ten rows", || all_have(10).then_some(()));

    // Ten more that only broker 1 holds; then broker 2, which lacks them, is all that is left of the partition.
    kafka.kill_broker(2);
    tables[0].produce(0, 10..20);
    cluster.wait("twenty rows", || all_have(20).then_some(()));
    kafka.kill_broker(1);
    kafka.start_broker(2);
    assert_eq!(kafka.leader(&input, 0), 2);
    tables[0].produce(0, 100..140);
    assert_eq!(kafka.read_all(&input, Isolation::Uncommitted).len(), 50, "offsets 10..20 are other records now");

    let message = cluster.wait_state("fail", &["failed"])["message"].as_str().unwrap().to_string();
    assert!(message.contains("truncated at offset 10") && message.contains("on_data_loss"), "{message}");
    cluster.wait("the rows written anew", || (tables[1].ids().len() >= 60).then_some(()));
    cluster.wait("the reset", || cluster.status("latest")["warnings"].to_string().contains("set anew").then_some(()));
    tables[0].produce(0, 999..1_000);
    cluster.wait("the last row", || tables[1..].iter().all(|tables| tables.ids().contains(&999)).then_some(()));
    let read = (0..20).chain(100..140).chain(999..1_000);
    assert_eq!(tables[0].ids(), (0..20).collect::<Vec<_>>());
    assert_eq!(tables[1].ids(), read.collect::<Vec<_>>());
    let lost = cluster.progress("latest").pop().unwrap()["numLostOffsets"].as_u64().unwrap();
    assert_eq!(tables[2].ids().len() as u64, 61 - lost, "what was left out is counted");
}
