//! Windows of an hour with millions of keys: how fast batches are with all of that state, and how long it takes until
//! the state of a killed executor is restored.

use crate::nexmark::kept;
use crate::throughput::{sink, source, span_seconds};
use crate::usage;
use highwater_testkit::{Highwater, KafkaCluster, Message};
use serde_json::Value;
use std::time::{Duration, Instant};

const TOPIC: &str = "state-in";
const PARTITIONS: u64 = 8;
/// 2026-01-01T00:00:00Z, milliseconds.
const START_MS: u64 = 1_767_225_600_000;
/// Event time of the whole topic: two and a half windows.
const SPAN_MS: u64 = 9_000_000;
/// Makes the order of keys independent of their numbers.
const STRIDE: u64 = 7_919;
/// How often to check the progress of the query.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn measure(kafka: &KafkaCluster, records: u64, keys: u64) {
    fill(kafka, records, keys);
    for (what, killed) in [("undisturbed", false), ("one of two executors killed", true)] {
        query(kafka, records, keys, what, killed);
    }
}

/// Writes every key `records / keys` times, evenly over event time.
fn fill(kafka: &KafkaCluster, records: u64, keys: u64) {
    kafka.create_topic(TOPIC, PARTITIONS as i32);
    kafka.produce(
        TOPIC,
        (0..records).map(|i| {
            let payload = format!(
                r#"{{"id":{i},"ts":{},"user":"user-{}","amount":{}.5}}"#,
                START_MS + i * SPAN_MS / records,
                i.wrapping_mul(STRIDE) % keys,
                i % 1_000
            );
            Message::new(payload).partition((i % PARTITIONS) as i32)
        }),
    );
}

fn query(kafka: &KafkaCluster, records: u64, keys: u64, what: &str, kill: bool) {
    let (name, output) = (format!("state-{kill}"), format!("state-out-{kill}"));
    kafka.create_topic(&output, PARTITIONS as i32);
    let mut cluster = crate::start(if kill { 2 } else { 1 });
    let sql = format!(
        "{} {} INSERT INTO o SELECT window_start, user, count(*), sum(amount), max(amount)
           FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start, window_end, user;",
        source(kafka, TOPIC, "SET trigger = 'available_now'; SET max_offsets_per_trigger = 200000;"),
        sink(kafka, &output, "window_start TIMESTAMP(3), user STRING, n BIGINT, total DOUBLE, most DOUBLE"),
    );
    cluster.submit(&name, &sql);
    let pause = kill.then(|| kill_at_half(&mut cluster, &name, records));
    let batches = cluster.ok(&["progress", &name, "--last", "1000000", "--follow", "--json"]);
    let batches: Vec<Value> = batches.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cluster.status(&name)["state"], "finished");
    let read: u64 = batches.iter().filter_map(|batch| batch["numInputRows"].as_u64()).sum();
    assert_eq!(read, records, "rows read");
    let out: i64 = batches.iter().filter_map(|batch| batch["sink"]["numOutputRows"].as_i64()).sum();
    // Two windows are closed, and every key was in each.
    assert_eq!(out as u64, 2 * keys, "rows written");
    let kept = |field: &str| batches.iter().map(|batch| kept(batch, field)).max().unwrap_or(0);
    let mut durations: Vec<i64> = batches.iter().filter_map(|batch| batch["batchDuration"].as_i64()).collect();
    durations.sort_unstable();
    println!(
        "hour windows over {keys} keys, {what}: {:.2} million records/s, at most {} rows of state in {} MiB; {} batches, \
         median {} ms, longest {} ms (a window of all keys closes)",
        records as f64 / span_seconds(&batches) / 1e6,
        kept("numRowsTotal"),
        kept("memoryUsedBytes") / 1_048_576,
        batches.len(),
        durations[durations.len() / 2],
        durations.last().unwrap()
    );
    if let Some(pause) = pause {
        println!("    next commit {:.2} s after SIGKILL, half of the state moved", pause.as_secs_f64());
    }
    for (process, cpu, peak) in usage::of(&cluster) {
        println!("    {process}: {:.2} CPU s per million records, peak {peak} MiB", cpu / records as f64 * 1e6);
    }
}

/// Kills an executor when half of the records are committed. Returns the time until the next commit.
fn kill_at_half(cluster: &mut Highwater, name: &str, records: u64) -> Duration {
    let committed = |cluster: &Highwater| -> (u64, u64) {
        let batches = cluster.progress(name);
        (batches.len() as u64, batches.iter().filter_map(|batch| batch["numInputRows"].as_u64()).sum())
    };
    while committed(cluster).1 < records / 2 {
        std::thread::sleep(LOOK_EVERY);
    }
    cluster.kill_executor(1);
    let (began, (before, _)) = (Instant::now(), committed(cluster));
    while committed(cluster).0 == before {
        std::thread::sleep(LOOK_EVERY);
    }
    began.elapsed()
}
