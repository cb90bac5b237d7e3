//! An unclean leader election removes records that were read, and others are written in their place: while queries run,
//! while they are stopped, and while all of Highwater is down.

use crate::table::Tables;
use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::json;

const POLICIES: [&str; 3] = ["fail", "earliest", "latest"];

/// A topic whose log is truncated, read by one query for each policy.
struct Readers {
    topic: String,
    tables: [Tables; 3],
}

impl Readers {
    fn new(kafka: &'static KafkaCluster, name: &str) -> Self {
        let topic = format!("{name}-in");
        create(kafka, &topic);
        let tables = POLICIES.map(|policy| {
            let output = format!("{name}-{policy}-out");
            kafka.create_topic(&output, 1);
            Tables { kafka, input: topic.clone(), output }
        });
        Self { topic, tables }
    }

    fn name(&self, policy: &str) -> String {
        format!("{}-{policy}", self.topic)
    }

    fn submit(&self, cluster: &Highwater) {
        for (policy, tables) in POLICIES.iter().zip(&self.tables) {
            cluster.submit(&self.name(policy), &tables.copy(&format!("SET on_data_loss = '{policy}';"), ""));
        }
    }

    fn produce(&self, ids: std::ops::Range<i64>) {
        self.tables[0].produce(0, ids);
    }

    fn wait_rows(&self, cluster: &Highwater, count: usize) {
        let all_have = || self.tables.iter().all(|tables| tables.ids().len() >= count);
        cluster.wait(&format!("{count} rows of {}", self.topic), || all_have().then_some(()));
    }

    /// Rows 0..20 were committed; offsets 10..20 now hold different records: 100..140.
    fn check(&self, cluster: &Highwater) {
        let [fail, earliest, latest] = POLICIES.map(|policy| self.name(policy));
        let message = cluster.wait_state(&fail, &["failed"])["message"].as_str().unwrap().to_string();
        assert!(message.contains("truncated at offset 10") && message.contains("on_data_loss"), "{message}");
        cluster.wait("the rows of the rewritten log", || (self.tables[1].ids().len() >= 60).then_some(()));
        cluster.wait("the reset", || {
            cluster.status(&latest)["warnings"].to_string().contains("positions were reset").then_some(())
        });
        self.produce(999..1_000);
        let rest = &self.tables[1..];
        cluster.wait("the last row", || rest.iter().all(|tables| tables.ids().contains(&999)).then_some(()));
        let read = (0..20).chain(100..140).chain(999..1_000);
        assert_eq!(self.tables[0].ids(), (0..20).collect::<Vec<_>>());
        assert_eq!(self.tables[1].ids(), read.collect::<Vec<_>>());
        assert!(
            cluster.status(&earliest)["warnings"].to_string().contains("positions were reset"),
            "{}",
            cluster.status(&earliest)
        );
        let lost = cluster.progress(&latest).pop().unwrap()["numLostOffsets"].as_u64().unwrap();
        assert_eq!(self.tables[2].ids().len() as u64, 61 - lost, "skipped offsets are counted");
    }
}

/// Creates a topic on brokers 1 and 2. Either may become its leader, even if it lacks records.
fn create(kafka: &KafkaCluster, topic: &str) {
    let properties = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
    kafka.create_replicated_on(topic, &[1, 2], &properties);
}

fn restart(cluster: &Highwater, query: &str) {
    cluster.ok(&["stop", query]);
    cluster.wait_state(query, &["stopped"]);
    cluster.ok(&["start", query]);
}

#[test]
fn a_log_that_was_truncated_and_grew_again_is_told_from_the_original() {
    let kafka: &'static KafkaCluster = Box::leak(Box::new(KafkaCluster::start(3)));
    let [running, stopped, down] = ["running", "stopped", "down"].map(|name| Readers::new(kafka, name));
    let [whole, gap] = ["whole", "gap"].map(|name| {
        let tables = Tables { kafka, input: format!("{name}-in"), output: format!("{name}-out") };
        create(kafka, &tables.input);
        kafka.create_topic(&tables.output, 1);
        tables
    });
    let (cluster, mut other) = (Highwater::start(1), Highwater::start(1));
    for (readers, cluster) in [(&running, &cluster), (&stopped, &cluster), (&down, &other)] {
        readers.produce(0..10);
        readers.submit(cluster);
        readers.wait_rows(cluster, 10);
    }
    let messages = |ids: std::ops::Range<i64>| ids.map(|id| Message::json(&json!({"id": id})).partition(0));
    whole.produce(0, 0..5);
    gap.produce(0, 0..10);
    cluster.submit("gap", &gap.copy("SET on_data_loss = 'earliest';", ""));

    // Ten more records that only broker 1 holds; then broker 2, which lacks them, is the only replica left.
    kafka.kill_broker(2);
    for (readers, cluster) in [(&running, &cluster), (&stopped, &cluster), (&down, &other)] {
        readers.produce(10..20);
        readers.wait_rows(cluster, 20);
    }
    // This topic loses only aborted records, which no reader sees: the query's position is behind them.
    kafka.produce_aborted("gap", &gap.input, messages(10..15));
    cluster.wait_caught_up("gap");
    for query in POLICIES.map(|policy| stopped.name(policy)).iter().map(String::as_str).chain(["gap"]) {
        cluster.ok(&["stop", query]);
        cluster.wait_state(query, &["stopped"]);
    }
    other.kill_driver();
    other.kill_executor(0);
    kafka.kill_broker(1);
    kafka.start_broker(2);
    for readers in [&running, &stopped, &down] {
        assert_eq!(kafka.leader(&readers.topic, 0), 2);
        readers.produce(100..140);
        let held = kafka.read_all(&readers.topic, Isolation::Uncommitted).len();
        assert_eq!(held, 50, "offsets 10..20 hold different records now");
    }

    gap.produce(0, 100..140);
    assert_eq!(kafka.ends(&gap.input, 0), (0, 50), "the query stands at 16, behind 6 of these");

    running.check(&cluster);
    for policy in POLICIES {
        cluster.ok(&["start", &stopped.name(policy)]);
    }
    stopped.check(&cluster);
    other.start_driver(&[]);
    other.add_executor(&[]);
    down.check(&other);
    cluster.ok(&["start", "gap"]);
    cluster.wait("the rows in the gap", || (gap.ids().len() == 50).then_some(()));
    assert_eq!(gap.ids(), (0..10).chain(100..140).collect::<Vec<_>>());

    // A log that lost nothing is accepted, although another leader wrote what lies between its last record and the
    // position; so is a partition whose position was reset.
    kafka.produce_aborted("whole", &whole.input, messages(5..8));
    cluster.submit("whole", &whole.copy("", ""));
    cluster.wait_caught_up("whole");
    assert_eq!(whole.ids(), (0..5).collect::<Vec<_>>());
    let again = [("whole".to_string(), &whole), (stopped.name("earliest"), &stopped.tables[1])];
    for (query, tables) in again {
        restart(&cluster, &query);
        let before = tables.ids().len();
        tables.produce(0, 2_000..2_003);
        cluster.wait("three more rows", || (tables.ids().len() == before + 3).then_some(()));
        cluster.wait_state(&query, &["running"]);
    }
}
