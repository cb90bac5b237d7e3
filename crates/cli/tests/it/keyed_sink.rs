//! Keyed sinks while rows change groups, keys and shards, and tasks overtake each other: record by record, the topic is
//! a valid changelog, and its final rows are the answer.

use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PLAYERS: u64 = 60;
const PARTITIONS: u64 = 3;
const RECORDS: u64 = 6_000;

/// Player and points of one move; points may be negative.
fn step(id: u64) -> (u64, i64) {
    let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
    (mixed % PLAYERS, (mixed / PLAYERS % 21) as i64 - 8)
}

fn produce(kafka: &KafkaCluster, topic: &str, ids: std::ops::Range<u64>) {
    kafka.produce(
        topic,
        ids.map(|id| {
            let (player, points) = step(id);
            let record = json!({"id": id, "player": player, "points": points});
            Message::json(&record).partition((id % PARTITIONS) as i32)
        }),
    );
}

/// A row by its key, both as JSON text.
type Folded = BTreeMap<String, String>;

/// The final rows of a topic; checks every record against the previous row of its key.
fn fold(kafka: &KafkaCluster, topic: &str) -> Folded {
    let mut rows = Folded::new();
    for record in kafka.read_all(topic, Isolation::Committed) {
        let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
        let at = format!("{topic}-{}@{}, key {key}", record.partition, record.offset);
        match record.payload {
            None => assert!(rows.remove(&key).is_some(), "{at}: a tombstone for a row that is not there"),
            Some(payload) => {
                let value = String::from_utf8(payload).unwrap();
                assert_ne!(rows.get(&key), Some(&value), "{at}: an unchanged row was written again");
                rows.insert(key, value);
            }
        }
    }
    rows
}

fn expected(key: &[&str], rows: impl IntoIterator<Item = Value>) -> Folded {
    let keyed = |row: Value| {
        let mut of = serde_json::Map::new();
        key.iter().for_each(|name| drop(of.insert((*name).into(), row[*name].clone())));
        (Value::Object(of).to_string(), row.to_string())
    };
    rows.into_iter().map(keyed).collect()
}

/// The rows of the four sinks after this many records.
fn answers(records: u64) -> [Folded; 4] {
    let mut totals: BTreeMap<u64, i64> = BTreeMap::new();
    for id in 0..records {
        let (player, points) = step(id);
        *totals.entry(player).or_default() += points;
    }
    let mut levels: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    let mut classes: BTreeMap<String, i64> = BTreeMap::new();
    for total in totals.values() {
        let level = levels.entry(total / 10).or_default();
        *level = (level.0 + 1, level.1 + total);
    }
    for level in levels.keys() {
        *classes.entry(format!("class {}", level % 3)).or_default() += 1;
    }
    let mut ranked: Vec<(i64, u64)> = totals.iter().map(|(player, total)| (-*total, *player)).collect();
    ranked.sort_unstable();
    // The first player of each level: a key that one player holds after the other.
    let mut first: BTreeMap<i64, (i64, u64)> = BTreeMap::new();
    for (total, player) in ranked.iter().map(|(negative, player)| (-negative, *player)) {
        first.entry(total / 10).or_insert((total, player));
    }
    [
        expected(&["level"], levels.iter().map(|(level, (n, sum))| json!({"level": level, "n": n, "total": sum}))),
        expected(&["class"], classes.iter().map(|(class, n)| json!({"class": class, "levels": n}))),
        expected(
            &["place"],
            ranked
                .iter()
                .take(10)
                .enumerate()
                .map(|(place, (total, player))| json!({"place": place as i64 + 1, "player": player, "total": -total})),
        ),
        expected(
            &["level"],
            first.iter().map(|(level, (total, player))| json!({"level": level, "player": player, "total": total})),
        ),
    ]
}

const SINKS: [&str; 4] = ["moves-levels", "moves-classes", "moves-places", "moves-first"];

fn script(kafka: &KafkaCluster) -> String {
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    let [levels, classes, places, first] = SINKS.map(with);
    format!(
        "SET max_offsets_per_trigger = 300;
         CREATE TABLE moves (id BIGINT, player BIGINT, points BIGINT) {};
         CREATE TABLE levels (level BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (level) NOT ENFORCED) {levels};
         CREATE TABLE classes (class STRING, levels BIGINT, PRIMARY KEY (class) NOT ENFORCED) {classes};
         CREATE TABLE places (place BIGINT, player BIGINT, total BIGINT, PRIMARY KEY (place) NOT ENFORCED) {places};
         CREATE TABLE firsts (level BIGINT, player BIGINT, total BIGINT, PRIMARY KEY (level) NOT ENFORCED) {first};
         CREATE VIEW totals AS SELECT player, sum(points) AS total FROM moves GROUP BY player;
         CREATE VIEW by_level AS SELECT total / 10 AS level, count(*) AS n, sum(total) AS total FROM totals GROUP BY total / 10;
         INSERT INTO levels SELECT level, n, total FROM by_level;
         INSERT INTO classes SELECT concat('class ', level % 3), count(*) FROM by_level GROUP BY level % 3;
         INSERT INTO places SELECT place, player, total FROM (
           SELECT player, total, row_number() OVER (ORDER BY total DESC, player) AS place FROM totals) WHERE place <= 10;
         INSERT INTO firsts SELECT level, player, total FROM (
           SELECT total / 10 AS level, player, total,
                  row_number() OVER (PARTITION BY total / 10 ORDER BY total DESC, player) AS n FROM totals) WHERE n = 1;",
        with("moves-in"),
    )
}

#[test]
fn keyed_sinks_hold_the_answer_while_rows_change_groups_and_shards_under_delays() {
    let kafka = KafkaCluster::shared();
    kafka.create_topic("moves-in", PARTITIONS as i32);
    SINKS.iter().for_each(|topic| kafka.create_topic(topic, 3));
    let mut cluster = Highwater::start(0);
    // Each executor is slow at another point, so that tasks and writers finish in varying orders.
    for slow in
        ["executor_before_exchange_end:40", "executor_before_flush:40", "executor_mid_read:20,executor_after_flush:40"]
    {
        cluster.add_executor(&[("HIGHWATER_DELAYS", slow.to_string())]);
    }
    produce(kafka, "moves-in", 0..RECORDS / 2);
    cluster.submit("moves", &script(kafka));
    cluster.wait("the first commits", || (cluster.progress("moves").len() > 2).then_some(()));
    cluster.kill_executor(1);
    cluster.add_executor(&[("HIGHWATER_DELAYS", "executor_before_publish:30".to_string())]);
    cluster.wait_caught_up("moves");
    let check = |records: u64| {
        for (topic, answer) in SINKS.iter().zip(answers(records)) {
            assert_eq!(fold(kafka, topic), answer, "{topic} after {records} records");
        }
    };
    check(RECORDS / 2);
    produce(kafka, "moves-in", RECORDS / 2..RECORDS);
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.wait_caught_up("moves");
    check(RECORDS);
}

fn user(partition: i32, id: &str, email: Option<&str>) -> Message {
    let message = match email {
        Some(email) => Message::json(&json!({"user_id": id, "email": email})),
        None => Message::tombstone(json!({"user_id": id}).to_string()),
    };
    message.partition(partition)
}

#[test]
fn addresses_swapped_between_two_partitions_end_up_with_their_users() {
    let kafka = KafkaCluster::shared();
    let (users, owners) = ("swap-users", "swap-owners");
    kafka.create_topic(users, 2);
    kafka.create_topic(owners, 2);
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    let script = |settings: &str| {
        format!(
            "{settings}
             CREATE TABLE users (user_id STRING, email STRING, PRIMARY KEY (user_id) NOT ENFORCED) {};
             CREATE TABLE owners (email STRING, user_id STRING, PRIMARY KEY (email) NOT ENFORCED) {};
             INSERT INTO owners SELECT email, user_id FROM users WHERE email IS NOT NULL;",
            with(users),
            with(owners)
        )
    };
    let mut cluster = Highwater::start(2);
    cluster.submit("swap", &script(""));
    let holds = |cluster: &Highwater, rows: &[(&str, &str)]| {
        cluster.wait_caught_up("swap");
        let rows = rows.iter().map(|(email, user)| json!({"email": email, "user_id": user}));
        assert_eq!(fold(kafka, owners), expected(&["email"], rows));
    };
    let warning = |cluster: &Highwater| {
        let status = cluster.status("swap");
        let warnings = status["warnings"].as_array().unwrap().clone();
        warnings.iter().filter_map(Value::as_str).find(|text| text.contains("live row")).map(str::to_string)
    };
    let conflicts = |cluster: &Highwater| {
        let last = cluster.progress("swap").pop().unwrap();
        let operators = last["stateOperators"].as_array().unwrap().clone();
        operators.iter().map(|operator| operator["numKeyConflicts"].as_u64().unwrap()).sum::<u64>()
    };
    kafka.produce(users, [user(0, "u1", Some("a@x")), user(1, "u2", Some("b@x"))]);
    holds(&cluster, &[("a@x", "u1"), ("b@x", "u2")]);
    assert_eq!((warning(&cluster), conflicts(&cluster)), (None, 0));
    // The second user takes the first one's address before that one has given it up.
    kafka.produce(users, [user(1, "u2", Some("a@x"))]);
    holds(&cluster, &[("a@x", "u2")]);
    let named = warning(&cluster).unwrap();
    assert!(named.contains("live row: 1 (email = a@x)"), "{named}");
    assert_eq!(conflicts(&cluster), 1);
    // It is known after a restart, too.
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.wait("the warning after a restart", || warning(&cluster).filter(|text| *text == named));
    kafka.produce(users, [user(0, "u1", Some("b@x"))]);
    holds(&cluster, &[("a@x", "u2"), ("b@x", "u1")]);
    assert_eq!((warning(&cluster), conflicts(&cluster)), (None, 0));
    kafka.produce(users, [user(0, "u1", Some("b@x")), user(1, "u2", None), user(0, "u3", Some("a@x"))]);
    holds(&cluster, &[("a@x", "u3"), ("b@x", "u1")]);
    assert_eq!((warning(&cluster), conflicts(&cluster)), (None, 0));
    // All of it again, with 'fail': whichever batches there are, nothing but the right rows or a stop.
    let stop = script("SET on_key_conflict = 'fail'; SET max_offsets_per_trigger = 1;").replace(owners, "swap-strict");
    kafka.create_topic("swap-strict", 1);
    kafka.produce(users, [user(1, "u4", Some("a@x"))]);
    cluster.submit("strict", &stop);
    let failed = cluster.wait_state("strict", &["failed"]);
    assert!(failed["message"].as_str().unwrap().contains("two live rows under one key email = "), "{failed}");
}
