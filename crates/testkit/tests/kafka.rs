//! The test kit itself, on a real broker.

use std::time::Duration;

use highwater_testkit::{Isolation, KafkaCluster, Message, wait_until};

#[test]
fn records_come_back_as_written() {
    let kafka = KafkaCluster::shared();
    kafka.create_topic("kit-plain", 2);
    let old = 1_000_000_000_000;
    kafka.produce(
        "kit-plain",
        [
            Message::new("a").key("k").partition(1).timestamp(old).header("h", "v"),
            Message::tombstone("k").partition(1),
            Message::new("b").partition(0),
        ],
    );
    let records = kafka.read_all("kit-plain", Isolation::Committed);
    assert_eq!(records.iter().map(|r| (r.partition, r.offset)).collect::<Vec<_>>(), [(0, 0), (1, 0), (1, 1)]);
    assert_eq!(records[1].timestamp_ms, Some(old));
    assert_eq!(records[1].headers, [("h".to_owned(), Some(b"v".to_vec()))]);
    assert_eq!(records[2].payload, None);
    kafka.delete_records("kit-plain", 1, 1);
    assert_eq!(kafka.read_all("kit-plain", Isolation::Committed).len(), 2);
}

#[test]
fn isolation_levels_differ() {
    let kafka = KafkaCluster::shared();
    kafka.create_topic("kit-transactions", 1);
    kafka.produce_transaction("kit-a", "kit-transactions", [Message::new("committed")]);
    kafka.produce_aborted("kit-b", "kit-transactions", [Message::new("aborted")]);
    let open = kafka.begin("kit-c");
    open.write("kit-transactions", [Message::new("open")]);
    let text = |isolation| -> Vec<String> {
        kafka.read_all("kit-transactions", isolation).iter().filter_map(highwater_testkit::Record::text).collect()
    };
    assert_eq!(text(Isolation::CommittedSoFar), ["committed"]);
    assert_eq!(text(Isolation::Uncommitted), ["committed", "aborted", "open"]);
    open.commit();
    assert_eq!(text(Isolation::Committed), ["committed", "open"]);
}

#[test]
fn three_brokers_survive_the_leader() {
    let kafka = KafkaCluster::start(3);
    kafka.create_topic("kit-replicated", 1);
    kafka.produce("kit-replicated", [Message::new("before")]);
    let leader = kafka.leader("kit-replicated", 0);
    kafka.kill_broker(leader);
    assert_ne!(kafka.leader("kit-replicated", 0), leader);
    kafka.produce("kit-replicated", [Message::new("after")]);
    kafka.restart_broker(leader);
    kafka.wait_in_sync("kit-replicated");
    assert_eq!(kafka.read_all("kit-replicated", Isolation::Committed).len(), 2);
    kafka.produce_transaction("kit-d", "kit-replicated", [Message::new("transaction")]);
    assert!((1..=3).contains(&kafka.transaction_coordinator("kit-d")));
    let ends = kafka.ends("kit-replicated", 0);
    kafka.stop_all();
    kafka.start_all();
    // A leader reports its end only after the followers have reported theirs.
    wait_until("the old end", Duration::from_secs(30), || kafka.ends("kit-replicated", 0) >= ends);
    assert_eq!(kafka.read_all("kit-replicated", Isolation::Committed).len(), 3);
}
