//! State moves while a query runs: from one executor to four and back to two, with joins, aggregates and ranks.

use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;

const USERS: u64 = 500;
const PARTITIONS: u64 = 8;

fn produce(kafka: &KafkaCluster, ids: Range<u64>) {
    let at = |id: u64| (id % PARTITIONS) as i32;
    kafka.produce(
        "rescale-clicks",
        ids.clone().map(|id| Message::json(&json!({"user_id": id * 7 % USERS, "points": id % 11})).partition(at(id))),
    );
    // A user is known after an eleventh of the clicks; until then the join has NULL.
    kafka.produce(
        "rescale-users",
        ids.filter(|id| id % 11 == 0)
            .map(|id| Message::json(&json!({"user_id": id / 11 % USERS, "seen": id})).partition(at(id))),
    );
}

/// Clicks, points and the newest `seen` of every user.
fn answer(ids: u64) -> BTreeMap<u64, (u64, u64, Option<u64>)> {
    let mut users: BTreeMap<u64, (u64, u64, Option<u64>)> = BTreeMap::new();
    for id in 0..ids {
        let user = users.entry(id * 7 % USERS).or_default();
        *user = (user.0 + 1, user.1 + id % 11, user.2);
    }
    for id in (0..ids).filter(|id| id % 11 == 0) {
        let user = users.entry(id / 11 % USERS).or_default();
        user.2 = user.2.max(Some(id));
    }
    users
}

fn script(kafka: &KafkaCluster) -> String {
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    format!(
        "SET max_offsets_per_trigger = 1500;
         CREATE TABLE clicks (user_id BIGINT, points BIGINT) {};
         CREATE TABLE users (user_id BIGINT, seen BIGINT) {};
         CREATE TABLE o (user_id BIGINT, n BIGINT, points BIGINT, seen BIGINT, PRIMARY KEY (user_id) NOT ENFORCED) {};
         INSERT INTO o SELECT c.user_id, c.n, c.points, u.seen
           FROM (SELECT user_id, count(*) AS n, sum(points) AS points FROM clicks GROUP BY user_id) c
           LEFT JOIN (SELECT user_id, max(seen) AS seen FROM users GROUP BY user_id) u ON c.user_id = u.user_id;",
        with("rescale-clicks"),
        with("rescale-users"),
        with("rescale-out"),
    )
}

/// Shards of each live executor, ascending.
fn shards(cluster: &Highwater) -> Vec<u64> {
    let status = cluster.status("rescale");
    let executors = status["executors"].as_array().unwrap();
    let mut shards: Vec<u64> = executors.iter().map(|executor| executor["shards"].as_u64().unwrap_or(0)).collect();
    shards.sort_unstable();
    shards
}

fn assert_exact(kafka: &KafkaCluster, ids: u64) {
    let mut folded: BTreeMap<u64, (u64, u64, Option<u64>)> = BTreeMap::new();
    for record in kafka.read_all("rescale-out", Isolation::Committed) {
        let key: Value = serde_json::from_slice(record.key.as_deref().unwrap()).unwrap();
        let user = key["user_id"].as_u64().unwrap();
        match record.payload {
            None => drop(folded.remove(&user)),
            Some(_) => {
                let row = record.json();
                let number = |name: &str| row[name].as_u64();
                folded.insert(user, (number("n").unwrap(), number("points").unwrap(), number("seen")));
            }
        }
    }
    let expected: BTreeMap<_, _> = answer(ids).into_iter().filter(|(_, (n, ..))| *n > 0).collect();
    assert_eq!(folded, expected);
}

#[test]
fn a_running_query_scales_from_one_executor_to_four_and_back_to_two() {
    let kafka = KafkaCluster::shared();
    kafka.create_topic("rescale-clicks", PARTITIONS as i32);
    kafka.create_topic("rescale-users", PARTITIONS as i32);
    kafka.create_topic("rescale-out", 2);
    let mut cluster = Highwater::start(1);
    produce(kafka, 0..10_000);
    cluster.submit("rescale", &script(kafka));
    cluster.wait("a first commit", || (!cluster.progress("rescale").is_empty()).then_some(()));
    let run = cluster.status("rescale")["runId"].clone();
    for _ in 0..3 {
        cluster.add_executor(&[]);
    }
    produce(kafka, 10_000..20_000);
    cluster.wait("four executors with sixteen shards each", || (shards(&cluster) == [16; 4]).then_some(()));
    cluster.wait_caught_up("rescale");
    assert_exact(kafka, 20_000);

    produce(kafka, 20_000..30_000);
    // One is asked to end, one is killed.
    cluster.executor(0).terminate();
    cluster.kill_executor(2);
    produce(kafka, 30_000..40_000);
    cluster.wait_caught_up("rescale");
    cluster.wait("two executors with half the shards each", || (shards(&cluster) == [32; 2]).then_some(()));
    assert_exact(kafka, 40_000);
    assert_eq!(cluster.status("rescale")["runId"], run, "it was restarted");
}
