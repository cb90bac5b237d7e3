//! A head store restored from an older copy: every start is refused, with the remedy.

use crate::table::Tables;
use highwater_testkit::Highwater;
use highwater_testkit::highwater::DEADLINE;
use std::path::Path;
use std::process::Command;

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

fn message_of_failed(cluster: &Highwater) -> String {
    cluster.wait_state("back", &["failed"])["message"].as_str().unwrap().to_string()
}

#[test]
fn an_older_head_store_is_refused_by_epoch_by_batch_and_by_the_sinks_progress() {
    let tables = Tables::new("went-back", 1);
    let mut cluster = Highwater::start(0);
    cluster.submit("back", &tables.copy("SET max_offsets_per_trigger = 10;", ""));
    cluster.wait_state("back", &["waiting"]);
    cluster.kill_driver();
    let (head, old) = (cluster.data_dir().join("head"), cluster.path().join("old"));
    copy(&head, &old);

    cluster.start_driver(&[]);
    cluster.add_executor(&[]);
    tables.produce(0, 0..50);
    cluster.wait_caught_up("back");
    let query = cluster.progress("back")[0]["id"].as_str().unwrap().to_string();
    cluster.kill_driver();

    // The whole store is behind.
    copy(&old, &head);
    cluster.start_driver(&[]);
    let driver = cluster.driver();
    assert!(!driver.wait(DEADLINE).success());
    let stderr = driver.stderr();
    assert!(stderr.contains("epoch 2 was claimed") && stderr.contains("ends at epoch 1"), "{stderr}");

    // Only the query is behind.
    let marks = cluster.data_dir().join("marks");
    std::fs::remove_file(marks.join("epoch")).unwrap();
    cluster.start_driver(&[]);
    let message = message_of_failed(&cluster);
    assert!(message.contains("was prepared, but the head store has no batch"), "{message}");
    assert!(message.contains("--new-output"), "{message}");

    // The sink shows it, too: it holds a batch and a writer that the checkpoint does not know.
    for mark in std::fs::read_dir(&marks).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::remove_file(mark).unwrap();
    }
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.ok(&["start", "back"]);
    let message = message_of_failed(&cluster);
    assert!(message.contains("the sink is ahead") && message.contains("the checkpoint has no batch"), "{message}");
    assert_eq!(tables.ids(), (0..50).collect::<Vec<_>>(), "nothing was written twice");

    // The remedy.
    cluster.ok(&["drop", "back", "--delete-progress"]);
    let topics = tables.kafka.topics();
    assert!(!topics.iter().any(|topic| topic.contains(&query)), "its progress is still there: {topics:?}");
    let path = cluster.file("back.sql", &tables.copy("", ""));
    cluster.ok(&["submit", &path]);
    cluster.wait("the rows again", || (tables.ids().len() == 100).then_some(()));
}
