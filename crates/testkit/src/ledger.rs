//! Transfers between accounts, which neither create nor lose money. Two aggregates, a full join and a third aggregate
//! over it must be zero at every commit, and balances are known by arithmetic.

use crate::{Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;

const ACCOUNTS: u64 = 1_000;
const PARTITIONS: u64 = 4;

/// The topics of one ledger, and what was written to them.
pub struct Ledger<'a> {
    pub kafka: &'a KafkaCluster,
    name: String,
    transfers: u64,
    balances: BTreeMap<u64, i64>,
}

/// Payer, payee and amount of one transfer.
fn transfer(id: u64) -> (u64, u64, i64) {
    let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    (mixed % ACCOUNTS, mixed / ACCOUNTS % ACCOUNTS, (mixed % 500) as i64 + 1)
}

impl<'a> Ledger<'a> {
    /// Creates the topics `<name>-in`, `<name>-total` and `<name>-balances`.
    pub fn new(kafka: &'a KafkaCluster, name: &str) -> Self {
        let ledger = Self { kafka, name: name.to_string(), transfers: 0, balances: BTreeMap::new() };
        kafka.create_topic(&ledger.topic("in"), PARTITIONS as i32);
        kafka.create_topic(&ledger.topic("total"), 1);
        kafka.create_topic(&ledger.topic("balances"), 3);
        ledger
    }

    fn topic(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    /// Writes `transfers` more transfers.
    pub fn produce(&mut self, transfers: u64) {
        let ids: Range<u64> = self.transfers..self.transfers + transfers;
        self.transfers = ids.end;
        for (payer, payee, amount) in ids.clone().map(transfer) {
            *self.balances.entry(payer).or_default() -= amount;
            *self.balances.entry(payee).or_default() += amount;
        }
        self.kafka.produce(
            &self.topic("in"),
            ids.map(|id| {
                let (payer, payee, amount) = transfer(id);
                let record = format!(r#"{{"id":{id},"payer":{payer},"payee":{payee},"amount":{amount}}}"#);
                Message::new(record).partition((id % PARTITIONS) as i32)
            }),
        );
    }

    /// A script with the total over all accounts, and every account's balance.
    pub fn sql(&self, settings: &str) -> String {
        let with = |what: &str| {
            let (topic, servers) = (self.topic(what), self.kafka.bootstrap_servers());
            format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
        };
        format!(
            "{settings}
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
            with("in"),
            with("total"),
            with("balances")
        )
    }

    /// Asserts that the total was zero at every commit, and that the balances are those of all transfers.
    ///
    /// # Panics
    /// If they are not.
    #[track_caller]
    pub fn assert_exact(&self) {
        let totals = self.kafka.read_all(&self.topic("total"), Isolation::Committed);
        let seen: Vec<Value> = totals.iter().map(|record| record.json()).collect();
        // An unchanged row is not written again, so any other total would show here.
        assert_eq!(seen, [json!({"name": "all", "total": 0})]);
        let mut folded: BTreeMap<u64, i64> = BTreeMap::new();
        for record in self.kafka.read_all(&self.topic("balances"), Isolation::Committed) {
            let key: Value = serde_json::from_slice(record.key.as_deref().expect("a keyed sink")).expect("JSON");
            let account = key["account"].as_u64().expect("as the script writes it");
            match record.payload {
                Some(_) => folded.insert(account, record.json()["balance"].as_i64().expect("as the script writes it")),
                None => folded.remove(&account),
            };
        }
        assert_eq!(folded, self.balances, "after {} transfers", self.transfers);
    }
}
