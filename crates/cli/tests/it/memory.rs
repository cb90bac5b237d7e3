//! Rows that a query creates count as its memory: they stop the query, never the executor.

use crate::table::Tables;
use highwater_testkit::{Highwater, Message};
use serde_json::json;

const KEYED: &str = "id BIGINT, name STRING, PRIMARY KEY (id) NOT ENFORCED";
const NEWEST: &str = "INSERT INTO o SELECT id, name FROM (
      SELECT id, name, row_number() OVER (PARTITION BY id ORDER BY ts DESC) AS r FROM t) WHERE r = 1;";

#[test]
fn growing_rows_stop_their_query_and_no_other() {
    let tables = Tables::new("grows", 1);
    let mut cluster = Highwater::start(0);
    let executor = cluster.add_executor_with(&[], &["--slots", "1", "--query-memory", "2MB"]);
    let script = |columns: &str, select: &str| format!("{} {} {select}", tables.source(""), tables.sink(columns));
    let scripts = [
        ("value", script("id BIGINT, x STRING", "INSERT INTO o SELECT id, repeat(name, id) FROM t;"), 2_000_000_000),
        (
            "unnested",
            script("id BIGINT, e BIGINT", "INSERT INTO o SELECT id, e FROM t CROSS JOIN UNNEST(range(id)) AS u(e);"),
            1_000_000,
        ),
        ("waiting", format!("SET trigger = 'once'; {}", script(KEYED, NEWEST)), 30_000),
    ];
    let refused =
        cluster.file("refused.sql", &script("x STRING", "INSERT INTO o SELECT repeat('a', 2000000000) FROM t;"));
    let output = cluster.run(&["submit", &refused]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("repeat makes a constant of 2000000000 bytes"), "{stderr}");

    let expected =
        ["repeat makes a value of 2000000000 bytes", "UNNEST", "the rows that wait for operator 0 (deduplicate"];
    for ((name, script, id), expected) in scripts.iter().zip(expected) {
        tables.recreate();
        let (ids, text) = if *name == "waiting" { (0..*id, "x".repeat(200)) } else { (*id..*id + 1, "x".into()) };
        let message = |id: i64| Message::json(&json!({"id": id, "name": text})).partition(0);
        tables.kafka.produce(&tables.input, ids.map(message));
        cluster.submit(name, script);
        let status = cluster.wait_state(name, &["failed"]);
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(*name == "value" || message.contains("--query-memory"), "{name}: {message}");
    }
    assert_eq!(tables.rows().len(), 0);
    let other = Tables::on(tables.kafka, "grows-other", 1);
    cluster.submit("other", &other.copy("", ""));
    other.produce(0, 0..10);
    cluster.wait("the other query's rows", || (other.ids().len() == 10).then_some(()));
    assert!(cluster.executor(executor).is_running());
}
