//! Records that are not JSON, through real processes and a real Kafka: CSV and raw bytes, as values and as keys.

use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message, Record};
use serde_json::json;
use std::collections::BTreeMap;

/// `(columns) WITH (…)` of a table on a topic; `options` set the format.
fn table(name: &str, columns: &str, topic: &str, options: &str) -> String {
    let servers = KafkaCluster::shared().bootstrap_servers();
    format!(
        "CREATE TABLE {name} ({columns}) WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', {options});"
    )
}

fn topics<const N: usize>(names: [&'static str; N]) -> [&'static str; N] {
    names.iter().for_each(|name| KafkaCluster::shared().create_topic(name, 1));
    names
}

fn text(bytes: &Option<Vec<u8>>) -> Option<&str> {
    bytes.as_deref().map(|bytes| std::str::from_utf8(bytes).unwrap())
}

/// Committed records, as key and value.
fn records(topic: &str) -> Vec<Record> {
    KafkaCluster::shared().read_all(topic, Isolation::Committed)
}

fn values(topic: &str) -> Vec<String> {
    records(topic).iter().map(|record| text(&record.payload).unwrap().to_string()).collect()
}

/// The rows of a changelog by key, as text.
fn folded(topic: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for record in records(topic) {
        let key = text(&record.key).unwrap().to_string();
        match text(&record.payload) {
            Some(value) => rows.insert(key, value.to_string()),
            None => rows.remove(&key),
        };
    }
    rows
}

const COLUMNS: &str = "id BIGINT, name STRING, price DECIMAL(10, 2), at TIMESTAMP(3), bin BYTES";

#[test]
fn json_becomes_csv_and_csv_becomes_json_again() {
    let kafka = KafkaCluster::shared();
    let [json, csv, back] = topics(["formats-json", "formats-csv", "formats-back"]);
    let rows = [
        json!({"id": 1, "name": "a, \"b\"\n", "price": 1.5, "at": "2026-01-01T00:00:00.250", "bin": "AP8="}),
        json!({"id": 2, "name": "", "price": null, "at": null, "bin": null}),
        json!({"id": null, "name": null, "price": -0.01, "at": "1969-12-31T23:59:59", "bin": ""}),
    ];
    kafka.produce(json, rows.iter().map(Message::json));
    let cluster = Highwater::start(1);
    let style = "'format'='csv', 'csv.delimiter'=';'";
    let write = format!(
        "{} {} INSERT INTO o SELECT * FROM t;",
        table("t", COLUMNS, json, "'format'='json'"),
        table("o", COLUMNS, csv, style)
    );
    let read = format!(
        "{} {} INSERT INTO o SELECT * FROM t;",
        table("t", COLUMNS, csv, style),
        table("o", COLUMNS, back, "'format'='json'")
    );
    cluster.submit("write", &write);
    cluster.wait_caught_up("write");
    assert_eq!(
        values(csv),
        ["1;\"a, \"\"b\"\"\n\";1.50;2026-01-01T00:00:00.250;AP8=", "2;\"\";;;", ";;-0.01;1969-12-31T23:59:59;\"\""]
    );
    cluster.submit("read", &read);
    cluster.wait_caught_up("read");
    let again: Vec<_> = records(back).iter().map(Record::json).collect();
    assert_eq!(again, rows);
}

#[test]
fn raw_bytes_with_their_keys_and_records_without_value_are_copied_as_they_are() {
    let kafka = KafkaCluster::shared();
    let [input, output] = topics(["formats-raw-in", "formats-raw-out"]);
    let bytes = |value: &[u8]| Message::new(value.to_vec());
    kafka.produce(
        input,
        [
            bytes(b"\xff\x00,\"").key(b"k\xfe".to_vec()),
            bytes(b""),
            Message::tombstone("gone"),
            bytes(b"{}").key("").header("h", b"v".to_vec()),
        ],
    );
    let columns = "_key BYTES, payload BYTES";
    let cluster = Highwater::start(1);
    let sql = format!(
        "SET trigger = 'available_now'; {} {} INSERT INTO o SELECT _key, payload FROM t;",
        table("t", columns, input, "'format'='raw'"),
        table("o", columns, output, "'format'='raw'")
    );
    cluster.submit("q", &sql);
    cluster.wait_state("q", &["finished"]);
    let parts = |topic| records(topic).into_iter().map(|record| (record.key, record.payload)).collect::<Vec<_>>();
    assert_eq!(parts(output), parts(input));
    // Resumed where it stopped.
    kafka.produce(input, [bytes(b"more").key("k")]);
    cluster.ok(&["start", "q"]);
    cluster.wait("the new record", || (parts(output).len() == 5).then_some(()));
    cluster.wait_state("q", &["finished"]);
    assert_eq!(parts(output), parts(input));
}

#[test]
fn a_keyed_topic_in_csv_is_folded_and_written_with_its_deletions() {
    let kafka = KafkaCluster::shared();
    let [people, counts, copy, names] = topics(["formats-people", "formats-counts", "formats-copy", "formats-names"]);
    let person = |id: i64, country: &str, name: &str| {
        Message::new(format!("{name},{id},{country}")).key(format!("{country}|{id}"))
    };
    kafka.produce(
        people,
        [person(1, "NO", "Ann"), person(2, "NO", "Bo"), person(3, "SE", "\"C, D\""), Message::tombstone("NO|2")],
    );
    let keyed = "name STRING, id BIGINT, country STRING, PRIMARY KEY (country, id) NOT ENFORCED";
    let style = "'format'='csv', 'key.csv.delimiter'='|'";
    let per_country = "country STRING, n BIGINT, PRIMARY KEY (country) NOT ENFORCED";
    let cluster = Highwater::start(2);
    // Values without the key's columns; keys that are the bytes of a column; values that are.
    let sql = format!(
        "{} {} {} {}
         INSERT INTO counts SELECT country, count(*) FROM people GROUP BY country;
         INSERT INTO copy SELECT name, id, country FROM people;
         INSERT INTO names SELECT concat(country, CAST(id AS STRING)), name FROM people;",
        table("people", keyed, people, style),
        table("counts", per_country, counts, "'format'='csv', 'key.format'='raw', 'value.fields-include'='EXCEPT_KEY'"),
        table("copy", keyed, copy, style),
        table("names", "k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED", names, "'format'='raw'"),
    );
    cluster.submit("q", &sql);
    cluster.wait_caught_up("q");
    let of = |rows: &[(&str, &str)]| -> BTreeMap<String, String> {
        rows.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    };
    assert_eq!(folded(counts), of(&[("NO", "1"), ("SE", "1")]));
    assert_eq!(folded(copy), of(&[("NO|1", "Ann,1,NO"), ("SE|3", "\"C, D\",3,SE")]));
    assert_eq!(folded(names), of(&[("NO1", "Ann"), ("SE3", "C, D")]));
    kafka.produce(people, [Message::tombstone("SE|3"), person(1, "NO", "Ann-Marie")]);
    cluster.wait_caught_up("q");
    assert_eq!(folded(counts), of(&[("NO", "1")]));
    assert_eq!(folded(copy), of(&[("NO|1", "Ann-Marie,1,NO")]));
    assert_eq!(folded(names), of(&[("NO1", "Ann-Marie")]));
    assert!(records(counts).iter().any(|record| text(&record.key) == Some("SE") && record.payload.is_none()));
}

#[test]
fn key_and_value_columns_have_their_own_formats() {
    let kafka = KafkaCluster::shared();
    let [input, output] = topics(["formats-parts-in", "formats-parts-out"]);
    let with = |value: &str| Message::new(value.to_string());
    kafka.produce(input, [with("{\"n\":1}").key("eu;7"), with("{\"n\":2}"), with("{\"n\":3}").key("us;x")]);
    let sql = format!(
        "SET on_bad_record = 'skip'; {} {} INSERT INTO o SELECT region, shop, n, _offset FROM t;",
        table(
            "t",
            "region STRING, shop INT, n BIGINT",
            input,
            "'value.format'='json', 'value.fields-include'='EXCEPT_KEY', 'key.format'='csv', 'csv.delimiter'=';',
             'key.fields'='region;shop'"
        ),
        table(
            "o",
            "region STRING, shop INT, n BIGINT, place BIGINT",
            output,
            "'format'='csv', 'key.format'='json', 'key.fields'='shop, region'"
        )
    );
    let cluster = Highwater::start(1);
    cluster.submit("q", &sql);
    cluster.wait_caught_up("q");
    let found: Vec<_> = records(output)
        .iter()
        .map(|record| (text(&record.key).map(String::from), text(&record.payload).map(String::from)))
        .collect();
    let pair = |key: &str, value: &str| (Some(key.to_string()), Some(value.to_string()));
    assert_eq!(
        found,
        [pair("{\"shop\":7,\"region\":\"eu\"}", "eu,7,1,0"), pair("{\"shop\":null,\"region\":null}", ",,2,1")]
    );
    let warned = cluster.status("q")["warnings"].to_string();
    assert!(warned.contains("bad record"), "{warned}");
}

#[test]
fn a_record_that_is_not_csv_stops_the_query_is_skipped_or_becomes_a_dead_letter() {
    let kafka = KafkaCluster::shared();
    let [input, fail, skip, letters] =
        topics(["formats-bad", "formats-bad-fail", "formats-bad-skip", "formats-bad-letters"]);
    kafka.produce(input, ["1,a", "2", "x,b", "3,c"].map(|value| Message::new(value).key(format!("k{value}"))));
    kafka.produce(input, [Message::new("").key("empty"), Message::tombstone("gone"), Message::new("4,d")]);
    let sql = |on_bad: &str, output: &str| {
        format!(
            "SET on_bad_record = '{on_bad}'; {} {} INSERT INTO o SELECT id FROM t;",
            table("t", "id INT, name STRING", input, "'format'='csv'"),
            table("o", "id INT", output, "'format'='csv'")
        )
    };
    let cluster = Highwater::start(1);
    cluster.submit("fail", &sql("fail", fail));
    cluster.submit("skip", &sql("skip", skip));
    cluster.submit("letters", &sql("dead_letter", letters));
    let status = cluster.wait_state("fail", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("offset 1") && message.contains("1 field, but 2 columns are declared"), "{message}");
    assert!(values(fail).is_empty());
    for (query, output) in [("skip", skip), ("letters", letters)] {
        cluster.wait_caught_up(query);
        assert_eq!(values(output), ["1", "3", "4"], "{query}");
    }
    let dead = records(&format!("{input}-dead-letters"));
    let found: Vec<_> = dead.iter().map(|record| (text(&record.key).unwrap(), text(&record.payload))).collect();
    assert_eq!(found, [("k2", Some("2")), ("kx,b", Some("x,b")), ("empty", Some("")), ("gone", None)]);
    let reasons: Vec<String> = dead
        .iter()
        .map(|record| {
            let error = record.headers.iter().find(|(name, _)| name == "highwater.error").unwrap();
            text(&error.1).unwrap().to_string()
        })
        .collect();
    assert!(reasons[1].starts_with("column 'id': expected INT, found 'x'"), "{reasons:?}");
    assert!(reasons[2] == "the record is empty" && reasons[3].contains("tombstone"), "{reasons:?}");
}

#[test]
fn a_keyed_row_that_cannot_be_a_record_stops_the_query() {
    let kafka = KafkaCluster::shared();
    let [input, output] = topics(["formats-null-in", "formats-null-out"]);
    kafka.produce(input, [Message::json(&json!({"k": "a", "v": null}))]);
    let sql = format!(
        "{} {} INSERT INTO o SELECT k, v FROM t;",
        table("t", "k STRING, v STRING", input, "'format'='json'"),
        table("o", "k STRING, v STRING, PRIMARY KEY (k) NOT ENFORCED", output, "'format'='raw'")
    );
    let cluster = Highwater::start(1);
    cluster.submit("q", &sql);
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("NULL as the whole value") && message.contains("filter"), "{message}");
    assert!(records(output).is_empty());
}

#[test]
fn late_rows_of_a_csv_table_go_to_their_topic() {
    let kafka = KafkaCluster::shared();
    let [input, output, late] = topics(["formats-late-in", "formats-late-out", "formats-late"]);
    let columns = "id BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts";
    let options = format!("'format'='csv', 'late_topic'='{late}'");
    let sql = format!(
        "{} {} INSERT INTO o SELECT window_end, count(*)
           FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;",
        table("t", columns, input, &options),
        table("o", "window_end TIMESTAMP(3), n BIGINT", output, "'format'='csv'")
    );
    kafka.produce(input, ["1,2026-01-01T00:00:30", "2,2026-01-01T00:02:00"].map(Message::new));
    let cluster = Highwater::start(1);
    cluster.submit("q", &sql);
    cluster.wait("the first window", || (!records(output).is_empty()).then_some(()));
    kafka.produce(input, [Message::new("3,2026-01-01T00:00:40")]);
    cluster.wait_caught_up("q");
    assert_eq!(values(output), ["2026-01-01T00:01:00,1"]);
    let late = values(late);
    assert!(late.len() == 1 && late[0].contains("\"window_end\":\"2026-01-01T00:01:00\""), "{late:?}");
}
