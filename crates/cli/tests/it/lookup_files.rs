//! Files that rows look up: one version per batch, on all executors and in a repetition.

use highwater_testkit::{Highwater, Isolation, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

struct Case {
    kafka: &'static KafkaCluster,
    name: &'static str,
    path: PathBuf,
}

impl Case {
    fn new(name: &'static str, cluster: &Highwater, items: &str) -> Self {
        let kafka = KafkaCluster::shared();
        kafka.create_topic(&format!("{name}-in"), 2);
        kafka.create_topic(&format!("{name}-out"), 2);
        let case = Self { kafka, name, path: cluster.path().join("items.csv") };
        case.write(items);
        case
    }

    /// Replaces the file atomically.
    fn write(&self, items: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, items).unwrap();
        std::fs::rename(&new, &self.path).unwrap();
    }

    fn produce(&self, ids: std::ops::Range<i64>) {
        let message = |id: i64| {
            Message::json(&json!({"id": id, "item": "a"})).key(json!({"id": id}).to_string()).partition((id % 2) as i32)
        };
        self.kafka.produce(&format!("{}-in", self.name), ids.map(message));
    }

    /// `key` is added after the columns of both topics' tables, `options` to the file's options.
    fn script(&self, key: &str, options: &str) -> String {
        let with = |topic: &str| {
            let servers = self.kafka.bootstrap_servers();
            let name = self.name;
            format!(
                "WITH ('connector'='kafka', 'topic'='{name}-{topic}', 'bootstrap.servers'='{servers}', 'format'='json')"
            )
        };
        format!(
            "CREATE TABLE t (id BIGINT, item STRING{key}) {}; CREATE TABLE o (id BIGINT, price STRING{key}) {}; \
             CREATE TABLE items (item STRING, price STRING) WITH ('connector'='filesystem', 'path'='{}', 'format'='csv'{options}); \
             INSERT INTO o SELECT id, price FROM t JOIN items ON t.item = items.item;",
            with("in"),
            with("out"),
            self.path.display()
        )
    }

    /// The last price of each id; that of a deleted one is NULL.
    fn prices(&self) -> BTreeMap<i64, Option<String>> {
        let records = self.kafka.read_all(&format!("{}-out", self.name), Isolation::Committed);
        let row = |record: &highwater_testkit::Record| match record.text() {
            Some(_) => {
                let row = record.json();
                (row["id"].as_i64().unwrap(), row["price"].as_str().map(str::to_string))
            }
            None => {
                let key: Value = serde_json::from_str(&record.key_text().unwrap()).unwrap();
                (key["id"].as_i64().unwrap(), None)
            }
        };
        records.iter().map(row).collect()
    }

    fn all_are(&self, ids: std::ops::Range<i64>, price: &str) {
        let prices = self.prices();
        for id in ids {
            assert_eq!(prices.get(&id), Some(&Some(price.to_string())), "id {id} of {prices:?}");
        }
    }
}

#[test]
fn a_prepared_batch_is_finished_with_the_content_it_was_planned_with() {
    let mut cluster = Highwater::stopped();
    let case = Case::new("lookup-finish", &cluster, "a,old\n");
    cluster.start_driver(&[("HIGHWATER_CRASH_POINT", "driver_after_prepare".to_string())]);
    cluster.add_executor(&[]);
    cluster.add_executor(&[]);
    case.produce(0..20);
    cluster.submit("lookup-finish", &format!("SET min_offsets_per_trigger = 20; {}", case.script("", "")));
    cluster.driver().wait(std::time::Duration::from_secs(60));
    // The new content has not been read yet, and no file has the old content now.
    case.write("a,new\n");
    cluster.start_driver(&[]);
    cluster.wait_caught_up("lookup-finish");
    case.all_are(0..20, "old");
    case.produce(20..40);
    cluster.wait_caught_up("lookup-finish");
    case.all_are(0..20, "old");
    case.all_are(20..40, "new");
    assert_eq!(case.kafka.read_all("lookup-finish-out", Isolation::Committed).len(), 40);
}

#[test]
fn a_refreshed_file_is_looked_up_in_its_newest_readable_version() {
    let cluster = Highwater::start(2);
    let case = Case::new("lookup-refresh", &cluster, "a,1\n");
    cluster.submit("lookup-refresh", &case.script("", ", 'refresh'='100 milliseconds'"));
    let mut last = 0;
    let mut look_up = |price: &str| {
        cluster.wait(&format!("price {price}"), || {
            case.produce(last..last + 1);
            cluster.wait_caught_up("lookup-refresh");
            last += 1;
            (case.prices()[&(last - 1)].as_deref() == Some(price)).then_some(())
        });
    };
    look_up("1");
    case.write("a,2\n");
    look_up("2");
    let warned = |text: &str| {
        cluster.wait(text, || cluster.status("lookup-refresh")["warnings"].to_string().contains(text).then_some(()));
    };
    std::fs::remove_file(&case.path).unwrap();
    warned("rows look up the version read before");
    look_up("2");
    case.write("a\n");
    warned("rows look up the version read before");
    look_up("2");
    case.write("a,4\n");
    look_up("4");
    cluster.wait("no warning", || (cluster.status("lookup-refresh")["warnings"] == json!([])).then_some(()));
    // Content that no batch needs is deleted.
    let blobs = || walk(&cluster.data_dir().join("blobs")).into_iter().filter(|name| name.starts_with("file-")).count();
    for _ in 0..3 {
        look_up("4");
    }
    assert_eq!(blobs(), 1);
}

fn walk(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(walk(&path));
        } else {
            names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    names
}

#[test]
fn rows_retracted_after_a_restart_are_those_that_were_written() {
    let mut cluster = Highwater::start(1);
    let case = Case::new("lookup-pinned", &cluster, "a,old\n");
    cluster.submit("lookup-pinned", &case.script(", PRIMARY KEY (id) NOT ENFORCED", ""));
    case.produce(0..4);
    cluster.wait_caught_up("lookup-pinned");
    cluster.kill_driver();
    // The item is gone: rows retracted with the new content would not be found, and would stay.
    case.write("b,new\n");
    cluster.start_driver(&[]);
    let tombstone = |id: i64| Message::tombstone(json!({"id": id}).to_string()).partition((id % 2) as i32);
    case.kafka.produce("lookup-pinned-in", (0..2).map(tombstone));
    case.produce(4..6);
    cluster.wait_caught_up("lookup-pinned");
    let prices = case.prices();
    assert_eq!((&prices[&0], &prices[&1]), (&None, &None), "{prices:?}");
    case.all_are(2..6, "old");
    let warnings = cluster.status("lookup-pinned")["warnings"].to_string();
    assert!(warnings.contains("is not what it was when the query began"), "{warnings}");
}

#[test]
fn a_missing_file_is_refused_at_submit_and_waited_for_afterwards() {
    let mut cluster = Highwater::start(1);
    let case = Case::new("lookup-missing", &cluster, "a,1\n");
    let script = cluster.file("lookup-missing.sql", &case.script("", ""));
    std::fs::remove_file(&case.path).unwrap();
    let refused = cluster.run(&["submit", &script]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("table 'items'") && told.contains("No such file"), "{told}");
    assert_eq!(cluster.json(&["ls"]), json!([]));
    case.write("a,1\n");
    cluster.ok(&["submit", &script]);
    cluster.wait_caught_up("lookup-missing");
    cluster.kill_driver();
    std::fs::remove_file(&case.path).unwrap();
    cluster.start_driver(&[]);
    case.produce(0..3);
    cluster.wait("the reason", || {
        let status = cluster.status("lookup-missing");
        (status["state"] == "waiting" && status["message"].to_string().contains("No such file")).then_some(())
    });
    case.write("a,2\n");
    cluster.wait_caught_up("lookup-missing");
    case.all_are(0..3, "2");
}
