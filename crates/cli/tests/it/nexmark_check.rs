//! Nexmark checked against DuckDB: events for both, results of topics in files, and the comparison.
//!
//! Shared by the tests and the benchmark. Owns: the files. Does not own: the comparison (`nexmark/compare.py` and the
//! SQL in its folder).

use highwater::bench::nexmark::events::{Settings, Stream, records, side_input};
use highwater_testkit::{Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files of one set of events, and of results computed from it.
pub struct Check {
    folder: tempfile::TempDir,
    python: PathBuf,
}

impl Check {
    /// Installs DuckDB if it is missing.
    pub fn new() -> Self {
        let script = repository().join("scripts/duckdb.sh");
        let found = Command::new(&script).stderr(Stdio::inherit()).output().unwrap();
        assert!(found.status.success(), "{} failed: see above", script.display());
        let python = String::from_utf8(found.stdout).unwrap().trim().into();
        Self { folder: tempfile::Builder::new().prefix("highwater-nexmark-").tempdir().unwrap(), python }
    }

    /// Path of q13's side input.
    pub fn side_input(&self) -> String {
        self.events().join("side-input.csv").display().to_string()
    }

    /// Folder of the events.
    pub fn events(&self) -> PathBuf {
        self.folder.path().join("events")
    }

    /// Writes the events to new topics `PREFIX-person`, … and to files.
    pub fn write_events(&self, kafka: &KafkaCluster, prefix: &str, settings: Settings) {
        std::fs::create_dir(self.events()).unwrap();
        std::fs::write(self.side_input(), side_input()).unwrap();
        let topics = Stream::ALL.map(|stream| format!("{prefix}-{}", stream.name()));
        topics.iter().for_each(|topic| kafka.create_topic(topic, settings.partitions as i32));
        let file = |stream: Stream| File::create(self.events().join(format!("{}.json", stream.name()))).unwrap();
        let mut files = Stream::ALL.map(|stream| BufWriter::new(file(stream)));
        kafka.produce_to(records(settings).map(|record| {
            let record = record.unwrap();
            let file = &mut files[record.stream as usize];
            file.write_all(&record.value).unwrap();
            file.write_all(b"\n").unwrap();
            let message = Message::new(record.value).partition(record.partition as i32);
            (topics[record.stream as usize].as_str(), message)
        }));
        files.iter_mut().for_each(|file| file.flush().unwrap());
    }

    /// Saves what a query wrote among the results called `run`.
    pub fn save_result(&self, kafka: &KafkaCluster, topic: &str, run: &str, query: &str) {
        let folder = self.folder.path().join(run);
        std::fs::create_dir_all(&folder).unwrap();
        let mut file = BufWriter::new(File::create(folder.join(format!("{query}.json"))).unwrap());
        kafka.read_each(topic, Isolation::Committed, |record| {
            let key = json!(record.key_text());
            let value = record.text().unwrap_or_else(|| "null".into());
            let (partition, offset) = (record.partition, record.offset);
            writeln!(file, r#"{{"p":{partition},"o":{offset},"k":{key},"v":{value}}}"#).unwrap();
        });
        file.flush().unwrap();
    }

    /// Compares all results of these runs. Returns a verdict for each: the number of rows, or what is wrong.
    pub fn compare(&self, runs: &[&str]) -> Vec<Value> {
        let compared = Command::new(&self.python)
            .arg(repository().join("crates/cli/nexmark/compare.py"))
            .arg(self.events())
            .args(runs.iter().map(|run| self.folder.path().join(run)))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let text = String::from_utf8(compared.stdout).unwrap();
        let verdicts: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let differs = verdicts.iter().any(|verdict| verdict["wrong"] != Value::Null);
        assert!(differs || compared.status.success(), "the comparison failed: see above");
        verdicts
    }

    /// Creates an artificial result, one record per line.
    #[allow(dead_code, reason = "the benchmark makes none up")]
    pub fn make_result(&self, run: &str, query: &str, lines: &[String]) {
        let folder = self.folder.path().join(run);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{query}.json")), lines.join("\n")).unwrap();
    }

    /// Deletes the results of a run, which may be large.
    #[allow(dead_code, reason = "the tests keep theirs")]
    pub fn forget(&self, run: &str) {
        std::fs::remove_dir_all(self.folder.path().join(run)).unwrap();
    }
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
