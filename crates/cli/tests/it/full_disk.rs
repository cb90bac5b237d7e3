//! A disk that is really full: a file system of a few megabytes, and files of limited size.

use crate::table::Tables;
use highwater_testkit::Highwater;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Runs a command with a small file system at `$1`, which ends with the command. Other processes see it through
/// `/proc`.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=32m tmpfs "$1" && shift && exec "$@""#;
/// Runs a command whose files may have at most `$1` blocks of 512 bytes. A longer write is an error, not a signal.
const WITH_SMALL_FILES: &str = r#"trap '' XFSZ; ulimit -f "$1" && shift && exec "$@""#;

/// Writes until the disk is full.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("other");
    let mut file = File::create(&path).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        if file.write_all(&vec![1; size]).is_err() {
            size /= 2;
        }
    }
    path
}

#[test]
fn a_query_waits_while_the_disk_is_full_and_continues_when_there_is_space() {
    let tables = Tables::new("full-disk", 2);
    let mut cluster = Highwater::stopped();
    let data = cluster.data_dir();
    std::fs::create_dir(&data).unwrap();
    let mut wrapper = vec!["unshare", "--mount"];
    // A user who is not root may mount in a user namespace.
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    wrapper.extend((!is_root).then_some("--map-root-user"));
    wrapper.extend(["sh", "-c", ON_A_SMALL_DISK, "sh", data.to_str().unwrap()]);
    cluster.start_driver_under(&wrapper, &[], &[]);
    cluster.add_executor(&[]);
    cluster.submit("q", &tables.copy("", ""));
    tables.produce(0, 0..100);
    cluster.wait_caught_up("q");
    let disk = PathBuf::from(format!("/proc/{}/root{}", cluster.driver().id(), data.display()));
    let other = fill(&disk);
    tables.produce(1, 100..200);
    let status = cluster.wait_state("q", &["waiting"]);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("free space") && message.contains(data.to_str().unwrap()), "{message}");
    tables.produce(0, 200..300);
    std::fs::remove_file(other).unwrap();
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids(), (0..300).collect::<Vec<_>>());
    assert_eq!(cluster.status("q")["state"], "running");
}

#[test]
fn a_failed_write_of_the_head_store_is_reported_and_a_restart_repairs_it() {
    // Many partitions make large records, which fill the head store soon.
    let tables = Tables::new("full-head", 64);
    let mut cluster = Highwater::stopped();
    cluster.start_driver_under(&["sh", "-c", WITH_SMALL_FILES, "sh", "1100"], &[], &[]);
    cluster.add_executor(&[]);
    cluster.submit("q", &tables.copy("", ""));
    cluster.wait_state("q", &["running"]);
    let mut produced = 0;
    let message = cluster.wait("the head store to fail", || {
        // Nearly each record is a batch: the head store grows by batches.
        for _ in 0..25 {
            tables.produce(0, produced..produced + 1);
            produced += 1;
        }
        let status = cluster.status("q");
        (status["state"] != "running").then(|| status["message"].as_str().unwrap().to_string())
    });
    assert!(message.contains("restart the driver"), "{message}");
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids(), (0..produced).collect::<Vec<_>>());
}
