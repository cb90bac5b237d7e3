//! Event time: windows close by the watermark, late rows are counted, idle partitions do not hold back the watermark.

use crate::table::Tables;
use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SECOND: i64 = 1_000;
/// 2026-01-01T00:00:00Z, milliseconds.
const START: i64 = 1_767_225_600_000;

fn at(second: i64, id: i64) -> Message {
    Message::json(&json!({"id": id, "name": format!("n{}", id % 3), "ts": START + second * SECOND}))
}

fn counts(tables: &Tables, settings: &str, options: &str, sink: &str) -> String {
    format!(
        "{settings} {} {}
         INSERT INTO o SELECT window_start, window_end, count(*)
           FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;",
        tables.source(options),
        tables.sink(sink)
    )
}

const APPENDED: &str = "window_start TIMESTAMP(3), window_end TIMESTAMP(3), n BIGINT";
const KEYED: &str = "window_start TIMESTAMP(3), window_end TIMESTAMP(3), n BIGINT,
    PRIMARY KEY (window_start, window_end) NOT ENFORCED";

/// Window starts and their counts.
fn appended(tables: &Tables) -> Vec<(String, i64)> {
    let mut rows: Vec<(String, i64)> = tables
        .rows()
        .iter()
        .map(|row| (row["window_start"].as_str().unwrap().to_string(), row["n"].as_i64().unwrap()))
        .collect();
    rows.sort();
    rows
}

fn start_of(window: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(START + window * 10 * SECOND).unwrap();
    time.format("%Y-%m-%dT%H:%M:%S").to_string()
}

#[test]
fn appended_windows_are_written_once_when_the_watermark_passes_their_end() {
    let tables = Tables::new("append-windows", 2);
    let cluster = Highwater::start(2);
    cluster.submit("q", &counts(&tables, "", "", APPENDED));
    tables.kafka.produce(&tables.input, (0..20).map(|i| at(i, i).partition(0)));
    tables.kafka.produce(&tables.input, (0..14).map(|i| at(i, i).partition(1)));
    cluster.wait_caught_up("q");
    // The slower partition is at second 13, the watermark at 8: nothing is final.
    assert_eq!(appended(&tables), []);
    tables.kafka.produce(&tables.input, [at(17, 99).partition(1)]);
    cluster.wait("the first window", || (!tables.rows().is_empty()).then_some(()));
    assert_eq!(appended(&tables), [(start_of(0), 20)]);
    tables.kafka.produce(&tables.input, [at(3, 1).partition(0), at(41, 2).partition(0), at(40, 3).partition(1)]);
    cluster.wait("more windows", || (tables.rows().len() == 2).then_some(()));
    assert_eq!(appended(&tables), [(start_of(0), 20), (start_of(1), 15)]);
    let late: u64 = cluster
        .progress("q")
        .iter()
        .flat_map(|batch| batch["stateOperators"].as_array().unwrap().clone())
        .map(|operator| operator["numRowsDroppedByWatermark"].as_u64().unwrap())
        .sum();
    assert_eq!(late, 1);
    let watermark = cluster.progress("q").pop().unwrap()["eventTime"]["watermark"].as_str().unwrap().to_string();
    assert!(watermark.starts_with("2026-01-01T00:00:35"), "{watermark}");
}

#[test]
fn a_changelog_holds_open_windows_too() {
    let tables = Tables::new("update-windows", 2);
    let cluster = Highwater::start(2);
    cluster.submit("q", &counts(&tables, "", "", KEYED));
    tables.kafka.produce(&tables.input, (0..25).map(|i| at(i, i).partition((i % 2) as i32)));
    cluster.wait_caught_up("q");
    let fold = || {
        let mut windows: BTreeMap<String, i64> = BTreeMap::new();
        for record in tables.kafka.read_all(&tables.output, Isolation::Committed) {
            let key: Value = serde_json::from_slice(record.key.as_deref().unwrap()).unwrap();
            let start = key["window_start"].as_str().unwrap().to_string();
            assert!(record.payload.is_some(), "a closed window is not deleted");
            windows.insert(start, record.json()["n"].as_i64().unwrap());
        }
        windows
    };
    let expected = [(start_of(0), 10), (start_of(1), 10), (start_of(2), 5)];
    assert_eq!(fold(), expected.clone().into());
    tables.kafka.produce(&tables.input, [at(60, 1).partition(0), at(60, 2).partition(1)]);
    cluster.wait_caught_up("q");
    let mut with_last: BTreeMap<String, i64> = expected.into();
    with_last.insert(start_of(6), 2);
    assert_eq!(fold(), with_last);
}

#[test]
fn windows_of_processing_time_are_written_once_when_the_clock_passes_their_end() {
    processing_time("clock-windows", "TUMBLE(TABLE p, DESCRIPTOR(pt), INTERVAL '2' SECOND)", 1);
}

#[test]
fn overlapping_windows_of_processing_time_are_written_one_by_one() {
    processing_time("clock-hops", "HOP(TABLE p, DESCRIPTOR(pt), INTERVAL '1' SECOND, INTERVAL '3' SECOND)", 3);
}

/// Counts records in windows, `windows_of_each` per record, while executor and driver die.
fn processing_time(name: &str, windows: &str, windows_of_each: i64) {
    let tables = Tables::new(name, 2);
    let mut cluster = Highwater::start(2);
    let sql = format!(
        "{} {} CREATE VIEW p AS SELECT id, proctime() AS pt FROM t;
         INSERT INTO o SELECT window_start, window_end, count(*)
           FROM TABLE({windows}) GROUP BY window_start, window_end;",
        tables.source(""),
        tables.sink(APPENDED)
    );
    cluster.submit("q", &sql);
    for round in 0..3 {
        tables.kafka.produce(&tables.input, (0..5).map(|i| at(i, round * 5 + i).partition((i % 2) as i32)));
        cluster.wait_caught_up("q");
        // The open window is in the checkpoint only.
        match round {
            1 => cluster.kill_executor(0),
            2 => {
                cluster.kill_driver();
                cluster.start_driver(&[]);
            }
            _ => {}
        }
        // No record follows these, and they must be counted anyway.
        let all = (round + 1) * 5 * windows_of_each;
        cluster.wait("their windows", || {
            let counted: i64 = appended(&tables).iter().map(|(_, n)| n).sum();
            assert!(counted <= all, "{counted} of {all}");
            (counted == all).then_some(())
        });
    }
    let windows: Vec<String> = appended(&tables).into_iter().map(|(start, _)| start).collect();
    assert_eq!(windows.len(), windows.iter().collect::<std::collections::BTreeSet<_>>().len(), "{windows:?}");
}

#[test]
fn an_idle_partition_does_not_hold_the_watermark_for_longer_than_its_timeout() {
    let tables = Tables::new("idle", 2);
    let cluster = Highwater::start(1);
    cluster.submit("q", &counts(&tables, "SET idle_timeout = '2 seconds';", "", APPENDED));
    tables.kafka.produce(&tables.input, (0..30).map(|i| at(i, i).partition(0)));
    cluster.wait("two windows", || (tables.rows().len() == 2).then_some(()));
    assert_eq!(appended(&tables), [(start_of(0), 10), (start_of(1), 10)]);
}

/// A consumer that reads only committed records sees the end of the partition before the transaction.
#[test]
fn a_partition_behind_an_open_transaction_is_not_idle() {
    let tables = Tables::new("idle-transaction", 3);
    let cluster = Highwater::start(1);
    cluster.submit("q", &counts(&tables, "SET idle_timeout = '2 seconds';", "", APPENDED));
    tables.kafka.produce(&tables.input, [at(5, 1).partition(0), at(60, 2).partition(1)]);
    let transaction = tables.kafka.begin("idle-transaction-upstream");
    transaction.write(&tables.input, [at(8, 3).partition(0)]);
    cluster.wait_caught_up("q");
    // It becomes idle last: the watermark moves from second -4 to that of the partitions that are not idle.
    tables.kafka.produce(&tables.input, [at(1, 4).partition(2)]);
    let moved = cluster.wait("the third partition to be idle", || {
        let watermark = cluster.progress("q").pop()?["eventTime"]["watermark"].as_str()?.to_string();
        (watermark.as_str() >= "2026-01-01T00:00:00").then_some(watermark)
    });
    assert!(moved.starts_with("2026-01-01T00:00:00"), "the open transaction's partition held nothing: {moved}");
    transaction.commit();
    tables.kafka.produce(&tables.input, [at(40, 5).partition(0)]);
    cluster.wait("the first window", || (!tables.rows().is_empty()).then_some(()));
    assert_eq!(appended(&tables)[0], (start_of(0), 3), "no row of the transaction is late");
}

/// The broker of one partition hangs for longer than the idle timeout, on a cluster of three.
pub fn a_partition_behind_a_lost_connection_is_not_idle(kafka: &KafkaCluster, cluster: &Highwater) {
    let script = |name: &str, partitions: &[i32]| {
        let (input, output) = (format!("{name}-in"), format!("{name}-out"));
        kafka.create_topic_on(&input, partitions);
        kafka.create_topic(&output, 1);
        let with = |topic: &str| {
            let servers = kafka.bootstrap_servers();
            format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
        };
        let sql = format!(
            "SET idle_timeout = '8 seconds';
             CREATE TABLE t (id BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) {};
             CREATE TABLE o ({APPENDED}) {};
             INSERT INTO o SELECT window_start, window_end, count(*)
               FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;",
            with(&input),
            with(&output)
        );
        cluster.submit(name, &sql);
        (input, output)
    };
    let rows = |topic: &str| kafka.read_all(topic, Isolation::Committed).iter().map(|r| r.json()).collect::<Vec<_>>();
    let (input, output) = script("lost", &[1, 2]);
    let (other_input, _) = script("not-lost", &[2, 2]);
    kafka.produce(&input, [at(5, 1).partition(0)]);
    cluster.wait_caught_up("not-lost");
    cluster.wait_caught_up("lost");
    // It must hang before the partition was at its end for the timeout.
    kafka.produce(&input, [at(6, 2).partition(0)]);
    cluster.wait_caught_up("lost");
    kafka.freeze_broker(1);
    kafka.produce(&input, [at(60, 3).partition(1)]);
    // A partition that was read to its end after the broker hung, and is idle by now.
    kafka.produce(&other_input, [at(1, 1).partition(1), at(60, 2).partition(0)]);
    cluster.wait("the other query's partition to be idle", || {
        let watermark = cluster.progress("not-lost").pop()?["eventTime"]["watermark"].as_str()?.to_string();
        (watermark.as_str() >= "2026-01-01T00:00:55").then_some(())
    });
    kafka.thaw_broker(1);
    kafka.produce(&input, [at(8, 4).partition(0), at(60, 5).partition(0)]);
    cluster.wait("the first window", || (!rows(&output).is_empty()).then_some(()));
    assert_eq!(rows(&output)[0]["n"], 3, "a row of the broker that hung is late");
    for name in ["lost", "not-lost"] {
        cluster.ok(&["drop", name, "--force"]);
    }
    kafka.wait_in_sync("__transaction_state");
}

#[test]
fn available_now_leaves_open_windows_in_state() {
    let tables = Tables::new("open-windows", 2);
    tables.kafka.produce(&tables.input, (0..18).map(|i| at(i, i).partition(0)));
    tables.kafka.produce(&tables.input, (0..18).map(|i| at(i, i).partition(1)));
    let cluster = Highwater::start(1);
    cluster.submit("q", &counts(&tables, "SET trigger = 'available_now';", "", APPENDED));
    cluster.wait_state("q", &["finished"]);
    assert_eq!(appended(&tables), [(start_of(0), 20)]);
    tables.kafka.produce(&tables.input, [at(19, 7).partition(0), at(50, 8).partition(1), at(50, 9).partition(0)]);
    cluster.ok(&["start", "q", "--wait"]);
    assert_eq!(appended(&tables), [(start_of(0), 20), (start_of(1), 17)]);
}

#[test]
fn late_rows_go_to_their_topic_exactly_once_through_kills() {
    let tables = Tables::new("late-rows", 2);
    let late_topic = "late-rows-late";
    let mut cluster = Highwater::start(2);
    let sql = format!(
        "SET max_offsets_per_trigger = 150; {} {}
         INSERT INTO o SELECT window_start, window_end, max(id)
           FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;",
        tables.source(&format!(", 'late_topic'='{late_topic}'")),
        tables.sink(APPENDED)
    );
    cluster.submit("q", &sql);
    assert!(tables.kafka.topics().contains(late_topic), "a missing topic is created");
    tables.kafka.produce(&tables.input, [at(1, 1).partition(0), at(100, 2).partition(0), at(100, 3).partition(1)]);
    cluster.wait("the first window", || (tables.rows().len() == 1).then_some(()));
    let late = |from: i64, to: i64| (from..to).map(|id| at(5, id).partition((id % 2) as i32));
    tables.kafka.produce(&tables.input, late(1_000, 2_000));
    cluster.kill_executor(1);
    tables.kafka.produce(&tables.input, late(2_000, 3_000));
    cluster.wait_caught_up("q");
    tables.kafka.produce(&tables.input, late(3_000, 4_000));
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.wait_caught_up("q");
    // Rows without event time go there, too, counted by an operator of their own.
    let untimed = |id: i64| Message::json(&json!({"id": id, "name": "n", "ts": null})).partition((id % 2) as i32);
    tables.kafka.produce(&tables.input, (4_000..4_010).map(untimed));
    cluster.wait_caught_up("q");
    let dropped = |name: &str| {
        let batches = cluster.progress("q");
        let operators = batches.iter().flat_map(|batch| batch["stateOperators"].as_array().unwrap());
        let named = operators.filter(|operator| operator["operatorName"] == name);
        named.map(|operator| operator["numRowsDroppedByWatermark"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(dropped("event time"), 10);
    let records = tables.kafka.read_all(late_topic, Isolation::Committed);
    let mut ids: Vec<i64> = records.iter().map(|record| record.json()["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1_000..4_010).collect::<Vec<i64>>());
    let untimed: Vec<_> = records.iter().filter(|record| record.json()["id"].as_i64().unwrap() >= 4_000).collect();
    let reason = |record: &&highwater_testkit::Record| {
        record.headers.iter().any(|(key, value)| {
            key == "highwater.reason" && value.as_deref() == Some(b"it has no time, so it is in no window".as_slice())
        })
    };
    assert!(untimed.iter().all(reason) && untimed[0].json().get("window_end").is_none());
    let header = |name: &str| {
        let found =
            records[0].headers.iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no header {name}"));
        String::from_utf8(found.1.clone().unwrap()).unwrap()
    };
    assert_eq!(header("highwater.operator"), "0");
    assert_eq!(header("highwater.watermark"), "2026-01-01T00:01:35.000Z");
    let reason = "its time was over at 2026-01-01T00:00:10.000Z, and the watermark had passed that";
    assert_eq!(header("highwater.reason"), reason);
    assert_eq!(records[0].json()["window_end"], "2026-01-01T00:00:10");
    assert_eq!(tables.rows().len(), 1, "late rows changed nothing");
}

#[test]
fn a_query_that_keeps_too_much_stops_and_names_the_operator() {
    let tables = Tables::new("state-limit", 1);
    let cluster = Highwater::start(1);
    let sink = tables.sink("id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED");
    let select = "INSERT INTO o SELECT id, count(*) FROM t GROUP BY id;";
    cluster.submit("q", &format!("SET state_memory_limit = '20 KB'; {} {sink} {select}", tables.source("")));
    tables.produce(0, 0..10);
    cluster.wait("ten rows", || (tables.rows().len() == 10).then_some(()));
    tables.produce(0, 10..5_000);
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("over its state_memory_limit of 20000: operator 0 (aggregate count(*) by id)"),
        "{message}"
    );
}

#[test]
fn a_query_that_needs_too_much_memory_stops_before_it_is_allocated_and_others_continue() {
    let tables = Tables::new("query-memory", 1);
    let mut cluster = Highwater::start(0);
    cluster.add_executor_with(&[], &["--slots", "1", "--query-memory", "200KB"]);
    let keyed = tables.sink("id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED");
    let select = "INSERT INTO o SELECT id, count(*) FROM t GROUP BY id;";
    cluster.submit("q", &format!("{} {keyed} {select}", tables.source("")));
    let other = Tables::on(tables.kafka, "query-memory-other", 1);
    cluster.submit("other", &other.copy("", ""));
    tables.produce(0, 0..10);
    cluster.wait("ten rows", || (tables.rows().len() == 10).then_some(()));
    tables.produce(0, 10..20_000);
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("its limit of 200000 bytes") && message.contains("operator 0 (aggregate count(*) by id)"),
        "{message}"
    );
    // Nothing of the batch that needed too much memory was written, and the executor is alive.
    assert!(tables.rows().len() <= 20_000);
    other.produce(0, 0..10);
    cluster.wait("the other query's rows", || (other.ids().len() == 10).then_some(()));
}

#[test]
fn a_partition_far_ahead_waits_for_the_slowest() {
    let tables = Tables::new("aligned", 2);
    let cluster = Highwater::start(1);
    tables.kafka.produce(&tables.input, [at(0, 100_000).partition(1)]);
    tables.kafka.produce(&tables.input, (0..30_000).map(|i| at(i / 10, i).partition(0)));
    let settings = "SET max_watermark_drift = '10 seconds'; SET idle_timeout = '10 minutes';";
    cluster.submit("q", &tables.copy(settings, ""));
    // Several batches in which the fast partition could be read.
    for id in 100_001..100_006 {
        tables.kafka.produce(&tables.input, [at(0, id).partition(1)]);
        cluster.wait("the slow partition", || tables.ids().contains(&id).then_some(()));
    }
    let read = tables.ids().iter().filter(|id| **id < 100_000).count();
    assert!((1..=2 * 8_192).contains(&read), "{read} records of the fast partition are read");
    tables.kafka.produce(&tables.input, [at(4_000, 100_006).partition(1)]);
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids().len(), 30_007);
}
