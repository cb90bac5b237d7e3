//! Rows look up files, version by version.

use crate::harness::Snapshots;
use crate::harness::snapshots::block_on;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater_dataflow::runtime::{BatchContext, Emit, OnFailure, TaskRuntime};
use highwater_dataflow::state::QueryState;
use highwater_operators::lookup::LookupRows;
use highwater_planner::{CompiledQuery, compile};
use highwater_protocol::files::FileVersions;
use highwater_protocol::ids::StageId;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// A file of this content, and a script that looks it up for records `(id, k)` of `ids`.
struct Case {
    file: tempfile::NamedTempFile,
    query: CompiledQuery,
}

fn case(content: &str, options: &str, select: &str) -> Case {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let query = of_path(file.path(), options, select);
    Case { file, query }
}

fn of_path(path: &Path, options: &str, select: &str) -> CompiledQuery {
    let kafka = "WITH ('connector'='kafka','topic'='t','bootstrap.servers'='localhost:1','format'='json')";
    let path = path.display();
    let query = compile(&format!(
        "CREATE TABLE ids (id BIGINT, k STRING) {kafka}; CREATE TABLE o (a BIGINT, b STRING) {kafka}; \
         CREATE TABLE side (key BIGINT, `value` STRING) WITH ('connector'='filesystem', 'path'='{path}', {options}); \
         INSERT INTO o {select};"
    ));
    query.unwrap()
}

impl Case {
    /// Returns the rows of the sink for records with ids 1 to 3 and one without id, and the current file.
    fn rows(&self) -> Result<Vec<String>, String> {
        let snapshots = read(&self.query)?;
        self.rows_of(&snapshots, snapshots.versions.clone())
    }

    fn rows_of(&self, snapshots: &Snapshots, files: FileVersions) -> Result<Vec<String>, String> {
        let loaded = block_on(self.query.load_snapshots(&files, snapshots, u64::MAX));
        loaded.map_err(|error| error.to_string())?;
        let state = QueryState::new(&self.query.dataflow).task(StageId(0), 0..0).unwrap();
        let context = BatchContext { shards: 1, files, ..BatchContext::default() };
        let sinks = BTreeMap::new();
        let mut task = TaskRuntime::new(&self.query.dataflow, &sinks, StageId(0), &context, state).unwrap();
        let source = &self.query.sources[0];
        let ids = Int64Array::from(vec![Some(1), Some(2), Some(3), None]);
        let all = vec![Arc::new(ids) as _, Arc::new(StringArray::from(vec!["a", "b", "c", "d"])) as _];
        let batch = RecordBatch::try_new(source.schema.clone(), all).unwrap().project(&source.columns_used).unwrap();
        let mut out = Vec::new();
        assert!(task.push_source(batch, OnFailure::Stop, &mut out).unwrap().is_empty());
        task.finish(&mut out).unwrap();
        let mut rows = Vec::new();
        for emit in out {
            let Emit::Sink { rows: given, .. } = emit else { continue };
            let options = FormatOptions::default().with_null("-");
            let columns: Vec<ArrayFormatter> =
                given.batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
            rows.extend(
                (0..given.num_rows()).map(|row| format!("{} {}", columns[0].value(row), columns[1].value(row))),
            );
        }
        rows.sort();
        Ok(rows)
    }
}

/// Reads the current tables.
fn read(query: &CompiledQuery) -> Result<Snapshots, String> {
    let mut snapshots = Snapshots::default();
    snapshots.read(&query.snapshot_tables())?;
    Ok(snapshots)
}

const CSV: &str = "1,one\n3,three\n3,drei\n7,seven\n";

#[test]
fn each_record_finds_its_rows() {
    for (select, expected) in [
        (
            "SELECT id, s.`value` FROM ids JOIN side FOR SYSTEM_TIME AS OF PROCTIME() AS s ON id = s.key",
            vec!["1 one", "3 drei", "3 three"],
        ),
        (
            "SELECT id, `value` FROM ids LEFT JOIN side ON id = key AND `value` <> 'drei'",
            vec!["- -", "1 one", "2 -", "3 three"],
        ),
        ("SELECT id, `value` FROM side RIGHT JOIN ids ON id = key WHERE id < 3", vec!["1 one", "2 -"]),
        ("SELECT id, k FROM ids WHERE id IN (SELECT key FROM side)", vec!["1 a", "3 c"]),
        ("SELECT id, k FROM ids WHERE NOT EXISTS (SELECT 1 FROM side WHERE key = id)", vec!["- d", "2 b"]),
        ("SELECT id, k FROM ids WHERE id NOT IN (SELECT key FROM side WHERE key > 1)", vec!["1 a", "2 b"]),
        ("SELECT id, m FROM ids CROSS JOIN (SELECT max(`value`) AS m FROM side) x WHERE id = 1", vec!["1 three"]),
        (
            "SELECT id, n FROM ids JOIN (SELECT key, CAST(count(*) AS STRING) AS n FROM side GROUP BY key) x ON key % 2 = id % 2 AND key >= id",
            vec!["1 1", "1 1", "1 2", "3 1", "3 2"],
        ),
    ] {
        assert_eq!(case(CSV, "'format'='csv'", select).rows().unwrap(), expected, "{select}");
    }
    let select = "SELECT id, `value` FROM ids JOIN side ON id = key";
    let other = case("key;value\n1;eins\n", "'format'='csv', 'csv.header'='true', 'csv.delimiter'=';'", select);
    assert_eq!(other.rows().unwrap(), ["1 eins"]);
    let quoted = case("1,'a,b'\n2,x\n", "'format'='csv', 'csv.quote'=''''", select);
    assert_eq!(quoted.rows().unwrap(), ["1 a,b", "2 x"]);
    let json = case("{\"key\": 2, \"value\": \"zwei\", \"more\": 1}\n", "'format'='json'", select);
    assert_eq!(json.rows().unwrap(), ["2 zwei"]);
}

#[test]
fn rows_look_up_the_version_their_plan_names() {
    let select = "SELECT id, `value` FROM ids JOIN side ON id = key";
    let case = case("1,one\n", "'format'='csv'", select);
    let old = read(&case.query).unwrap();
    assert_eq!(case.rows_of(&old, old.versions.clone()).unwrap(), ["1 one"]);
    std::fs::write(case.file.path(), "1,new\n").unwrap();
    let new = read(&case.query).unwrap();
    assert_eq!(case.rows_of(&old, old.versions.clone()).unwrap(), ["1 one"], "loaded already");
    assert_eq!(case.rows_of(&new, new.versions.clone()).unwrap(), ["1 new"]);
    assert_ne!(old.versions["side"], new.versions["side"]);
    let error = case.rows_of(&new, old.versions).unwrap_err();
    assert!(error.contains("no content"), "{error}");
}

#[test]
fn a_version_is_loaded_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), "1,first\n3,three\n").unwrap();
    let side = of_path(folder.path(), "'format'='csv'", "SELECT id, `value` FROM ids JOIN side ON id = key");
    let load = |snapshots: &Snapshots| block_on(side.load_snapshots(&snapshots.versions, snapshots, u64::MAX)).unwrap();
    let full = read(&side).unwrap();
    assert_eq!((load(&full), load(&full)), (true, false));
    assert_eq!(side.lookups[0].rows(&full.versions).unwrap().num_rows(), 2);
    std::fs::remove_file(folder.path().join("a.csv")).unwrap();
    let empty = read(&side).unwrap();
    assert!(load(&empty));
    assert_eq!(side.lookups[0].rows(&empty.versions).unwrap().num_rows(), 0, "an empty folder is an empty table");
}

#[test]
fn tables_that_take_too_much_memory_are_refused() {
    let case = case(CSV, "'format'='csv'", "SELECT id, `value` FROM ids JOIN side ON id = key");
    let snapshots = read(&case.query).unwrap();
    let error = block_on(case.query.load_snapshots(&snapshots.versions, &snapshots, 10)).unwrap_err().to_string();
    assert!(error.contains("the maximum is 10;") && error.contains("--query-memory"), "{error}");
}
