//! Nexmark: every query on one executor, and on three of which one is killed; the answers are compared with DuckDB's.

use crate::nexmark_check::Check;
use crate::usage;
use highwater::bench::nexmark::events::Settings;
use highwater::bench::nexmark::queries::{Places, QUERIES, Query};
use highwater_testkit::{Highwater, KafkaCluster};
use serde_json::Value;
use std::time::{Duration, Instant};

const EVENTS: &str = "nexmark-bench";
const PARTITIONS: u32 = 8;
/// How often to check whether the first micro-batch is committed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Measures the queries in `only`, or all if it is empty.
pub fn measure(kafka: &KafkaCluster, events: u64, only: &[String]) {
    let check = Check::new();
    let began = Instant::now();
    check.write_events(kafka, EVENTS, Settings { events, events_per_second: 10_000, partitions: PARTITIONS });
    println!("Nexmark: {events} events written in {:.1} s", began.elapsed().as_secs_f64());
    let mut wrong = 0;
    for query in QUERIES.into_iter().filter(|query| only.is_empty() || only.iter().any(|name| name == query.name)) {
        for executors in [1, 3] {
            let verdict = run(kafka, &check, query, executors);
            wrong += usize::from(!verdict);
        }
    }
    assert_eq!(wrong, 0, "{wrong} results are not DuckDB's");
}

/// Runs one query and prints a line about it. Returns true if its result is right.
fn run(kafka: &KafkaCluster, check: &Check, query: Query, executors: usize) -> bool {
    let name = query.name;
    let places = Places {
        bootstrap_servers: kafka.bootstrap_servers().into(),
        events: EVENTS.into(),
        results: format!("{EVENTS}-{executors}"),
        side_input: check.side_input(),
        batch_records: None,
    };
    let topic = format!("{}-{name}", places.results);
    kafka.create_topic(&topic, PARTITIONS as i32);
    let mut cluster = crate::start(executors);
    let began = Instant::now();
    cluster.submit(name, &query.script_at(&places));
    let killed = executors > 1 && kill_after_first_commit(&mut cluster, name);
    // Ends with the query.
    let batches = cluster.ok(&["progress", name, "--last", "1000000", "--follow", "--json"]);
    let took = began.elapsed().as_secs_f64();
    let status = cluster.status(name);
    assert_eq!(status["state"], "finished", "{status}");
    let batches: Vec<Value> = batches.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let total = |of: &dyn Fn(&Value) -> Option<u64>| batches.iter().filter_map(of).sum::<u64>();
    let input = total(&|batch| batch["numInputRows"].as_u64());
    let output = total(&|batch| batch["sink"]["numOutputRows"].as_u64());
    let kept = |field: &str| batches.iter().map(|batch| kept(batch, field)).max().unwrap_or(0);
    let peaks: Vec<u64> = usage::of(&cluster).into_iter().map(|(_, _, peak)| peak).collect();
    let (driver, executor) = (peaks[0], peaks[1..].iter().max().unwrap_or(&0));
    drop(cluster);

    check.save_result(kafka, &topic, "result", name);
    kafka.delete_topic(&topic);
    let verdict = check.compare(&["result"]).pop().unwrap();
    check.forget("result");
    println!(
        "{name} on {executors} executors{}: {input} events in {took:.1} s, {:.0} events/s, {output} rows written in {} \
         batches; at most {} rows of state in {} MiB, driver {driver} MiB, largest executor {executor} MiB; {}",
        if killed { ", one killed" } else { "" },
        input as f64 / took,
        batches.len(),
        kept("numRowsTotal"),
        kept("memoryUsedBytes") / 1_048_576,
        match &verdict["wrong"] {
            Value::Null if verdict["rows"] == 0 => "no row in either answer: too few events to tell".to_string(),
            Value::Null => format!("{} rows equal DuckDB's", verdict["rows"]),
            wrong => format!("NOT equal to DuckDB: {wrong}"),
        }
    );
    verdict["wrong"].is_null()
}

/// Sum of `field` over all operators after a batch.
pub fn kept(batch: &Value, field: &str) -> u64 {
    batch["stateOperators"].as_array().unwrap().iter().filter_map(|operator| operator[field].as_u64()).sum()
}

/// Kills the second executor after the first commit. Returns false if the query finished before.
fn kill_after_first_commit(cluster: &mut Highwater, name: &str) -> bool {
    loop {
        let status = cluster.status(name);
        assert_ne!(status["state"], "failed", "{status}");
        if status["state"] == "finished" {
            return false;
        }
        if status["batchId"].is_u64() {
            cluster.kill_executor(1);
            return true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
