//! Keyed topics: written by one query, read by another and joined by version of a time, while executors die.

use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// 2026-01-01T00:00:00Z, milliseconds.
const START: i64 = 1_767_225_600_000;

fn with(kafka: &KafkaCluster, topic: &str) -> String {
    let servers = kafka.bootstrap_servers();
    format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
}

/// The rows of a changelog, by key.
fn folded(kafka: &KafkaCluster, topic: &str) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for record in kafka.read_all(topic, Isolation::Committed) {
        let key = record.key_text().unwrap();
        match record.payload {
            Some(_) => rows.insert(key, record.json()),
            None => rows.remove(&key),
        };
    }
    rows
}

#[test]
fn a_keyed_topic_is_read_as_its_current_rows() {
    let kafka = KafkaCluster::shared();
    let (payments, totals, sums) = ("keyed-payments", "keyed-totals", "keyed-sums");
    kafka.create_topic(payments, 4);
    kafka.create_topic(totals, 4);
    kafka.create_topic(sums, 1);
    // A total appears and disappears with the number of its payments, which makes tombstones.
    let table = "account STRING, n BIGINT, total BIGINT, PRIMARY KEY (account) NOT ENFORCED";
    let write = format!(
        "SET max_offsets_per_trigger = 700;
         CREATE TABLE payments (account STRING, amount BIGINT) {};
         CREATE TABLE totals ({table}) {};
         INSERT INTO totals SELECT account, count(*), sum(amount) FROM payments GROUP BY account HAVING count(*) % 3 <> 0;",
        with(kafka, payments),
        with(kafka, totals)
    );
    let read = format!(
        "CREATE TABLE totals ({table}) {};
         CREATE TABLE sums (one BIGINT, accounts BIGINT, n BIGINT, total BIGINT, most BIGINT, PRIMARY KEY (one) NOT ENFORCED) {};
         INSERT INTO sums SELECT 1, count(*), sum(n), sum(total), max(total) FROM totals;",
        with(kafka, totals),
        with(kafka, sums)
    );
    let mut cluster = Highwater::start(3);
    cluster.submit("write", &write);
    cluster.submit("read", &read);
    let produce = |range: std::ops::Range<i64>| {
        let payment = |i: i64| Message::json(&json!({"account": format!("a{}", i * i % 101), "amount": i % 1000}));
        kafka.produce(payments, range.map(|i| payment(i).partition((i % 4) as i32)));
    };
    let expected = |records: i64| {
        let mut all: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for i in 0..records {
            let entry = all.entry(i * i % 101).or_default();
            *entry = (entry.0 + 1, entry.1 + i % 1000);
        }
        all.retain(|_, (n, _)| *n % 3 != 0);
        let (n, total): (Vec<i64>, Vec<i64>) = all.values().copied().unzip();
        json!({"one": 1, "accounts": n.len(), "n": n.iter().sum::<i64>(), "total": total.iter().sum::<i64>(),
               "most": total.iter().max().unwrap()})
    };
    let check = |cluster: &Highwater, records: i64| {
        cluster.wait_caught_up("write");
        cluster.wait_caught_up("read");
        let rows: Vec<Value> = folded(kafka, sums).into_values().collect();
        assert_eq!(rows, [expected(records)]);
    };
    produce(0..5_000);
    check(&cluster, 5_000);
    produce(5_000..12_000);
    cluster.kill_executor(1);
    check(&cluster, 12_000);
    produce(12_000..14_000);
    cluster.kill_driver();
    cluster.start_driver(&[]);
    check(&cluster, 14_000);
    let status = cluster.status("read");
    let warned =
        status["warnings"].as_array().unwrap().iter().any(|w| w.as_str().unwrap().contains("keyed source totals"));
    assert!(warned, "{status}");
}

const CURRENCIES: i64 = 10;

/// The changes of a currency's rate in order of time: `(time, rate)`; `None` ends it.
fn versions(currency: i64, until: i64) -> Vec<(i64, Option<i64>)> {
    let mut all = Vec::new();
    for step in 0..until {
        all.push((START + step * 1_000 + currency * 7, Some(step * 100 + currency)));
        if step % 7 == 3 {
            all.push((START + step * 1_000 + 500, None));
        }
    }
    all
}

fn rate_message((currency, (time, rate)): (i64, (i64, Option<i64>))) -> Message {
    let key = json!({"currency": format!("c{currency}")}).to_string();
    let message = match rate {
        Some(rate) => Message::json(&json!({"currency": format!("c{currency}"), "rate": rate, "ts": time})).key(key),
        None => Message::tombstone(key),
    };
    message.timestamp(time).partition((currency % 2) as i32)
}

#[test]
fn each_order_has_the_rate_of_its_time() {
    let kafka = KafkaCluster::shared();
    let topics = ["temporal-orders", "temporal-rates", "temporal-final", "temporal-open"];
    topics.iter().for_each(|topic| kafka.create_topic(topic, 2));
    let [orders, rates, last, open] = topics;
    let sql = format!(
        "SET max_offsets_per_trigger = 500;
         CREATE TABLE orders (id BIGINT, currency STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND) {};
         CREATE TABLE rates (currency STRING, rate BIGINT, ts TIMESTAMP(3), PRIMARY KEY (currency) NOT ENFORCED,
           WATERMARK FOR ts AS ts - INTERVAL '2' SECOND) {};
         CREATE TABLE last (id BIGINT, rate BIGINT, PRIMARY KEY (id) NOT ENFORCED) {};
         INSERT INTO last SELECT o.id, r.rate FROM orders AS o
           LEFT JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency;",
        with(kafka, orders),
        with(kafka, rates),
        with(kafka, open)
    );
    let append = sql.replace(", PRIMARY KEY (id) NOT ENFORCED", "").replace(open, last);
    let mut cluster = Highwater::start(3);
    cluster.submit("open", &sql);
    cluster.submit("final", &append);
    let order = |id: i64| (id % (CURRENCIES + 1), START + id * 10 + id % 3);
    let produce_orders = |range: std::ops::Range<i64>| {
        kafka.produce(
            orders,
            range.map(|id| {
                let (currency, ts) = order(id);
                Message::json(&json!({"id": id, "currency": format!("c{currency}"), "ts": ts}))
                    .partition((id % 2) as i32)
            }),
        );
    };
    let mut changes: Vec<(i64, (i64, Option<i64>))> = (0..CURRENCIES)
        .flat_map(|currency| versions(currency, 80).into_iter().map(move |version| (currency, version)))
        .collect();
    changes.sort_by_key(|(currency, (time, _))| (*time, *currency));
    let half = changes.len() / 2;
    // Orders are far ahead of the rates: rows emitted at once are corrected later.
    produce_orders(0..3_000);
    kafka.produce(rates, changes[..half].iter().copied().map(rate_message));
    cluster.wait_caught_up("open");
    cluster.kill_executor(2);
    produce_orders(3_000..6_000);
    kafka.produce(rates, changes[half..].iter().copied().map(rate_message));
    cluster.wait_caught_up("open");
    // Far ahead in every partition, so that the watermark passes all earlier records.
    let end = START + 10_000_000;
    kafka.produce(
        orders,
        (0..2).map(|p| Message::json(&json!({"id": -1 - p, "currency": "none", "ts": end})).partition(p)),
    );
    kafka.produce(
        rates,
        (0..2).map(|p| {
            let currency = format!("end{p}");
            let key = json!({"currency": currency}).to_string();
            Message::json(&json!({"currency": currency, "rate": 0, "ts": end})).key(key).timestamp(end).partition(p)
        }),
    );
    let rows_of = |topic: &str| -> BTreeMap<i64, Option<i64>> {
        let records = kafka.read_all(topic, Isolation::Committed);
        let rows =
            records.iter().map(|record| record.json()).map(|row| (row["id"].as_i64().unwrap(), row["rate"].as_i64()));
        rows.filter(|(id, _)| *id >= 0).collect()
    };
    let expected: BTreeMap<i64, Option<i64>> = (0..6_000)
        .map(|id| {
            let (currency, ts) = order(id);
            let known = if currency < CURRENCIES { versions(currency, 80) } else { Vec::new() };
            let version = known.iter().rfind(|(time, _)| *time <= ts);
            (id, version.and_then(|(_, rate)| *rate))
        })
        .collect();
    cluster.wait("all orders to be final", || (rows_of(last).len() == expected.len()).then_some(()));
    let appended = kafka.read_all(last, Isolation::Committed).len();
    assert_eq!(appended, expected.len(), "each order once");
    assert_eq!(rows_of(last), expected);
    cluster.wait_caught_up("open");
    assert_eq!(rows_of(open), expected);
}
