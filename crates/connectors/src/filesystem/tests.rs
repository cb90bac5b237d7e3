//! Tests of the file sink on a real folder: which files are visible when, and what crashes leave behind.

use super::commit::Token;
use super::*;
use crate::registry::resolve_writers;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, AttemptNumber, Epoch, WriterId};
use highwater_protocol::query::Resolution;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const QUERY: QueryId = QueryId(uuid::Uuid::from_u128(7));

/// A sink in a folder of its own.
struct Sink {
    dir: tempfile::TempDir,
    table: SinkTable,
}

impl Sink {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "CREATE TABLE t (id BIGINT, name STRING) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='x:1', 'format'='json');
             CREATE TABLE o (id BIGINT, name STRING) WITH ('connector'='filesystem', 'path'='{}', {options});
             INSERT INTO o SELECT id, name FROM t;",
            dir.path().display()
        );
        let table = highwater_planner::compile(&script).unwrap().sinks[0].clone();
        Filesystem.prepare(&table, QUERY).unwrap();
        Self { dir, table }
    }

    fn writer(&self, writer: u32) -> FileWriter {
        let (table, query_name) = (self.table.clone(), "q".to_string());
        FileWriter::open(WriterConfig { table, query: QUERY, query_name, writer: WriterId(writer), epoch: 1 }).unwrap()
    }

    /// Writes and flushes these rows, and returns the writer's report.
    fn staged(&self, writer: u32, batch: u64, attempt: u64, ids: &[i64]) -> WriterReport {
        let mut writer = self.writer(writer);
        writer.begin(BatchId(batch), attempt_id(attempt), false);
        writer.write(&rows(ids)).unwrap();
        writer.flush().unwrap()
    }

    fn commit(&self, batch: u64, writers: &[&WriterReport]) -> Result<(), ConnectorError> {
        Filesystem.commit(&self.table, (QUERY, "q"), BatchId(batch), writers)
    }

    /// The visible files, by name.
    fn files(&self) -> BTreeMap<String, String> {
        files(self.dir.path())
    }

    fn staged_files(&self) -> Vec<String> {
        files(&Layout::of(&self.table, QUERY).unwrap().staged()).into_keys().collect()
    }
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())).collect()
}

fn attempt_id(number: u64) -> AttemptId {
    AttemptId { epoch: Epoch(1), number: AttemptNumber(number) }
}

fn rows(ids: &[i64]) -> ChangeBatch {
    let names: ArrayRef = Arc::new(StringArray::from_iter(ids.iter().map(|id| (*id != 2).then(|| format!("n{id}")))));
    let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    ChangeBatch::inserts(RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap())
}

#[test]
fn a_batch_is_hidden_until_its_commit_and_then_there_as_a_whole() {
    let sink = Sink::new("'format'='json'");
    let (first, second) = (sink.staged(0, 5, 1, &[1, 2]), sink.staged(1, 5, 1, &[3]));
    assert_eq!(sink.files(), BTreeMap::new());
    assert_eq!(Filesystem.newest(&sink.table, QUERY).unwrap(), None);
    let left = sink.staged(0, 5, 2, &[9]);
    let later = sink.staged(0, 6, 1, &[4]);
    sink.commit(5, &[&first, &second]).unwrap();
    let expected = |writer: u32, text: &str| {
        (format!("00000000-0000-0000-0000-000000000007-0-00000000000000000005-{writer}.json"), text.to_string())
    };
    let visible = BTreeMap::from([
        expected(0, "{\"id\":1,\"name\":\"n1\"}\n{\"id\":2,\"name\":null}\n"),
        expected(1, "{\"id\":3,\"name\":\"n3\"}\n"),
    ]);
    assert_eq!(sink.files(), visible);
    assert_eq!(Filesystem.newest(&sink.table, QUERY).unwrap(), Some(BatchId(5)));
    // Leftovers of other attempts are deleted, what a later batch has staged is not.
    assert_ne!(left.token, first.token);
    assert_eq!(sink.staged_files().len(), 1);
    sink.commit(5, &[&first, &second]).unwrap();
    assert_eq!(sink.files(), visible);
    sink.commit(6, &[&later]).unwrap();
    assert_eq!(sink.files().len(), 3);
}

#[test]
fn a_commit_that_a_crash_cut_short_is_finished_by_its_repetition() {
    let sink = Sink::new("'format'='json'");
    let writers = [sink.staged(0, 5, 1, &[1]), sink.staged(1, 5, 1, &[2])];
    let writers: Vec<&WriterReport> = writers.iter().collect();
    let layout = Layout::of(&sink.table, QUERY).unwrap();
    commit::commit_manifest(&layout, "q", BatchId(5), &writers).unwrap();
    // The manifest is there, and one of the files was moved.
    let manifest = fs::read_to_string(layout.manifest(BatchId(5))).unwrap();
    let staged = sink.staged_files();
    fs::rename(layout.staged().join(&staged[0]), sink.dir.path().join(layout.final_name(BatchId(5), WriterId(0))))
        .unwrap();
    sink.commit(5, &writers).unwrap();
    assert_eq!((sink.files().len(), sink.staged_files().len()), (2, 0));
    assert_eq!(fs::read_to_string(layout.manifest(BatchId(5))).unwrap(), manifest);
}

#[test]
fn a_reader_may_take_files_away_once_they_are_there() {
    let sink = Sink::new("'format'='json'");
    let report = sink.staged(0, 5, 1, &[1]);
    sink.commit(5, &[&report]).unwrap();
    for file in sink.files().keys() {
        fs::remove_file(sink.dir.path().join(file)).unwrap();
    }
    sink.commit(5, &[&report]).unwrap();
    assert_eq!(sink.files(), BTreeMap::new());
}

#[test]
fn an_attempt_without_a_record_is_deleted_and_no_other() {
    let sink = Sink::new("'format'='json'");
    let (kept, _, _) = (sink.staged(0, 5, 11, &[1]), sink.staged(0, 5, 1, &[2]), sink.staged(1, 5, 1, &[2]));
    Filesystem.discard(&sink.table, QUERY, BatchId(5), attempt_id(1)).unwrap();
    assert_eq!(sink.staged_files().len(), 1);
    Filesystem.discard(&sink.table, QUERY, BatchId(4), attempt_id(11)).unwrap();
    sink.commit(5, &[&kept]).unwrap();
}

#[test]
fn a_folder_that_is_gone_is_waited_for_and_not_made_up() {
    let sink = Sink::new("'format'='json'");
    Filesystem.delete_progress(&sink.table, QUERY).unwrap();
    let mut writer = sink.writer(0);
    writer.begin(BatchId(1), attempt_id(1), false);
    let error = writer.write(&rows(&[1])).unwrap_err();
    assert!(error.kind() == ErrorKind::Retry && error.to_string().contains("mount or restore the folder"), "{error}");
    assert!(!sink.dir.path().join("_highwater/00000000-0000-0000-0000-000000000007-0").exists());
}

#[test]
fn a_name_that_leads_out_of_the_folder_is_refused() {
    let sink = Sink::new("'format'='json'");
    for file in ["../../x", "00000000000000000005-0-1-1/../../x", "00000000000000000004-0-1-1"] {
        let token = Token { file: file.into(), size_bytes: 1 }.encode().unwrap();
        let report = WriterReport { token: Some(token), ..sink.staged(0, 5, 1, &[1]) };
        assert!(sink.commit(5, &[&report]).unwrap_err().to_string().contains("is not a file of batch 5"), "{file}");
    }
}

#[test]
fn what_files_cannot_hold_is_refused_at_submit() {
    let prepare = |columns: &str, path: &str, format: &str| {
        let script = format!(
            "CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='h:1', 'format'='json');
             CREATE TABLE o ({columns}) WITH ('connector'='file', 'path'='{path}', 'format'='{format}'); INSERT INTO o SELECT id FROM t;"
        );
        let table = highwater_planner::compile(&script).unwrap().sinks[0].clone();
        Filesystem.prepare(&table, QUERY).map_err(|error| error.to_string())
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert!(prepare("id BIGINT", "lake", "json").unwrap_err().contains("write an absolute path"));
    assert!(prepare("id BIGINT", path, "csv").unwrap_err().contains("is an empty line"));
    prepare("id BIGINT", path, "json").unwrap();
}

#[test]
fn an_attempt_that_is_dropped_deletes_its_file_unless_it_is_flushed() {
    let sink = Sink::new("'format'='json'");
    let mut writer = sink.writer(0);
    writer.begin(BatchId(1), attempt_id(1), false);
    writer.write(&rows(&[1])).unwrap();
    assert_eq!(sink.staged_files().len(), 1);
    writer.abort();
    assert_eq!(sink.staged_files().len(), 0);
    writer.begin(BatchId(1), attempt_id(2), false);
    writer.write(&rows(&[1])).unwrap();
    let report = writer.flush().unwrap();
    writer.abort();
    writer.begin(BatchId(2), attempt_id(3), false);
    writer.write(&rows(&[1])).unwrap();
    drop(writer);
    assert_eq!(sink.staged_files().len(), 1);
    sink.commit(1, &[&report]).unwrap();
    assert_eq!(sink.files().len(), 1);
}

#[test]
fn what_is_only_computed_again_has_the_same_digest_and_no_file() {
    let sink = Sink::new("'format'='json'");
    let first = sink.staged(0, 5, 1, &[1, 2, 3]);
    sink.commit(5, &[&first]).unwrap();
    let mut writer = sink.writer(0);
    writer.begin(BatchId(5), attempt_id(2), true);
    writer.write(&rows(&[3, 1])).unwrap();
    writer.write(&rows(&[2])).unwrap();
    let again = writer.flush().unwrap();
    assert_eq!((again.rows, again.digest, again.token), (first.rows, first.digest, None));
    assert_eq!(sink.staged_files().len(), 0);
}

#[test]
fn another_batch_of_the_same_number_is_refused() {
    let sink = Sink::new("'format'='json'");
    let first = sink.staged(0, 5, 1, &[1]);
    sink.commit(5, &[&first]).unwrap();
    let other = sink.staged(0, 5, 2, &[2]);
    let error = sink.commit(5, &[&other]).unwrap_err();
    assert!(error.kind() == ErrorKind::Fatal && error.to_string().contains("another batch 5"), "{error}");
    assert_eq!(sink.files().len(), 1);
}

#[test]
fn a_file_that_the_driver_does_not_see_stops_the_query_with_the_remedy() {
    let sink = Sink::new("'format'='json'");
    let report = sink.staged(0, 5, 1, &[1]);
    let staged = Layout::of(&sink.table, QUERY).unwrap().staged().join(&sink.staged_files()[0]);
    fs::write(&staged, "{").unwrap();
    let error = sink.commit(5, &[&report]).unwrap_err().to_string();
    assert!(error.contains("of 21 bytes has 1 bytes") && error.contains("shares with all executors"), "{error}");
    fs::remove_file(&staged).unwrap();
    let error = sink.commit(5, &[&report]).unwrap_err().to_string();
    assert!(error.contains("is not there"), "{error}");
    assert_eq!(sink.files(), BTreeMap::new());
}

#[test]
fn a_checkpoint_that_went_back_is_found_and_a_prepared_batch_is_committed() {
    let sink = Sink::new("'format'='json'");
    let resolve = |batch: Option<u64>, writers: &[&WriterReport]| {
        resolve_writers(&sink.table, (QUERY, "q"), batch.map(BatchId), writers, true).unwrap()
    };
    assert_eq!(resolve(None, &[]), BTreeMap::new());
    let report = sink.staged(0, 5, 1, &[1]);
    let empty = WriterReport { rows: 0, token: None, ..sink.staged(1, 5, 1, &[]) };
    let expected = BTreeMap::from([(WriterId(0), Resolution::Published), (WriterId(1), Resolution::NotPublished)]);
    assert_eq!(resolve(Some(5), &[&report, &empty]), expected);
    assert_eq!(sink.files().len(), 1);
    assert_eq!(resolve(Some(5), &[&report, &empty]), expected);
    let ahead = BTreeMap::from([(WriterId(0), Resolution::Ahead { batch: BatchId(5) })]);
    assert_eq!(resolve(Some(4), &[]), ahead);
    assert_eq!(resolve(Some(5), &[&empty]), ahead);
    assert_eq!(resolve(None, &[]), ahead);
    assert_eq!(resolve(Some(6), &[]), BTreeMap::new());
    // Writers that are only fenced, since their executor died, hold nothing that counts.
    let fenced = resolve_writers(&sink.table, (QUERY, "q"), None, &[&report], false).unwrap();
    assert_eq!(fenced, BTreeMap::from([(WriterId(0), Resolution::NotPublished)]));
}

#[test]
fn output_of_an_earlier_query_of_the_name_is_found_until_its_manifests_are_deleted() {
    let sink = Sink::new("'format'='json'");
    let report = sink.staged(0, 5, 1, &[1]);
    let mut earlier = Filesystem.earlier_output();
    assert_eq!(earlier.find(&sink.table, "q").unwrap(), None);
    sink.commit(5, &[&report]).unwrap();
    assert_eq!(earlier.find(&sink.table, "q").unwrap(), Some(QUERY.to_string()));
    assert_eq!(earlier.find(&sink.table, "other").unwrap(), None);
    Filesystem.delete_progress(&sink.table, QUERY).unwrap();
    assert_eq!(earlier.find(&sink.table, "q").unwrap(), None);
    assert_eq!(sink.files().len(), 1);
    Filesystem.delete_progress(&sink.table, QUERY).unwrap();
}

#[test]
fn csv_files_begin_with_their_header() {
    let sink = Sink::new("'format'='csv', 'csv.header'='true', 'csv.delimiter'=';'");
    sink.commit(1, &[&sink.staged(0, 1, 1, &[1, 2])]).unwrap();
    assert_eq!(sink.files().into_values().collect::<Vec<_>>(), ["id;name\n1;n1\n2;\n"]);
}

#[test]
fn what_it_cannot_do_is_refused_when_a_script_is_compiled() {
    let compile = |columns: &str, options: &str| {
        let script = format!(
            "CREATE TABLE t (id BIGINT, a ARRAY<BIGINT>) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='h:1', 'format'='json');
             CREATE TABLE o ({columns}) WITH ('connector'='filesystem', {options}); INSERT INTO o SELECT * FROM t;"
        );
        highwater_planner::compile(&script).map_err(|error| error.to_string())
    };
    let columns = "id BIGINT, a ARRAY<BIGINT>";
    for (columns, options, expected) in [
        (columns, "'format'='json'", "table 'o' lacks the option 'path'"),
        (columns, "'path'='/d'", "table 'o' lacks the option 'format'"),
        (columns, "'path'='/d', 'format'='raw'", "'raw'"),
        (columns, "'path'='/d', 'format'='csv'", "'a'"),
        (
            "id BIGINT, a ARRAY<BIGINT>, PRIMARY KEY (id) NOT ENFORCED",
            "'path'='/d', 'format'='json'",
            "'o' has a PRIMARY KEY",
        ),
    ] {
        let error = compile(columns, options).unwrap_err();
        assert!(error.contains(expected), "{options}: {error}");
    }
    assert!(compile(columns, "'path'='/d', 'format'='json'").is_ok());
}
