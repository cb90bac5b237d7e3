//! SIGKILL of one of two executors under load: how long until the next commit, and what the survivor reads again.

use crate::throughput::{sink, source};
use highwater_testkit::{KafkaCluster, Message};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const RATE: u64 = 10_000;

pub fn measure(kafka: &KafkaCluster, seconds: u64) {
    let (input, output) = ("recovery-in", "recovery-out");
    kafka.create_topic(input, 8);
    kafka.create_topic(output, 8);
    let mut cluster = crate::start(2);
    let sql = format!(
        "{} {} INSERT INTO o SELECT user, count(*), sum(amount) FROM events GROUP BY user;",
        source(kafka, input, ""),
        sink(kafka, output, "user STRING, n BIGINT, total DOUBLE, PRIMARY KEY (user) NOT ENFORCED")
    );
    cluster.submit("recovery", &sql);
    let (commits, batches) = mpsc::channel();
    let mut follower =
        cluster.command(&["progress", "recovery", "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let batch: Value = serde_json::from_str(&line).unwrap();
            if commits.send((Instant::now(), batch)).is_err() {
                return;
            }
        }
    });
    let killed = std::thread::scope(|scope| {
        scope.spawn(|| produce(kafka, input, Duration::from_secs(seconds)));
        std::thread::sleep(Duration::from_secs(seconds / 2));
        let own = partitions_read(&cluster.executor(1).stderr());
        cluster.kill_executor(0);
        (Instant::now(), own)
    });
    let (killed, own) = killed;
    std::thread::sleep(Duration::from_secs(3));
    let all: Vec<(Instant, Value)> = batches.try_iter().collect();
    // The first commit after the kill may have been under way, so the longest pause is printed, too.
    let after: Vec<&(Instant, Value)> = all.iter().filter(|(at, _)| *at > killed).collect();
    let next = after.first().map(|(at, _)| at.duration_since(killed));
    let gap = all.windows(2).filter(|pair| pair[1].0 > killed).map(|pair| pair[1].0.duration_since(pair[0].0)).max();
    println!("SIGKILL of an executor at {RATE}/s: next commit after {next:?}, longest pause between commits {gap:?}");
    let all = partitions_read(&cluster.executor(1).stderr());
    let (again, new): (Vec<i32>, Vec<i32>) = all[own.len()..].iter().partition(|partition| own.contains(partition));
    println!(
        "the survivor read {} of its own {} partitions again, and {} of the dead one's",
        again.len(),
        own.len(),
        new.len()
    );
    let _ = follower.kill();
    let _ = follower.wait();
}

/// Partitions that an executor began to read, in order, according to its log.
fn partitions_read(log: &str) -> Vec<i32> {
    let number = |line: &str| {
        let digits = line.split("partition=").nth(1)?.chars().take_while(char::is_ascii_digit).collect::<String>();
        digits.parse().ok()
    };
    log.lines().filter(|line| line.contains("reads a partition from here")).filter_map(number).collect()
}

fn produce(kafka: &KafkaCluster, topic: &str, length: Duration) {
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < length {
        let due = (began.elapsed().as_secs_f64() * RATE as f64) as u64;
        kafka.produce(
            topic,
            (sent..due).map(|i| {
                Message::new(format!(r#"{{"id":{i},"user":"user-{}","amount":1.0}}"#, i % 1_000))
                    .partition((i % 8) as i32)
            }),
        );
        sent = due;
    }
}
