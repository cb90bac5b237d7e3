//! Records that do not fit: the query stops and names the place, or skips and counts, and loses nothing else.

use crate::table::Tables;
use highwater_testkit::{Highwater, Isolation, Message};
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
    let progress = cluster.progress("q");
    let bad: u64 = progress.iter().map(|batch| batch["numBadRecords"].as_u64().unwrap()).sum();
    assert_eq!(bad, 3);
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
    let letters = tables.kafka.read_all(&format!("{}-dead-letters", tables.input), Isolation::Committed);
    let texts: Vec<_> = letters.iter().map(|letter| (letter.key.as_deref(), letter.payload.as_deref())).collect();
    assert_eq!(texts, [(Some(&b"k"[..]), Some(&b"not json"[..])), (Some(&b"gone"[..]), None)]);
    let header = |letter: usize, name: &str| {
        let found = letters[letter].headers.iter().find(|(key, _)| key == name);
        String::from_utf8(found.and_then(|(_, value)| value.clone()).unwrap()).unwrap()
    };
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
