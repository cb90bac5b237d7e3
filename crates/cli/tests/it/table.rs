//! Small scripts: a source of (id, name, amount, ts) and a sink, on topics of the test.

use highwater_testkit::{Isolation, KafkaCluster, Message};
use serde_json::{Value, json};

/// Topics `<test>-in` and `<test>-out`.
pub struct Tables {
    pub kafka: &'static KafkaCluster,
    pub input: String,
    pub output: String,
}

impl Tables {
    pub fn new(test: &str, partitions: i32) -> Self {
        Self::on(KafkaCluster::shared(), test, partitions)
    }

    pub fn on(kafka: &'static KafkaCluster, test: &str, partitions: i32) -> Self {
        let (input, output) = (format!("{test}-in"), format!("{test}-out"));
        kafka.create_topic(&input, partitions);
        kafka.create_topic(&output, 1);
        Self { kafka, input, output }
    }

    /// Deletes the input topic and creates it again, empty, with as many partitions.
    pub fn recreate(&self) {
        let partitions = self.kafka.partitions(&self.input);
        self.kafka.delete_topic(&self.input);
        self.kafka.create_topic(&self.input, partitions);
    }

    /// `options` are more options of the source, each with a leading comma.
    pub fn source(&self, options: &str) -> String {
        format!(
            "CREATE TABLE t (id BIGINT, name STRING, amount DOUBLE, ts TIMESTAMP(3),
               WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
             WITH ('connector'='kafka', 'topic'='{}', 'bootstrap.servers'='{}', 'format'='json' {options});",
            self.input,
            self.kafka.bootstrap_servers()
        )
    }

    /// `columns` of the sink, with a PRIMARY KEY if wanted.
    pub fn sink(&self, columns: &str) -> String {
        format!(
            "CREATE TABLE o ({columns})
             WITH ('connector'='kafka', 'topic'='{}', 'bootstrap.servers'='{}', 'format'='json');",
            self.output,
            self.kafka.bootstrap_servers()
        )
    }

    /// A script that copies ids.
    pub fn copy(&self, settings: &str, options: &str) -> String {
        format!("{settings} {} {} INSERT INTO o SELECT id FROM t;", self.source(options), self.sink("id BIGINT"))
    }

    /// Records with these ids, all in one partition.
    pub fn produce(&self, partition: i32, ids: std::ops::Range<i64>) {
        self.kafka.produce(&self.input, ids.map(|id| Message::json(&json!({"id": id})).partition(partition)));
    }

    /// The committed output's values, in order of partition and offset.
    pub fn rows(&self) -> Vec<Value> {
        self.kafka.read_all(&self.output, Isolation::Committed).iter().map(|record| record.json()).collect()
    }

    /// The committed ids, sorted.
    pub fn ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.rows().iter().map(|row| row["id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        ids
    }
}
