//! Records per second and CPU seconds per million records: a filter and a tumbling count, next to a plain consumer.

use crate::usage;
use highwater_testkit::{KafkaCluster, Message};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde_json::Value;
use std::time::{Duration, Instant};

pub const TOPIC: &str = "bench-in";
const PARTITIONS: i32 = 8;
/// 2026-01-01T00:00:00Z, milliseconds.
const START_MS: u64 = 1_767_225_600_000;

pub fn measure(kafka: &KafkaCluster, records: u64) {
    fill(kafka, records);
    drain(kafka, records);
    for executors in [1, 2] {
        query(kafka, records, executors, "filter", &filter_sql(kafka, executors));
        query(kafka, records, executors, "tumbling count", &tumble_sql(kafka, executors));
    }
}

/// Writes records of 220 bytes of JSON.
fn fill(kafka: &KafkaCluster, records: u64) {
    kafka.create_topic(TOPIC, PARTITIONS);
    let began = Instant::now();
    let mut size = 0;
    kafka.produce(
        TOPIC,
        (0..records).map(|i| {
            let head = format!(
                r#"{{"id":{i},"ts":{},"user":"user-{}","kind":"{}","amount":{}.25"#,
                START_MS + i / 10,
                i % 10_000,
                ["view", "click", "buy", "leave"][(i % 4) as usize],
                i % 1_000
            );
            let pad = "x".repeat(220_usize.saturating_sub(head.len() + 10));
            let payload = format!(r#"{head},"pad":"{pad}"}}"#);
            size = payload.len();
            Message::new(payload).partition((i % PARTITIONS as u64) as i32)
        }),
    );
    println!("produced {records} records of {size} bytes in {:.1} s", began.elapsed().as_secs_f64());
}

fn drain(kafka: &KafkaCluster, records: u64) {
    let mut config = kafka.client_config();
    config
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", "65536");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    }
    let (began, cpu) = (Instant::now(), usage::cpu_seconds(std::process::id()));
    consumer.assign(&list).unwrap();
    let (mut seen, mut bytes) = (0, 0_usize);
    while seen < records {
        if let Some(Ok(message)) = consumer.poll(Duration::from_secs(1)) {
            seen += 1;
            bytes += message.payload().map_or(0, <[u8]>::len);
        }
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), usage::cpu_seconds(std::process::id()) - cpu);
    println!(
        "bare drain: {:.2} million records/s ({} MB), {:.2} CPU s per million",
        records as f64 / took / 1e6,
        bytes / 1_000_000,
        cpu / records as f64 * 1e6
    );
}

pub fn source(kafka: &KafkaCluster, topic: &str, settings: &str) -> String {
    format!(
        "{settings}
        CREATE TABLE events (id BIGINT, ts TIMESTAMP(3), user STRING, kind STRING, amount DOUBLE,
            WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
          WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{}', 'format'='json');",
        kafka.bootstrap_servers()
    )
}

pub fn sink(kafka: &KafkaCluster, topic: &str, columns: &str) -> String {
    format!(
        "CREATE TABLE o ({columns})
          WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{}', 'format'='json');",
        kafka.bootstrap_servers()
    )
}

fn filter_sql(kafka: &KafkaCluster, executors: usize) -> String {
    format!(
        "{} {} INSERT INTO o SELECT id, user, amount FROM events WHERE amount >= 900;",
        source(kafka, TOPIC, "SET trigger = 'available_now';"),
        sink(kafka, &format!("bench-filter-{executors}"), "id BIGINT, user STRING, amount DOUBLE"),
    )
}

fn tumble_sql(kafka: &KafkaCluster, executors: usize) -> String {
    format!(
        "{} {} INSERT INTO o SELECT window_start, kind, count(*), sum(amount)
           FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end, kind;",
        source(kafka, TOPIC, "SET trigger = 'available_now';"),
        sink(
            kafka,
            &format!("bench-tumble-{executors}"),
            "window_start TIMESTAMP(3), kind STRING, n BIGINT, total DOUBLE"
        ),
    )
}

fn query(kafka: &KafkaCluster, records: u64, executors: usize, what: &str, sql: &str) {
    kafka.create_topic(&format!("bench-{}-{executors}", if what == "filter" { "filter" } else { "tumble" }), 8);
    let cluster = crate::start(executors);
    let name = what.replace(' ', "-");
    let broker = usage::broker_pid();
    let broker_cpu = broker.map_or(0.0, usage::cpu_seconds);
    let began = Instant::now();
    cluster.submit(&name, sql);
    cluster.wait_state(&name, &["finished"]);
    let took = began.elapsed().as_secs_f64();
    let progress = cluster.progress(&name);
    let rows: u64 = progress.iter().filter_map(|batch| batch["numInputRows"].as_u64()).sum();
    let out: i64 = progress.iter().filter_map(|batch| batch["sink"]["numOutputRows"].as_i64()).sum();
    assert_eq!(rows, records, "rows read");
    let busy = span_seconds(&progress);
    println!(
        "{what}, {executors} executor(s): {:.2} million records/s ({:.2} with start and submit), {} batches, {out} rows out",
        records as f64 / busy / 1e6,
        records as f64 / took / 1e6,
        progress.len()
    );
    for (process, cpu, peak) in usage::of(&cluster) {
        println!("    {process}: {:.2} CPU s per million records, peak {peak} MiB", cpu / records as f64 * 1e6);
    }
    if let Some(broker) = broker {
        let cpu = usage::cpu_seconds(broker) - broker_cpu;
        println!("    broker: {:.2} CPU s per million records", cpu / records as f64 * 1e6);
    }
}

/// From the plan of the first batch to the commit of the last one, seconds.
pub fn span_seconds(progress: &[Value]) -> f64 {
    let at = |batch: &Value| {
        chrono::DateTime::parse_from_rfc3339(batch["timestamp"].as_str().unwrap()).unwrap().timestamp_millis()
    };
    let (Some(first), Some(last)) = (progress.first(), progress.last()) else { return f64::NAN };
    (at(last) + last["batchDuration"].as_i64().unwrap() - at(first)) as f64 / 1e3
}
