//! A workload with a known answer: payments, totals per account, and an INSERT that selects large payments.

use crate::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// The topics of one test.
pub struct Payments<'a> {
    pub kafka: &'a KafkaCluster,
    pub source: String,
    pub totals: String,
    pub large: String,
}

/// Count and sum per account.
pub type Totals = BTreeMap<String, (i64, i64)>;

const ACCOUNTS: u64 = 97;

impl<'a> Payments<'a> {
    /// Creates the source topic; Highwater creates the sinks' topics.
    pub fn new(kafka: &'a KafkaCluster, test: &str, partitions: i32) -> Self {
        let source = format!("{test}-payments");
        kafka.create_topic(&source, partitions);
        Self { kafka, source, totals: format!("{test}-totals"), large: format!("{test}-large") }
    }

    /// Record `i` is of account `i % 97`, with amount `i % 1000`, in partition `i % partitions`.
    pub fn produce(&self, range: Range<u64>, partitions: u64) {
        self.kafka.produce(
            &self.source,
            range.map(|i| {
                let payload =
                    format!(r#"{{"id":{i},"account":"a{}","amount":{},"pad":"{i:032}"}}"#, i % ACCOUNTS, i % 1000);
                Message::new(payload).partition((i % partitions) as i32)
            }),
        );
    }

    /// Two INSERTs: totals as a changelog, and payments of 900 and more appended.
    pub fn sql(&self, settings: &str) -> String {
        let servers = self.kafka.bootstrap_servers();
        let with = |topic: &str| {
            format!("WITH ('connector'='kafka', 'topic'='{topic}', 'bootstrap.servers'='{servers}', 'format'='json')")
        };
        format!(
            "{settings}
            CREATE TABLE payments (id BIGINT, account STRING, amount BIGINT) {};
            CREATE TABLE totals (account STRING, n BIGINT, total BIGINT, PRIMARY KEY (account) NOT ENFORCED) {};
            CREATE TABLE large (id BIGINT, account STRING) {};
            INSERT INTO totals SELECT account, count(*), sum(amount) FROM payments GROUP BY account;
            INSERT INTO large SELECT id, account FROM payments WHERE amount >= 900;",
            with(&self.source),
            with(&self.totals),
            with(&self.large),
        )
    }

    /// Asserts that both sinks hold exactly the answer over the first `records` records.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn assert_exact(&self, records: u64) {
        assert_eq!(self.folded_totals(), expected_totals(records));
        let mut ids: Vec<u64> = self
            .kafka
            .read_all(&self.large, Isolation::Committed)
            .iter()
            .map(|record| record.json()["id"].as_u64().expect("as the script writes it"))
            .collect();
        ids.sort_unstable();
        let expected: Vec<u64> = (0..records).filter(|i| i % 1000 >= 900).collect();
        assert_eq!(ids.len(), expected.len(), "rows lost or doubled");
        assert_eq!(ids, expected);
    }

    /// The final totals in the changelog, as a `read_committed` reader sees them.
    pub fn folded_totals(&self) -> Totals {
        let mut rows = Totals::new();
        for record in self.kafka.read_all(&self.totals, Isolation::Committed) {
            let key: Value = serde_json::from_slice(record.key.as_deref().expect("as the script writes it"))
                .expect("as the script writes it");
            let account = key["account"].as_str().expect("as the script writes it").to_string();
            if record.payload.is_none() {
                rows.remove(&account);
                continue;
            }
            let value = record.json();
            assert_eq!(value["account"], key["account"]);
            rows.insert(
                account,
                (
                    value["n"].as_i64().expect("as the script writes it"),
                    value["total"].as_i64().expect("as the script writes it"),
                ),
            );
        }
        rows
    }
}

/// The totals, computed by plain arithmetic.
pub fn expected_totals(records: u64) -> Totals {
    let mut totals = Totals::new();
    for i in 0..records {
        let entry = totals.entry(format!("a{}", i % ACCOUNTS)).or_default();
        entry.0 += 1;
        entry.1 += (i % 1000) as i64;
    }
    totals
}

/// Partitions of `topic` per executor, sorted.
pub fn partition_counts(cluster: &Highwater, query: &str, topic: &str) -> Vec<usize> {
    let status = cluster.status(query);
    let executors = status["executors"].as_array().expect("as the script writes it");
    let mut counts: Vec<usize> =
        executors.iter().map(|executor| executor["partitions"][topic].as_array().map_or(0, Vec::len)).collect();
    counts.sort_unstable();
    counts
}
