//! Nexmark: all queries return what DuckDB returns, on one executor and on three of which one is killed; and the
//! command that runs them.

use crate::nexmark_check::Check;
use highwater::bench::nexmark::events::Settings;
use highwater::bench::nexmark::queries::{Places, QUERIES, Query};
use highwater_testkit::{Highwater, KafkaCluster, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A hundred thousand events in a thousand seconds, over midnight.
const SETTINGS: Settings = Settings { events: 100_000, events_per_second: 100, partitions: 4 };
const EVENTS: &str = "nexmark-it";
/// Longest wait for a query, while 23 others run.
const PATIENCE: Duration = Duration::from_secs(400);

/// Runs all queries at once; their results are saved as `run`.
fn run_all(check: &Check, run: &str, executors: usize, kill: bool) {
    let kafka = KafkaCluster::shared();
    let places = Places {
        bootstrap_servers: kafka.bootstrap_servers().into(),
        events: EVENTS.into(),
        results: format!("{EVENTS}-{run}"),
        side_input: check.side_input(),
        batch_records: Some(25_000),
    };
    let topics = QUERIES.map(|query| format!("{}-{}", places.results, query.name));
    kafka.create_topics(&topics.each_ref().map(String::as_str), 3);
    let mut cluster = Highwater::start(0);
    let submit = |query: &Query| cluster.submit(query.name, &query.script_at(&places));
    std::thread::scope(|scope| {
        for some in QUERIES.chunks(6) {
            scope.spawn(move || some.iter().for_each(submit));
        }
    });
    // All begin together, so that all are running when an executor is killed.
    for _ in 0..executors {
        cluster.add_executor(&[]);
    }
    if kill {
        let (mut committed, mut finished) = (0, 0);
        cluster.wait("some commits", || {
            let all = cluster.json(&["ls"]);
            let all = all.as_array()?;
            committed = all.iter().filter(|query| query["batchId"].is_u64()).count();
            finished = all.iter().filter(|query| query["state"] == "finished").count();
            (committed >= 8).then_some(())
        });
        assert!(finished < 12, "{finished} queries are through before the kill: it proves little");
        cluster.kill_executor(1);
    }
    for (query, topic) in QUERIES.iter().zip(&topics) {
        wait_for(&format!("{run}: {}", query.name), PATIENCE, || {
            let status = cluster.status(query.name);
            assert_ne!(status["state"], "failed", "{status}\n{}", cluster.logs());
            (status["state"] == "finished").then_some(())
        });
        check.save_result(kafka, topic, run, query.name);
    }
}

#[test]
fn all_queries_equal_duckdb_on_one_executor_and_on_three_with_one_killed() {
    let check = Check::new();
    check.write_events(KafkaCluster::shared(), EVENTS, SETTINGS);
    run_all(&check, "one", 1, false);
    run_all(&check, "three", 3, true);
    let verdicts = check.compare(&["one", "three"]);
    let wrong: Vec<String> = verdicts.iter().filter(|one| one["wrong"] != Value::Null).map(Value::to_string).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(verdicts.len(), 2 * QUERIES.len(), "{verdicts:?}");
    for verdict in &verdicts {
        assert!(verdict["rows"].as_u64().unwrap() > 0, "nothing was compared: {verdict}");
    }
}

#[test]
fn the_comparison_notices_what_differs() {
    let check = Check::new();
    let settings = Settings { events: 2_000, ..SETTINGS };
    check.write_events(KafkaCluster::shared(), "nexmark-it-small", settings);
    let bids = std::fs::read_to_string(check.events().join("bid.json")).unwrap();
    let bids: Vec<Value> = bids.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pass = |bid: &Value| {
        let time = bid["dateTime"].as_str().unwrap().replace(' ', "T");
        let value = json!({"auction": bid["auction"], "bidder": bid["bidder"], "price": bid["price"],
            "dateTime": time, "extra": bid["extra"]});
        json!({"p": 0, "o": 0, "k": null, "v": value})
    };
    let right: Vec<Value> = bids.iter().map(pass).collect();
    let changed = |field: &str, value: Value| {
        let mut rows = right.clone();
        rows[7]["v"][field] = value;
        rows
    };
    let mut named = right.clone();
    named[7]["v"].as_object_mut().unwrap().remove("extra");
    let runs = [
        ("right", right.clone()),
        ("short", right[1..].to_vec()),
        ("double", right.iter().chain(&right[..1]).cloned().collect()),
        ("price", changed("price", json!(1))),
        ("time", changed("dateTime", json!("2025-12-31T23:50:00.001"))),
        ("null", changed("extra", Value::Null)),
        ("fields", named),
    ];
    for (run, rows) in &runs {
        check.make_result(run, "q0", &rows.iter().map(Value::to_string).collect::<Vec<_>>());
    }
    let keyed = |offset: usize, key: &Value, value: Value| {
        json!({"p": 0, "o": offset, "k": json!({"bidder": key}).to_string(), "v": value}).to_string()
    };
    let count = |bidder: &Value, count: usize| {
        let (starttime, endtime) = ("2026-01-01T00:00:00", "2026-01-01T00:00:10");
        json!({"bidder": bidder, "bid_count": count, "starttime": starttime, "endtime": endtime})
    };
    let mut bidders: BTreeMap<u64, usize> = BTreeMap::new();
    bids.iter().for_each(|bid| *bidders.entry(bid["bidder"].as_u64().unwrap()).or_default() += 1);
    // Each is first written wrong and then right.
    let mut folded = Vec::new();
    for (number, (bidder, bids)) in bidders.iter().enumerate() {
        let bidder = json!(bidder);
        folded.push(keyed(2 * number, &bidder, count(&bidder, 0)));
        folded.push(keyed(2 * number + 1, &bidder, count(&bidder, *bids)));
    }
    check.make_result("right", "q12", &folded);
    folded.push(keyed(folded.len(), &json!(bidders.keys().next()), Value::Null));
    check.make_result("short", "q12", &folded);
    let names: Vec<&str> = runs.iter().map(|(run, _)| *run).collect();
    let verdicts = check.compare(&names);
    assert_eq!(verdicts.len(), names.len() + 2, "{verdicts:?}");
    for verdict in verdicts {
        assert_eq!(verdict["wrong"].is_null(), verdict["results"] == "right", "{verdict}");
    }
}

#[test]
fn the_command_runs_queries_on_its_own_cluster_and_cleans_up() {
    let kafka = KafkaCluster::shared();
    let cluster = Highwater::stopped();
    let bench = |args: &[&str]| {
        let mut all = vec!["bench", "nexmark", "--bootstrap-servers", kafka.bootstrap_servers()];
        all.extend(args);
        cluster.command(&all).env_remove("HIGHWATER_DRIVER").output().unwrap()
    };
    let output = bench(&["--query", "q0,q4", "--events", "3000", "--partitions", "2", "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let queries = report["queries"].as_array().unwrap();
    assert_eq!(queries.len(), 2, "{report}");
    assert_eq!((&queries[0]["query"], &queries[0]["events"]), (&"q0".into(), &2_760.into()), "{report}");
    assert_eq!(queries[0]["outputRows"], 2_760, "{report}");
    assert_eq!((&queries[1]["query"], &queries[1]["events"]), (&"q4".into(), &2_940.into()), "{report}");
    let prefix = stderr.split("written to topics ").nth(1).and_then(|rest| rest.split("-*").next()).unwrap();
    let left: Vec<String> = kafka.topics().into_iter().filter(|topic| topic.starts_with(prefix)).collect();
    assert!(left.is_empty(), "{left:?}");

    let output = bench(&["--query", "q3", "--events", "500", "--keep"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("EVENTS/S") && stdout.contains("q3"), "{stdout}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let kept = stderr.split("topics kept: ").nth(1).unwrap().trim();
    for topic in kept.split(", ") {
        assert!(kafka.topics().contains(topic), "{topic} is not there: {stderr}");
        kafka.delete_topic(topic);
    }
}

#[test]
fn the_command_reports_its_errors() {
    let cluster = Highwater::stopped();
    let run = |args: &[&str]| {
        let mut all = vec!["bench", "nexmark"];
        all.extend(args);
        let output = cluster.command(&all).env_remove("HIGHWATER_DRIVER").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, stderr) = run(&["--query", "q99"]);
    assert!(code == Some(2) && stderr.contains("unknown query 'q99': write q0 to q23, or all"), "{stderr}");
    let (code, _, stderr) = run(&["--bootstrap-servers", "127.0.0.1:1", "--events", "10"]);
    assert!(code == Some(1) && stderr.contains("no Kafka answers at 127.0.0.1:1"), "{stderr}");
    let (code, _, stderr) = run(&["--driver", "http://127.0.0.1:1", "--executors", "2"]);
    assert!(code == Some(2) && stderr.contains("leave out one of them"), "{stderr}");
    let (code, stdout, _) = run(&["--print-sql", "q5"]);
    assert!(code == Some(0) && stdout.contains("TABLE(HOP(TABLE bid, DESCRIPTOR(dateTime)"), "{stdout}");
    assert!(stdout.contains("CREATE TABLE person"), "{stdout}");
}
