//! Where sources begin and end, how much a batch reads, and what happens when records are gone.

use crate::table::Tables;
use highwater_testkit::{Highwater, Message};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn run_to_end(tables: &Tables, settings: &str, options: &str) -> (Highwater, Vec<Value>) {
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy(settings, options));
    cluster.wait_state("q", &["finished"]);
    let progress = cluster.progress("q");
    (cluster, progress)
}

fn input_rows(progress: &[Value]) -> Vec<u64> {
    progress.iter().map(|batch| batch["numInputRows"].as_u64().unwrap()).filter(|rows| *rows > 0).collect()
}

#[test]
fn two_sources_write_one_sink_in_one_batch() {
    let (tables, others) = (Tables::new("union-t", 2), Tables::new("union-u", 2));
    tables.produce(0, 0..1_000);
    others.produce(1, 1_000..2_000);
    let cluster = Highwater::start(1);
    let second = others.source("").replace("TABLE t ", "TABLE u ");
    let sql = format!(
        "SET trigger = 'once'; {} {second} {} INSERT INTO o SELECT id FROM t UNION ALL SELECT id FROM u;",
        tables.source(""),
        tables.sink("id BIGINT")
    );
    cluster.submit("q", &sql);
    cluster.wait_state("q", &["finished"]);
    assert_eq!(tables.ids(), (0..2_000).collect::<Vec<i64>>());
}

#[test]
fn progress_shows_the_newest_ends_of_every_source() {
    let (tables, others) = (Tables::new("ends-t", 1), Tables::new("ends-u", 1));
    let cluster = Highwater::start(1);
    let second = others.source("").replace("TABLE t ", "TABLE u ");
    let sql = format!(
        "{} {second} {} INSERT INTO o SELECT id FROM t UNION ALL SELECT id FROM u;",
        tables.source(""),
        tables.sink("id BIGINT")
    );
    cluster.submit("q", &sql);
    let mut next = 0;
    cluster.wait("ends of both sources in one batch", || {
        tables.produce(0, next..next + 1);
        others.produce(0, next..next + 1);
        next += 1;
        cluster.wait_caught_up("q");
        let batch = cluster.progress("q").pop()?;
        let of = |topic: &str| batch["sources"].as_array()?.iter().find_map(|s| s["latestOffset"][topic]["0"].as_i64());
        of(&tables.input).zip(of(&others.input))
    });
}

#[test]
fn available_now_reads_to_the_ends_of_its_start_within_the_limits() {
    let tables = Tables::new("available-now", 2);
    tables.produce(0, 0..500);
    tables.produce(1, 500..1_000);
    let (cluster, progress) =
        run_to_end(&tables, "SET trigger = 'available_now'; SET max_offsets_per_trigger = 300;", "");
    assert_eq!(tables.ids(), (0..1_000).collect::<Vec<_>>());
    let rows = input_rows(&progress);
    assert!(rows.iter().all(|rows| *rows <= 300) && rows.len() >= 4, "{rows:?}");
    tables.produce(0, 1_000..1_100);
    assert_eq!(cluster.status("q")["state"], "finished");
    cluster.ok(&["start", "q", "--wait"]);
    assert_eq!(tables.ids(), (0..1_100).collect::<Vec<_>>());
}

#[test]
fn once_takes_everything_in_one_batch() {
    let tables = Tables::new("once", 2);
    tables.produce(0, 0..700);
    tables.produce(1, 700..1_000);
    let (_cluster, progress) = run_to_end(&tables, "SET trigger = 'once'; SET max_offsets_per_trigger = 10;", "");
    assert_eq!(tables.ids(), (0..1_000).collect::<Vec<_>>());
    assert_eq!(input_rows(&progress), [1_000]);
}

#[test]
fn explicit_starts_and_ends_are_exact() {
    let tables = Tables::new("explicit", 2);
    tables.produce(0, 0..100);
    tables.produce(1, 1_000..1_100);
    let place = |zero: i64, one: i64| format!("{{\"{}\":{{\"0\":{zero},\"1\":{one}}}}}", tables.input);
    let options = format!(", 'starting_offsets'='{}', 'endingOffsets'='{}'", place(10, -2), place(20, 3));
    run_to_end(&tables, "", &options);
    assert_eq!(tables.ids(), (10..20).chain(1_000..1_003).collect::<Vec<_>>());
}

#[test]
fn a_start_by_time_takes_the_first_record_at_or_after_it() {
    let tables = Tables::new("by-time", 1);
    let at = |id: i64, ms: i64| Message::json(&json!({"id": id})).timestamp(ms);
    tables.kafka.produce(&tables.input, (0..10).map(|id| at(id, 1_767_225_600_000 + id * 1_000)));
    run_to_end(&tables, "SET trigger = 'available_now';", ", 'starting_offsets'='2026-01-01T00:00:04Z'");
    assert_eq!(tables.ids(), (4..10).collect::<Vec<_>>());
}

#[test]
fn latest_is_resolved_at_submit() {
    let tables = Tables::new("latest", 1);
    tables.produce(0, 0..100);
    let mut cluster = Highwater::start(0);
    cluster.submit("q", &tables.copy("", ", 'starting_offsets'='latest'"));
    tables.produce(0, 100..150);
    cluster.add_executor(&[]);
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids(), (100..150).collect::<Vec<_>>());
}

#[test]
fn the_rate_is_smooth_over_all_partitions() {
    let tables = Tables::new("rate", 4);
    for partition in 0..4 {
        tables.produce(partition, 0..1_000);
    }
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("SET max_records_per_second = 500;", ""));
    cluster.wait("2,000 rows", || (tables.ids().len() >= 2_000).then_some(()));
    let progress = cluster.progress("q");
    let rows = input_rows(&progress);
    let started: Vec<i64> = progress
        .iter()
        .filter(|batch| batch["numInputRows"].as_u64() > Some(0))
        .map(|batch| chrono::DateTime::parse_from_rfc3339(batch["timestamp"].as_str().unwrap()).unwrap())
        .map(|time| time.timestamp_millis())
        .collect();
    let largest = *rows.iter().max().unwrap();
    assert!(largest <= 150, "a burst of {largest} rows at 500 a second: {rows:?}");
    let (first, last) = (started[0], *started.last().unwrap());
    let total: u64 = rows[..rows.len() - 1].iter().sum();
    let rate = total as f64 / ((last - first) as f64 / 1_000.0);
    assert!(rate < 600.0, "{rate} rows a second");
}

#[test]
fn the_trigger_every_plans_at_its_boundaries() {
    let tables = Tables::new("every", 1);
    tables.produce(0, 0..10);
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("SET trigger = 'every 2 seconds';", ""));
    cluster.wait_caught_up("q");
    tables.produce(0, 10..20);
    cluster.wait_caught_up("q");
    let times: Vec<i64> = cluster
        .progress("q")
        .iter()
        .map(|batch| chrono::DateTime::parse_from_rfc3339(batch["timestamp"].as_str().unwrap()).unwrap())
        .map(|time| time.timestamp_millis())
        .collect();
    assert!(times.len() >= 2, "{times:?}");
    assert!(times.iter().all(|ms| ms.rem_euclid(2_000) < 1_000), "not near a boundary: {times:?}");
}

#[test]
fn a_minimum_is_waited_for_no_longer_than_the_delay() {
    let tables = Tables::new("minimum", 1);
    tables.produce(0, 0..10);
    let cluster = Highwater::start(1);
    let settings = "SET min_offsets_per_trigger = 100; SET max_trigger_delay = '4 seconds';";
    let submitted = Instant::now();
    cluster.submit("q", &tables.copy(settings, ""));
    cluster.wait_caught_up("q");
    assert!(submitted.elapsed() >= Duration::from_secs(4), "did not wait: {:?}", submitted.elapsed());
    let enough = Instant::now();
    tables.produce(0, 10..200);
    cluster.wait_caught_up("q");
    assert!(
        enough.elapsed() < Duration::from_millis(3_500),
        "waited although there was enough: {:?}",
        enough.elapsed()
    );
    assert_eq!(tables.ids(), (0..200).collect::<Vec<_>>());
}

#[test]
fn new_partitions_are_found_while_running() {
    let tables = Tables::new("new-partitions", 1);
    tables.produce(0, 0..10);
    let cluster = Highwater::start(2);
    cluster.submit("q", &tables.copy("", ""));
    cluster.wait_caught_up("q");
    tables.kafka.add_partitions(&tables.input, 3);
    tables.produce(1, 10..20);
    tables.produce(2, 20..30);
    cluster.wait("all rows", || (tables.ids() == (0..30).collect::<Vec<_>>()).then_some(()));
}

#[test]
fn records_lost_to_retention_stop_the_query() {
    let tables = Tables::new("lost", 1);
    tables.produce(0, 0..1_000);
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("", ""));
    cluster.wait_caught_up("q");
    cluster.ok(&["stop", "q"]);
    tables.produce(0, 1_000..6_000);
    tables.kafka.delete_records(&tables.input, 0, 5_000);
    cluster.ok(&["start", "q"]);
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    let expected = format!("offset 1000 out of range for {}-0: earliest available is 5000", tables.input);
    assert!(message.contains(&expected), "{message}");
    assert!(message.contains("on_data_loss"), "{message}");
    assert_eq!(tables.ids(), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn on_data_loss_continues_and_counts_skipped_offsets() {
    for (policy, expected, lost) in [("earliest", 1_700, 400), ("latest", 200, 1_900)] {
        let tables = Tables::new(&format!("lost-{policy}"), 1);
        tables.produce(0, 0..100);
        let cluster = Highwater::start(1);
        cluster.submit("q", &tables.copy(&format!("SET on_data_loss = '{policy}';"), ""));
        cluster.wait_caught_up("q");
        cluster.ok(&["stop", "q"]);
        tables.produce(0, 100..2_000);
        tables.kafka.delete_records(&tables.input, 0, 500);
        cluster.ok(&["start", "q"]);
        cluster.wait_caught_up("q");
        tables.produce(0, 2_000..2_100);
        cluster.wait_caught_up("q");
        assert_eq!(tables.ids().len(), expected, "{policy}");
        let last = cluster.progress("q").pop().unwrap();
        assert_eq!(last["numLostOffsets"].as_u64(), Some(lost), "{policy}: {last}");
        let warnings = cluster.status("q")["warnings"].to_string();
        assert!(warnings.contains(&lost.to_string()), "{warnings}");
    }
}

#[test]
fn transactions_and_their_markers_are_read_through() {
    let tables = Tables::new("transactions", 1);
    let rows = |ids: std::ops::Range<i64>| ids.map(|id| Message::json(&json!({"id": id}))).collect::<Vec<_>>();
    tables.kafka.produce_transaction("transactions-a", &tables.input, rows(0..10));
    tables.kafka.produce_aborted("transactions-b", &tables.input, rows(100..110));
    tables.kafka.produce_transaction("transactions-c", &tables.input, rows(10..20));
    run_to_end(&tables, "SET trigger = 'available_now';", "");
    assert_eq!(tables.ids(), (0..20).collect::<Vec<_>>());
}

#[test]
fn two_tables_may_read_one_topic_and_a_script_may_hold_several_inserts() {
    let tables = Tables::new("shared-topic", 2);
    tables.produce(0, 0..10);
    tables.produce(1, 10..20);
    let second = tables.source("").replace("CREATE TABLE t ", "CREATE TABLE u ");
    let sql = format!(
        "SET trigger = 'available_now'; {} {second} {} INSERT INTO o SELECT id FROM t UNION ALL SELECT id + 100 FROM u;",
        tables.source(""),
        tables.sink("id BIGINT")
    );
    let cluster = Highwater::start(2);
    cluster.submit("q", &sql);
    cluster.wait_state("q", &["finished"]);
    assert_eq!(tables.ids(), (0..20).chain(100..120).collect::<Vec<_>>());
}
