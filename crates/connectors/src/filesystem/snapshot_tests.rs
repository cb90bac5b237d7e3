//! Tests of lookup files: their versions and rows.

use super::*;
use crate::registry::{newest_snapshot, snapshot_rows};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fs;

/// A folder that is the lookup table `side (key BIGINT, value STRING)`.
struct Side {
    dir: tempfile::TempDir,
    table: SnapshotTable,
}

impl Side {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path().to_str().unwrap(), options);
        Self { dir, table }
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.dir.path().join(name), content).unwrap();
    }

    async fn newest(&self) -> Result<SnapshotVersion, String> {
        let newest = newest_snapshot(&self.table, None).await.map_err(|error| error.to_string());
        newest.map(Option::unwrap)
    }

    /// Returns the values that an executor reads from copies of the version's files.
    async fn values(&self, version: &SnapshotVersion) -> Vec<String> {
        let copies = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (content, bytes) in version.contents.iter().zip(&version.bytes) {
            assert_eq!(FileContent::of(bytes), *content);
            paths.push(copies.path().join(content.digest.to_string()));
            fs::write(paths.last().unwrap(), bytes).unwrap();
        }
        let mut values = Vec::new();
        for batch in snapshot_rows(&self.table, &paths).await.unwrap() {
            let column = batch.column_by_name("value").unwrap();
            let column = ArrayFormatter::try_new(column, &FormatOptions::default()).unwrap();
            values.extend((0..batch.num_rows()).map(|row| column.value(row).to_string()));
        }
        values
    }
}

fn table(path: &str, options: &str) -> SnapshotTable {
    let kafka = "WITH ('connector'='kafka', 'topic'='t', 'bootstrap.servers'='x:1', 'format'='json')";
    let script = format!(
        "CREATE TABLE ids (id BIGINT) {kafka}; CREATE TABLE o (id BIGINT, b STRING) {kafka};
         CREATE TABLE side (key BIGINT, `value` STRING) WITH ('connector'='filesystem', 'path'='{path}', {options});
         INSERT INTO o SELECT id, `value` FROM ids JOIN side ON id = key;"
    );
    highwater_planner::compile(&script).unwrap().snapshot_tables().remove(0)
}

#[tokio::test]
async fn a_folder_is_its_files_in_the_order_of_their_names() {
    let side = Side::new("'format'='csv'");
    for (name, content) in [("b.csv", "1,second\n"), ("a.csv", "1,first\n3,three\n"), ("_log", "x"), (".hidden", "x")] {
        side.write(name, content);
    }
    let newest = side.newest().await.unwrap();
    assert_eq!(newest.contents.len(), 2);
    assert_eq!(side.values(&newest).await, ["first", "three", "second"]);
    side.write("c.csv", "");
    side.write("d.csv", "1,second\n");
    let newest = side.newest().await.unwrap();
    assert_eq!(newest.contents.len(), 4);
    assert_eq!(side.values(&newest).await, ["first", "three", "second", "second"], "one empty, two the same");
    for file in ["a.csv", "b.csv", "c.csv", "d.csv"] {
        fs::remove_file(side.dir.path().join(file)).unwrap();
    }
    let empty = side.newest().await.unwrap();
    assert_eq!((empty.contents.len(), side.values(&empty).await.len()), (0, 0), "an empty folder is an empty table");
}

#[tokio::test]
async fn a_known_version_is_not_read_again() {
    let side = Side::new("'format'='json'");
    side.write("a", "{\"key\": 2, \"value\": \"zwei\", \"more\": 1}\n");
    let newest = side.newest().await.unwrap();
    assert_eq!(side.values(&newest).await, ["zwei"]);
    assert_eq!(newest_snapshot(&side.table, Some(&newest.contents)).await.unwrap(), None);
    // The same content in other files is the same version.
    fs::rename(side.dir.path().join("a"), side.dir.path().join("z")).unwrap();
    assert_eq!(newest_snapshot(&side.table, Some(&newest.contents)).await.unwrap(), None);
    side.write("b", "{\"key\": 1, \"value\": \"eins\"}\n");
    let both = newest_snapshot(&side.table, Some(&newest.contents)).await.unwrap().unwrap();
    assert_eq!(side.values(&both).await, ["eins", "zwei"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_told() {
    let side = Side::new("'format'='csv'");
    side.write("a.csv", "x,one\n");
    let error = side.newest().await.unwrap_err();
    assert!(error.contains("table 'side'") && error.contains("must be on the driver's machine"), "{error}");
    fs::remove_dir_all(side.dir.path()).unwrap();
    let error = newest_snapshot(&side.table, None).await.unwrap_err();
    assert_eq!(error.kind(), highwater_protocol::error::ErrorKind::Fix);
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[tokio::test]
async fn what_a_reference_in_the_path_stands_for_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (name, secret) = (dir.path().join("name"), dir.path().join("hidden-name"));
    fs::write(&name, secret.to_str().unwrap()).unwrap();
    let side = table(&format!("${{file:{}}}", name.display()), "'format'='csv'");
    // A socket is there, and cannot be opened as a file.
    let socket = std::os::unix::net::UnixListener::bind(&secret).unwrap();
    let unopened = newest_snapshot(&side, None).await.unwrap_err().to_string();
    drop(socket);
    fs::remove_file(&secret).unwrap();
    fs::write(&secret, "x,one\n").unwrap();
    let unparsed = newest_snapshot(&side, None).await.unwrap_err().to_string();
    for error in [unopened, unparsed] {
        assert!(error.contains("'${file:") && !error.contains("hidden-name"), "{error}");
    }
}
