//! `checkpoint state`: the rows that operators keep, read from the folder of a driver that has ended.

use highwater_checkpoint::CheckpointStore;
use highwater_testkit::highwater::DEADLINE;
use highwater_testkit::{Highwater, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Orders with what was paid for them within an hour, by customer.
fn script(kafka: &KafkaCluster) -> String {
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    format!(
        "CREATE TABLE orders (id BIGINT, customer STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) {};
         CREATE TABLE payments (order_id BIGINT, amount DECIMAL(10, 2), ts TIMESTAMP(3),
           WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) {};
         CREATE TABLE totals (customer STRING, orders BIGINT, paid DECIMAL(20, 2), PRIMARY KEY (customer) NOT ENFORCED) {};
         INSERT INTO totals SELECT customer, count(*), sum(amount)
         FROM orders LEFT JOIN payments
           ON orders.id = payments.order_id AND payments.ts BETWEEN orders.ts AND orders.ts + INTERVAL '1' HOUR
         GROUP BY customer;",
        with("state-orders"),
        with("state-payments"),
        with("state-totals")
    )
}

/// A data folder with a checkpoint, and no driver on it.
fn stopped_cluster() -> Highwater {
    let kafka = KafkaCluster::shared();
    ["state-orders", "state-payments", "state-totals"].iter().for_each(|topic| kafka.create_topic(topic, 1));
    let order = |id: i64, customer: &str, second: u32| {
        Message::json(&json!({"id": id, "customer": customer, "ts": format!("2026-01-01T00:00:{second:02}")}))
    };
    let orders = [order(1, "ada", 1), order(2, "ada", 2), order(3, "bob", 3)];
    kafka.produce("state-orders", orders.map(|message| message.partition(0)));
    let payment = json!({"order_id": 1, "amount": 9.5, "ts": "2026-01-01T00:00:04"});
    kafka.produce("state-payments", [Message::json(&payment).partition(0)]);
    let mut cluster = Highwater::start(1);
    cluster.submit("q", &script(kafka));
    cluster.wait_caught_up("q");
    cluster.ok(&["stop", "q"]);
    cluster.wait_state("q", &["stopped"]);
    cluster.driver().terminate();
    cluster.driver().wait(DEADLINE);
    cluster
}

fn failure(cluster: &Highwater, args: &[&str]) -> String {
    let output = cluster.run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The content of all files below a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(files(&entry)),
            false => drop(found.insert(entry.display().to_string(), std::fs::read(&entry).unwrap())),
        }
    }
    found
}

#[test]
fn rows_of_a_checkpoint_are_shown_to_people_and_machines() {
    let cluster = stopped_cluster();
    let data = cluster.data_dir();
    let folder = data.to_str().unwrap();
    let state = |more: &[&'static str]| -> Vec<&str> {
        ["checkpoint", "state", "q", "--data-dir", folder].into_iter().chain(more.iter().copied()).collect()
    };
    let before = ["blobs", "marks"].map(|folder| files(&data.join(folder)));

    let listed = cluster.json(&state(&[]));
    let sizes: Vec<u64> = listed.as_array().unwrap().iter().map(|one| one["bytes"].as_u64().unwrap()).collect();
    assert_eq!(
        listed,
        json!([
            {"operator": 0, "kind": "join", "keeps": "the rows of both sides, with how many match", "entries": 4, "bytes": sizes[0]},
            {"operator": 1, "kind": "retracting aggregate", "keeps": "groups", "entries": 2, "bytes": sizes[1]},
        ])
    );
    assert!(sizes.iter().all(|bytes| *bytes > 0), "{sizes:?}");
    let text = cluster.ok(&state(&[]));
    assert!(text.contains("ENTRIES") && text.contains("retracting aggregate"), "{text}");

    let lines = |more: &[&'static str]| -> Vec<Value> {
        let text = cluster.ok(&state(&[more, &["--json"]].concat()));
        let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Shards are by hash.
        rows.iter_mut().for_each(|row| assert!(row.as_object_mut().unwrap().shift_remove("_shard").unwrap().is_u64()));
        rows.sort_by_key(Value::to_string);
        rows
    };
    let left = |id: i64, customer: &str, matches: i64| {
        json!({"_part": "left rows", "id": id, "customer": customer, "ts": format!("2026-01-01T00:00:0{id}"),
            "_weight": 1, "_matches": matches, "_closes_at": format!("2026-01-01T01:00:0{id}.001Z"), "_expires_at": null})
    };
    let right = json!({"_part": "right rows", "order_id": 1, "amount": 9.5, "ts": "2026-01-01T00:00:04",
        "_weight": 1, "_closes_at": "2026-01-01T00:00:04.001Z", "_expires_at": null});
    let rows = lines(&["--operator", "0"]);
    assert_eq!(rows, [left(1, "ada", 1), left(2, "ada", 0), left(3, "bob", 0), right]);
    assert_eq!(lines(&["--operator", "0", "--key", "2"]), [left(2, "ada", 0)]);
    assert_eq!(lines(&["--operator", "0", "--limit", "0"]), rows);
    let sums: Vec<(String, Value)> = lines(&["--operator", "1"])
        .iter()
        .map(|row| (row["customer"].to_string(), row.as_object().unwrap().values().skip(2).cloned().collect()))
        .collect();
    assert_eq!(
        sums,
        [(r#""ada""#.into(), json!([2, 9.5, 2, null, null])), (r#""bob""#.into(), json!([1, null, 1, null, null]))]
    );

    let text = cluster.ok(&state(&["--operator", "0"]));
    for part in ["left rows (3)", "right rows (1)", "_matches", "2026-01-01T01:00:03.001Z", "9.50"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("_expires_at"), "nothing expires:\n{text}");
    let limited = cluster.run(&state(&["--operator", "0", "--limit", "1"]));
    assert!(String::from_utf8_lossy(&limited.stdout).contains("rows (1)"));
    assert!(String::from_utf8_lossy(&limited.stderr).contains("--limit 0"));

    let unknown = failure(&cluster, &state(&["--operator", "7"]));
    assert!(unknown.contains("0 (join), 1 (retracting aggregate)"), "{unknown}");
    assert!(failure(&cluster, &state(&["--batch", "99"])).contains("batch 99"));
    assert_eq!(["blobs", "marks"].map(|folder| files(&data.join(folder))), before);
    cluster.ok(&["checkpoint", "verify", "q", "--data-dir", folder]);

    {
        // As if a later version planned the script otherwise.
        let store = CheckpointStore::open(&data).unwrap();
        let epoch = store.claim_epoch().unwrap();
        let mut spec = store.query_by_name("q").unwrap().unwrap();
        spec.sql = spec.sql.replace("LEFT JOIN", "JOIN");
        store.put_query(epoch, &spec).unwrap();
    }
    let refused = failure(&cluster, &state(&["--operator", "0"]));
    assert!(refused.contains("a different plan") && refused.contains("operator 0 (join)"), "{refused}");
}
