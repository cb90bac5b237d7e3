//! A batch counts as published when all of it can be read, in all partitions: no row of the next batch is visible
//! before.

use highwater_connector_api::sink::{Published, Writer, WriterConfig};
use highwater_connectors::registry;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::ids::{AttemptId, AttemptNumber, BatchId, Epoch, QueryId, WriterId};
use highwater_sql::tables::SinkTable;
use highwater_testkit::highwater::DEADLINE;
use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

const BATCH: i64 = 20;
const BATCHES: i64 = 60;
const PARTITIONS: i32 = 4;

#[test]
fn readers_never_see_a_batch_before_all_of_the_one_before() {
    let kafka = KafkaCluster::shared();
    kafka.create_topic("visible-in", 1);
    kafka.create_topic("visible-out", PARTITIONS);
    kafka.produce("visible-in", (0..BATCH * BATCHES).map(|id| Message::json(&json!({"id": id})).partition(0)));
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    let script = format!(
        "SET max_offsets_per_trigger = {BATCH}; SET trigger = 'available_now';
         CREATE TABLE t (id BIGINT) {}; CREATE TABLE o (id BIGINT) {}; INSERT INTO o SELECT id FROM t;",
        with("visible-in"),
        with("visible-out")
    );
    let cluster = Highwater::start(1);
    cluster.submit("visible", &script);
    // Partitions are checked one after the other, as often as possible.
    let stable_end = kafka.stable_ends();
    let mut samples = Vec::new();
    let begun = Instant::now();
    loop {
        let ends: Vec<i64> = (0..PARTITIONS).map(|partition| stable_end("visible-out", partition)).collect();
        let offsets: i64 = ends.iter().sum();
        samples.push(ends);
        // Offsets: rows, and one marker per batch and partition.
        if offsets >= BATCH * BATCHES && cluster.status("visible")["state"] == "finished" {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{}", cluster.logs());
    }
    // The batch of each offset.
    let mut batches: BTreeMap<(i32, i64), i64> = BTreeMap::new();
    for record in kafka.read_all("visible-out", Isolation::Committed) {
        batches.insert((record.partition, record.offset), record.json()["id"].as_i64().unwrap() / BATCH);
    }
    for sample in samples {
        let newest = |partition: i32| {
            let end = sample[partition as usize];
            batches.range((partition, 0)..(partition, end)).map(|(_, batch)| *batch).max().unwrap_or(-1)
        };
        for (first, then) in (0..PARTITIONS).flat_map(|first| (first + 1..PARTITIONS).map(move |then| (first, then))) {
            let (newest, end) = (newest(first), sample[then as usize]);
            let hidden = batches.range((then, end)..(then, i64::MAX)).find(|(_, batch)| **batch < newest);
            assert_eq!(hidden, None, "batch {newest} is seen in partition {first} before all of partition {then}");
        }
    }
}

/// A writer of two columns, and rows that fill every partition.
fn writer(kafka: &KafkaCluster, topic: &str) -> (Box<dyn Writer>, ChangeBatch) {
    let script = format!(
        "CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='x:1', 'format'='json');
         CREATE TABLE o (id BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector'='kafka', 'topic'='{topic}',
           'bootstrap.servers'='{}', 'format'='json');
         INSERT INTO o SELECT id FROM t;",
        kafka.bootstrap_servers()
    );
    let table: SinkTable = highwater_planner::compile(&script).unwrap().sinks[0].clone();
    let query = QueryId(Uuid::from_u128(77));
    registry::prepare(&table, query).unwrap();
    let column: arrow::array::ArrayRef = std::sync::Arc::new(arrow::array::Int64Array::from_iter_values(0..100));
    let rows = ChangeBatch::inserts(arrow::array::RecordBatch::try_from_iter([("id", column)]).unwrap());
    let config = WriterConfig { table, query, query_name: "visible".into(), writer: WriterId(0), epoch: 1 };
    (registry::open_writer(config).unwrap(), rows)
}

/// One partition's leader hangs while the transaction commits. The coordinator, on another broker, reports the commit
/// at once, and readers of the other partition see it. The batch must not count as published before those of the first
/// do.
pub fn a_commit_that_one_leader_has_not_seen_is_not_published(kafka: &KafkaCluster) {
    kafka.create_topic_on("hanging", &[1, 2]);
    let (mut writer, rows) = writer(kafka, "hanging");
    writer.begin(BatchId(0), AttemptId { epoch: Epoch(1), number: AttemptNumber(1) }, false);
    writer.write(&rows).unwrap();
    writer.flush().unwrap();
    let coordinator = kafka.transaction_coordinator(&format!("highwater-{}-0-0", Uuid::from_u128(77)));
    let (hanging, other) = if coordinator == 1 { (2, 1) } else { (1, 2) };
    let partition_of = |broker: i32| broker - 1;
    let stable_end = kafka.stable_ends();
    kafka.freeze_broker(hanging);
    let publishing = std::thread::spawn(move || writer.publish().unwrap());
    highwater_testkit::wait_until("the commit to be seen where nothing hangs", Duration::from_secs(60), || {
        let (_, end) = kafka.ends("hanging", partition_of(other));
        stable_end("hanging", partition_of(other)) == end
    });
    // Long enough for an answer that was sent to arrive.
    let answered = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        publishing.is_finished()
    });
    assert!(!answered, "published, and a reader of partition {} sees nothing", partition_of(hanging));
    kafka.thaw_broker(hanging);
    assert_eq!(publishing.join().unwrap(), Published::Committed);
    let (_, end) = kafka.ends("hanging", partition_of(hanging));
    assert_eq!(stable_end("hanging", partition_of(hanging)), end);
}
