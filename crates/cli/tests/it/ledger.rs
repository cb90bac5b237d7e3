//! Money is neither made nor lost: transfers between accounts through two aggregates, a full join and a third
//! aggregate, while processes die.

use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ACCOUNTS: u64 = 1_000;
const PARTITIONS: u64 = 4;

/// Payer, payee and amount of one transfer.
fn transfer(id: u64) -> (u64, u64, i64) {
    let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    (mixed % ACCOUNTS, mixed / ACCOUNTS % ACCOUNTS, (mixed % 500) as i64 + 1)
}

fn produce(kafka: &KafkaCluster, topic: &str, ids: std::ops::Range<u64>) {
    kafka.produce(
        topic,
        ids.map(|id| {
            let (payer, payee, amount) = transfer(id);
            let record = json!({"id": id, "payer": payer, "payee": payee, "amount": amount});
            Message::json(&record).partition((id % PARTITIONS) as i32)
        }),
    );
}

#[test]
fn the_total_is_zero_at_every_commit_and_balances_are_exact() {
    let kafka = KafkaCluster::shared();
    let (input, totals, balances) = ("ledger-in", "ledger-total", "ledger-balances");
    kafka.create_topic(input, PARTITIONS as i32);
    kafka.create_topic(totals, 1);
    kafka.create_topic(balances, 3);
    let with = |topic: &str| {
        let servers = kafka.bootstrap_servers();
        format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
    };
    let script = format!(
        "SET max_offsets_per_trigger = 5000;
         CREATE TABLE transfers (id BIGINT, payer BIGINT, payee BIGINT, amount BIGINT) {};
         CREATE TABLE total (name STRING, total BIGINT, PRIMARY KEY (name) NOT ENFORCED) {};
         CREATE TABLE balances (account BIGINT, balance BIGINT, PRIMARY KEY (account) NOT ENFORCED) {};
         CREATE VIEW balance AS
           SELECT coalesce(i.account, o.account) AS account, coalesce(i.amount, 0) - coalesce(o.amount, 0) AS balance
           FROM (SELECT payee AS account, sum(amount) AS amount FROM transfers GROUP BY payee) i
           FULL JOIN (SELECT payer AS account, sum(amount) AS amount FROM transfers GROUP BY payer) o
           ON i.account = o.account;
         INSERT INTO total SELECT 'all', sum(balance) FROM balance;
         INSERT INTO balances SELECT account, balance FROM balance;",
        with(input),
        with(totals),
        with(balances)
    );
    let mut cluster = Highwater::start(3);
    produce(kafka, input, 0..50_000);
    cluster.submit("ledger", &script);
    cluster.wait("the first commits", || (!cluster.progress("ledger").is_empty()).then_some(()));
    cluster.kill_executor(1);
    produce(kafka, input, 50_000..100_000);
    cluster.wait_caught_up("ledger");
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.add_executor(&[]);
    produce(kafka, input, 100_000..150_000);
    cluster.wait_caught_up("ledger");
    assert!(cluster.progress("ledger").len() > 3, "all in few batches: it proves little");

    let seen: Vec<Value> = kafka.read_all(totals, Isolation::Committed).iter().map(|record| record.json()).collect();
    assert_eq!(seen, [json!({"name": "all", "total": 0})], "written once, and never anything else");

    let mut expected: BTreeMap<u64, i64> = BTreeMap::new();
    for id in 0..150_000 {
        let (payer, payee, amount) = transfer(id);
        *expected.entry(payer).or_default() -= amount;
        *expected.entry(payee).or_default() += amount;
    }
    let mut folded: BTreeMap<u64, i64> = BTreeMap::new();
    for record in kafka.read_all(balances, Isolation::Committed) {
        let key: Value = serde_json::from_slice(record.key.as_deref().unwrap()).unwrap();
        let account = key["account"].as_u64().unwrap();
        match record.payload {
            Some(_) => folded.insert(account, record.json()["balance"].as_i64().unwrap()),
            None => folded.remove(&account),
        };
    }
    assert_eq!(folded, expected);
}
