//! Records that do not fit: the query stops and names the place, or skips and counts, and loses nothing else.

use crate::table::Tables;
use highwater_testkit::highwater::DEADLINE;
use highwater_testkit::{Highwater, Isolation, Message, Record};
use serde_json::json;

/// Puts `bad` between good records 0..5 and 5..10 of one partition, at offset 5.
fn surround(tables: &Tables, bad: Message) {
    tables.produce(0, 0..5);
    tables.kafka.produce(&tables.input, [bad.partition(0)]);
    tables.produce(0, 5..10);
}

/// The query fails and names topic, partition, offset and reason; nothing of the batch is written.
fn stops(test: &str, bad: Message, reason: &str) {
    let tables = Tables::new(test, 1);
    surround(&tables, bad);
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("", ""));
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    let place = format!("{}-0", tables.input);
    assert!(message.contains(&place) && message.contains("offset 5"), "{message}");
    assert!(message.contains(reason), "expected {reason:?} in: {message}");
    assert!(message.contains("on_bad_record"), "no remedy named: {message}");
    assert_eq!(tables.ids(), Vec::<i64>::new());
}

fn dead_letters(tables: &Tables) -> Vec<Record> {
    tables.kafka.read_all(&format!("{}-dead-letters", tables.input), Isolation::Committed)
}

fn header(letter: &Record, name: &str) -> String {
    let found = letter.headers.iter().find(|(key, _)| key == name);
    String::from_utf8(found.and_then(|(_, value)| value.clone()).unwrap()).unwrap()
}

/// The bad records that all batches of query `q` counted.
fn counted(cluster: &Highwater) -> u64 {
    cluster.progress("q").iter().map(|batch| batch["numBadRecords"].as_u64().unwrap()).sum()
}

#[test]
fn malformed_json_stops_the_query() {
    stops("malformed", Message::new("{\"id\": 5, "), "JSON");
}

#[test]
fn a_wrong_type_stops_the_query() {
    stops("wrong-type", Message::new("{\"id\": \"five\"}"), "id");
}

#[test]
fn a_tombstone_stops_the_query() {
    stops("tombstone", Message::tombstone("k"), "tombstone");
}

#[test]
fn a_value_that_is_not_an_object_stops_the_query() {
    stops("no-object", Message::new("[1, 2]"), "object");
}

#[test]
fn a_number_out_of_range_stops_the_query() {
    stops("out-of-range", Message::new("{\"id\": 9223372036854775808}"), "id");
}

#[test]
fn skipping_counts_and_loses_nothing_else() {
    let tables = Tables::new("skip-bad", 1);
    for bad in [Message::new("not json"), Message::tombstone("k"), Message::new("{\"id\": {}}")] {
        surround(&tables, bad);
    }
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("SET on_bad_record = 'skip';", ""));
    cluster.wait_caught_up("q");
    let mut expected: Vec<i64> = (0..10).flat_map(|id| [id, id, id]).collect();
    expected.sort_unstable();
    assert_eq!(tables.ids(), expected);
    assert_eq!(counted(&cluster), 3);
    let warned = cluster.status("q")["warnings"].to_string();
    assert!(warned.contains("bad record"), "{warned}");
}

#[test]
fn dead_letters_are_kept_as_they_were_with_place_and_reason() {
    let tables = Tables::new("dead-letter", 1);
    surround(&tables, Message::new("not json").key("k"));
    surround(&tables, Message::tombstone("gone"));
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("SET on_bad_record = 'dead_letter';", ""));
    cluster.wait_caught_up("q");
    let mut expected: Vec<i64> = (0..10).flat_map(|id| [id, id]).collect();
    expected.sort_unstable();
    assert_eq!(tables.ids(), expected);
    let letters = dead_letters(&tables);
    let texts: Vec<_> = letters.iter().map(|letter| (letter.key.as_deref(), letter.payload.as_deref())).collect();
    assert_eq!(texts, [(Some(&b"k"[..]), Some(&b"not json"[..])), (Some(&b"gone"[..]), None)]);
    let header = |letter: usize, name: &str| header(&letters[letter], name);
    assert_eq!(header(0, "highwater.topic"), tables.input);
    assert_eq!((header(0, "highwater.partition"), header(0, "highwater.offset")), ("0".into(), "5".into()));
    assert!(header(0, "highwater.error").contains("JSON"), "{}", header(0, "highwater.error"));
    assert_eq!(header(1, "highwater.offset"), "16");
}

#[test]
fn nulls_and_absent_fields_are_null_and_undeclared_ones_ignored() {
    let tables = Tables::new("nulls", 1);
    let records = [json!({"id": 1, "name": null, "other": [1]}), json!({"id": 2}), json!({"name": "x"})];
    tables.kafka.produce(&tables.input, records.iter().map(Message::json));
    let cluster = Highwater::start(1);
    let insert = "INSERT INTO o SELECT id, name FROM t;";
    cluster.submit("q", &format!("{} {} {insert}", tables.source(""), tables.sink("id BIGINT, name STRING")));
    cluster.wait_caught_up("q");
    let expected =
        vec![json!({"id": 1, "name": null}), json!({"id": 2, "name": null}), json!({"id": null, "name": "x"})];
    assert_eq!(tables.rows(), expected);
}

#[test]
fn a_message_too_large_for_the_sink_stops_the_query_with_the_reason() {
    let tables = Tables::new("too-large", 1);
    tables.kafka.produce(&tables.input, [Message::json(&json!({"id": 1, "name": "x".repeat(600_000)}))]);
    let cluster = Highwater::start(1);
    let sql = format!(
        "{} {} INSERT INTO o SELECT id, concat(name, name) FROM t;",
        tables.source(""),
        tables.sink("id BIGINT, name STRING")
    );
    cluster.submit("q", &sql);
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("large") && message.contains(&tables.output), "{message}");
}

/// A script with two INSERTs: `first` into the output, and all ids into `<output>-all`.
fn two_inserts(tables: &Tables, settings: &str, first: &str) -> String {
    let all = format!("{}-all", tables.output);
    tables.kafka.create_topic(&all, 1);
    let sink = tables.sink("id BIGINT");
    let second = sink.replace("TABLE o", "TABLE p").replace(&format!("'{}'", tables.output), &format!("'{all}'"));
    format!("{settings} {} {sink} {second} INSERT INTO o {first}; INSERT INTO p SELECT id FROM t;", tables.source(""))
}

/// The ids of the second INSERT, sorted.
fn all_ids(tables: &Tables) -> Vec<i64> {
    let records = tables.kafka.read_all(&format!("{}-all", tables.output), Isolation::Committed);
    let mut ids: Vec<i64> = records.iter().map(|record| record.json()["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_record_on_which_an_expression_fails_stops_the_query_and_is_named() {
    let tables = Tables::new("failing-stops", 1);
    tables.produce(0, 0..10);
    let cluster = Highwater::start(1);
    cluster.submit("q", &two_inserts(&tables, "", "SELECT 100 / (id - 5) FROM t"));
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    let expected = format!(
        "table 't': {}-0 offset 5: division by zero: 100 / (id - 5); guard the expression (TRY_CAST, NULLIF, CASE), or \
         set on_bad_record = 'skip' or 'dead_letter'",
        tables.input
    );
    assert!(message.contains(&expected), "{message}");
    assert_eq!((tables.ids(), all_ids(&tables)), (vec![], vec![]));
}

#[test]
fn a_failing_record_amid_a_thousand_leaves_only_the_insert_where_it_fails() {
    let tables = Tables::new("failing-skips", 1);
    tables.produce(0, 0..1_001);
    let cluster = Highwater::start(1);
    let first = "SELECT id FROM t WHERE 100 / (id - 617) < 1000";
    cluster.submit("q", &two_inserts(&tables, "SET on_bad_record = 'skip';", first));
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids(), (0..1_001).filter(|id| *id != 617).collect::<Vec<_>>());
    assert_eq!(all_ids(&tables), (0..1_001).collect::<Vec<_>>());
    assert_eq!(counted(&cluster), 1);
    let warned = cluster.status("q")["warnings"].to_string();
    assert!(warned.contains("bad record"), "{warned}");
}

#[test]
fn a_record_that_fails_in_several_inserts_is_one_dead_letter() {
    let tables = Tables::new("failing-letters", 1);
    tables.produce(0, 0..5);
    let record = r#"{"id": 7, "name": "Zoë"}"#;
    tables.kafka.produce(&tables.input, [Message::new(record).key("k"), Message::new("not json")]);
    tables.produce(0, 8..12);
    let cluster = Highwater::start(1);
    let script = two_inserts(&tables, "SET on_bad_record = 'dead_letter';", "SELECT 100 / (id - 7) FROM t");
    cluster.submit("q", &script.replace("SELECT id FROM t", "SELECT id FROM t WHERE 1 / (7 - id) < 5"));
    cluster.wait_caught_up("q");
    let good: Vec<i64> = (0..5).chain(8..12).collect();
    assert_eq!((tables.ids().len(), all_ids(&tables)), (good.len(), good));
    assert_eq!(counted(&cluster), 2);
    let mut letters = dead_letters(&tables);
    letters.sort_by_key(|letter| header(letter, "highwater.offset"));
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[0].key_text().as_deref(), letters[0].text().as_deref()), (Some("k"), Some(record)));
    assert_eq!(header(&letters[0], "highwater.offset"), "5");
    assert_eq!(header(&letters[0], "highwater.error"), "division by zero: 100 / (id - 7)");
    assert_eq!(header(&letters[1], "highwater.offset"), "6");
}

#[test]
fn dead_letters_of_expressions_are_exact_when_an_executor_dies_of_them() {
    const RECORDS: i64 = 4_000;
    let tables = Tables::new("failing-crash", 2);
    tables.produce(0, 0..RECORDS / 2);
    tables.produce(1, RECORDS / 2..RECORDS);
    let mut cluster = Highwater::start(1);
    let doomed = cluster.add_executor(&[("HIGHWATER_CRASH_POINT", "executor_dead_letters:2".to_string())]);
    let settings = "SET on_bad_record = 'dead_letter'; SET max_offsets_per_trigger = 1000;";
    let first = "SELECT id FROM t WHERE 1 / (id % 100) < 2";
    cluster.submit("q", &two_inserts(&tables, settings, first));
    cluster.executor(doomed).wait(DEADLINE);
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids(), (0..RECORDS).filter(|id| id % 100 != 0).collect::<Vec<_>>());
    assert_eq!(all_ids(&tables), (0..RECORDS).collect::<Vec<_>>());
    let letter = |letter: &Record| letter.json()["id"].as_i64().unwrap();
    let mut ids: Vec<i64> = dead_letters(&tables).iter().map(letter).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..RECORDS).step_by(100).collect::<Vec<_>>());
    assert_eq!(counted(&cluster), RECORDS as u64 / 100);
}

#[test]
fn a_record_on_which_the_watermark_expression_fails_is_a_bad_record() {
    let tables = Tables::new("failing-watermark", 1);
    let name = |id: i64| if id == 3 { "soon".to_string() } else { format!("2026-01-01 00:00:0{id}") };
    tables.kafka.produce(&tables.input, (0..6).map(|id| Message::json(&json!({"id": id, "name": name(id)}))));
    let source = tables.source("").replace("ts TIMESTAMP(3),", "ts AS CAST(name AS TIMESTAMP(3)),");
    let cluster = Highwater::start(1);
    let insert = "INSERT INTO o SELECT id FROM t WHERE name <> ''";
    cluster.submit("q", &format!("SET on_bad_record = 'skip'; {source} {} {insert};", tables.sink("id BIGINT")));
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids(), [0, 1, 2, 4, 5]);
    assert_eq!(counted(&cluster), 1);
}
