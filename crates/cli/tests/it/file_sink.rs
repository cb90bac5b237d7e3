//! Files as a sink, beside Kafka: exactly once through kills of driver and executor wherever a batch is committed.

use highwater_testkit::highwater::DEADLINE;
use highwater_testkit::{Highwater, KafkaCluster, Payments};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PARTITIONS: u64 = 4;
const RECORDS: u64 = 8_000;

/// The script of `payments`, with its large payments in files, too.
fn script(payments: &Payments, folder: &Path) -> String {
    format!(
        "{} CREATE TABLE lake (id BIGINT, account STRING) WITH ('connector'='filesystem', 'path'='{}', 'format'='json');
         INSERT INTO lake SELECT id, account FROM payments WHERE amount >= 900;",
        payments.sql("SET max_offsets_per_trigger = 1000;"),
        folder.display()
    )
}

/// Files in a folder, its subfolders left out.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

fn ids(text: &str) -> impl Iterator<Item = u64> {
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64().unwrap())
}

/// The folder holds exactly the large ones of the first `records` payments: by its files, and by its manifests.
#[track_caller]
fn assert_exact(folder: &Path, records: u64) {
    let visible = files(folder);
    let mut found: Vec<u64> =
        visible.iter().flat_map(|file| ids(&fs::read_to_string(file).unwrap()).collect::<Vec<_>>()).collect();
    found.sort_unstable();
    let expected: Vec<u64> = (0..records).filter(|id| id % 1000 >= 900).collect();
    assert_eq!(found.len(), expected.len(), "rows lost or doubled");
    assert_eq!(found, expected);
    let mut listed = BTreeSet::new();
    for own in fs::read_dir(folder.join("_highwater")).unwrap().map(|entry| entry.unwrap().path()) {
        for manifest in files(&own) {
            let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
            for file in manifest["files"].as_array().unwrap() {
                let path = folder.join(file["path"].as_str().unwrap());
                let text = fs::read_to_string(&path).unwrap();
                assert_eq!(text.len() as u64, file["sizeBytes"].as_u64().unwrap());
                assert_eq!(ids(&text).count() as u64, file["numRows"].as_u64().unwrap());
                assert!(listed.insert(path), "a file is of two batches");
            }
        }
        assert_eq!(files(&own.join("staged")), BTreeSet::new(), "leftovers of attempts");
    }
    assert_eq!(listed, visible);
}

#[test]
fn files_hold_every_row_once_wherever_driver_and_executor_are_killed() {
    let points = [
        ("driver_before_prepare:2", true),
        ("driver_after_prepare:2", true),
        ("driver_mid_commit_of_files:3", true),
        ("driver_after_publish:2", true),
        ("executor_after_flush:3", false),
        ("executor_before_publish:3", false),
        ("executor_after_promote:2", false),
    ];
    for (round, (point, of_driver)) in points.into_iter().enumerate() {
        let payments = Payments::new(KafkaCluster::shared(), &format!("file-sink-{round}"), PARTITIONS as i32);
        payments.produce(0..RECORDS, PARTITIONS);
        let mut cluster = Highwater::stopped();
        let folder = cluster.path().join("lake");
        let log = cluster.path().join("crash.log");
        let armed =
            [("HIGHWATER_CRASH_POINT", point.to_string()), ("HIGHWATER_CRASH_LOG", log.to_str().unwrap().to_string())];
        cluster.start_driver(if of_driver { &armed } else { &[] });
        cluster.add_executor(&[]);
        let second = cluster.add_executor(if of_driver { &[] } else { &armed });
        cluster.submit("totals", &script(&payments, &folder));
        if of_driver {
            cluster.driver().wait(DEADLINE);
            assert!(log.exists(), "the driver died elsewhere than at {point}\n{}", cluster.logs());
            cluster.start_driver(&armed);
        } else {
            cluster.executor(second).wait(DEADLINE);
            assert!(log.exists(), "the executor died elsewhere than at {point}\n{}", cluster.logs());
        }
        cluster.wait_caught_up("totals");
        payments.assert_exact(RECORDS);
        assert_exact(&folder, RECORDS);
        payments.produce(RECORDS..RECORDS + 1_000, PARTITIONS);
        cluster.wait_caught_up("totals");
        payments.assert_exact(RECORDS + 1_000);
        assert_exact(&folder, RECORDS + 1_000);
    }
}

#[test]
fn a_query_of_the_same_name_does_not_write_the_files_again_unnoticed() {
    let payments = Payments::new(KafkaCluster::shared(), "file-sink-again", PARTITIONS as i32);
    payments.produce(0..RECORDS, PARTITIONS);
    let cluster = Highwater::start(1);
    let folder = cluster.path().join("lake");
    let script = format!(
        "CREATE TABLE payments (id BIGINT, account STRING, amount BIGINT) WITH ('connector'='kafka', 'topic'='{}',
           'bootstrap.servers'='{}', 'format'='json');
         CREATE TABLE lake (id BIGINT, account STRING) WITH ('connector'='filesystem', 'path'='{}', 'format'='json');
         INSERT INTO lake SELECT id, account FROM payments WHERE amount >= 900;",
        payments.source,
        payments.kafka.bootstrap_servers(),
        folder.display()
    );
    cluster.submit("archive", &script);
    cluster.wait_caught_up("archive");
    assert_exact(&folder, RECORDS);
    cluster.ok(&["drop", "archive", "--force"]);
    let file = cluster.file("again.sql", &script);
    let refused = cluster.run(&["submit", &file, "--name", "archive"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--new-output"),
        "{refused:?}"
    );
    assert_exact(&folder, RECORDS);
}
