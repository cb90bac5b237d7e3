//! End-to-end latency: from before `produce` to a `read_committed` consumer of the sink, through a filter.

use crate::throughput::{sink, source};
use crate::usage;
use hdrhistogram::Histogram;
use highwater_testkit::KafkaCluster;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PARTITIONS: i32 = 8;
/// Not measured: time until connections are open and code is warm.
const WARM_UP: Duration = Duration::from_secs(5);
/// If no row arrives for this long, there are no more.
const SILENCE: Duration = Duration::from_secs(10);

pub fn measure(kafka: &KafkaCluster, seconds: u64) {
    for rate in [1_000, 10_000] {
        run(kafka, rate, seconds);
    }
}

fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

fn run(kafka: &KafkaCluster, rate: u64, seconds: u64) {
    let (input, output) = (format!("latency-in-{rate}"), format!("latency-out-{rate}"));
    kafka.create_topic(&input, PARTITIONS);
    kafka.create_topic(&output, PARTITIONS);
    let cluster = crate::start(1);
    let sql = format!(
        "{} {} INSERT INTO o SELECT id, user FROM events WHERE amount >= 0;",
        source(kafka, &input, ""),
        sink(kafka, &output, "id BIGINT, user STRING")
    );
    cluster.submit("latency", &sql);
    let histogram = std::thread::scope(|scope| {
        scope.spawn(|| produce(kafka, &input, rate, WARM_UP + Duration::from_secs(seconds)));
        consume(kafka, &output, rate * seconds)
    });
    let batches = cluster.progress("latency").len();
    println!(
        "latency at {rate}/s through a filter, exactly once: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} records, {batches} batches kept)",
        histogram.value_at_quantile(0.5) as f64 / 1e3,
        histogram.value_at_quantile(0.99) as f64 / 1e3,
        histogram.max() as f64 / 1e3,
        histogram.len()
    );
    for (process, cpu, peak) in usage::of(&cluster) {
        println!("    {process}: {cpu:.1} CPU s in {} s, peak {peak} MiB", seconds + WARM_UP.as_secs());
    }
    if let Some(broker) = usage::broker_pid() {
        println!("    broker: peak {} MiB", usage::peak_mib(broker));
    }
}

/// Produces evenly, in steps of a millisecond.
fn produce(kafka: &KafkaCluster, topic: &str, rate: u64, length: Duration) {
    let producer = kafka.producer(&[("linger.ms", "0")]);
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < length {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            let payload =
                format!(r#"{{"id":{},"user":"user-{}","amount":1.5,"pad":"{:150}"}}"#, micros(), sent % 1_000, "");
            let record =
                BaseRecord::<(), str>::to(topic).payload(&payload).partition((sent % PARTITIONS as u64) as i32);
            if producer.send(record).is_ok() {
                sent += 1;
            }
        }
        producer.poll(Duration::from_millis(1));
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

fn consume(kafka: &KafkaCluster, topic: &str, wanted: u64) -> Histogram<u64> {
    let mut config = kafka.client_config();
    config
        .set("group.id", "latency")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    let mut measured_from = None;
    let mut last = Instant::now();
    while histogram.len() < wanted && last.elapsed() < SILENCE {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        last = Instant::now();
        let now = micros();
        let Some(payload) = message.payload() else { continue };
        let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
        let sent = value["id"].as_u64().unwrap();
        let from = *measured_from.get_or_insert(sent + WARM_UP.as_micros() as u64);
        if sent >= from {
            histogram.record(now.saturating_sub(sent).max(1)).unwrap();
        }
    }
    histogram
}
