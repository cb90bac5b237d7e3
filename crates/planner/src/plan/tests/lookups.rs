//! Files that records look up: plans, rows and errors.

use super::*;
use crate::files::LocalFiles;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater_dataflow::runtime::{BatchContext, Emit, OnFailure, TaskRuntime};
use highwater_dataflow::state::QueryState;
use highwater_operators::lookup::LookupRows;
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
    let query = query.unwrap();
    check(&query);
    query
}

impl Case {
    /// Returns the rows of the sink for records with ids 1 to 3 and one without id, and the current file.
    fn rows(&self) -> Result<Vec<String>, String> {
        let (local, files) = LocalFiles::look(&self.query.file_tables()).map_err(|error| error.to_string())?;
        self.rows_of(&local, files)
    }

    fn rows_of(&self, local: &LocalFiles, files: FileVersions) -> Result<Vec<String>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.query.load_files(&files, local, u64::MAX)).map_err(|error| error.to_string())?;
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
    let look = || LocalFiles::look(&case.query.file_tables()).unwrap();
    let old = look();
    assert_eq!(case.rows_of(&old.0, old.1.clone()).unwrap(), ["1 one"]);
    std::fs::write(case.file.path(), "1,new\n").unwrap();
    let new = look();
    assert_eq!(case.rows_of(&old.0, old.1.clone()).unwrap(), ["1 one"], "loaded already");
    assert_eq!(case.rows_of(&new.0, new.1.clone()).unwrap(), ["1 new"]);
    let side = &case.query.file_tables()[0];
    assert_ne!(old.1[&side.name], new.1[&side.name]);
    let error = case.rows_of(&LocalFiles::default(), old.1).unwrap_err();
    assert!(error.contains("no file with the content"), "{error}");
}

#[test]
fn a_folder_is_its_files_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("b.csv", "1,second\n"), ("a.csv", "1,first\n3,three\n"), ("_log", "x"), (".hidden", "x")] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let side = of_path(folder.path(), "'format'='csv'", "SELECT id, `value` FROM ids JOIN side ON id = key");
    let (local, files) = LocalFiles::look(&side.file_tables()).unwrap();
    assert_eq!(files["side"].len(), 2);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(side.load_files(&files, &local, u64::MAX)).unwrap());
    assert!(!runtime.block_on(side.load_files(&files, &local, u64::MAX)).unwrap(), "once");
    let rows = side.lookups[0].rows(&files).unwrap();
    let values = ArrayFormatter::try_new(rows.column_by_name("value").unwrap(), &FormatOptions::default()).unwrap();
    let values: Vec<String> = (0..rows.num_rows()).map(|row| values.value(row).to_string()).collect();
    assert_eq!(values, ["first", "three", "second"]);
    std::fs::write(folder.path().join("c.csv"), "").unwrap();
    assert_eq!(LocalFiles::look(&side.file_tables()).unwrap().1["side"].len(), 3);
    for file in ["a.csv", "b.csv", "c.csv"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let (local, files) = LocalFiles::look(&side.file_tables()).unwrap();
    assert!(runtime.block_on(side.load_files(&files, &local, u64::MAX)).unwrap());
    assert_eq!(side.lookups[0].rows(&files).unwrap().num_rows(), 0, "an empty folder is an empty table");
}

#[test]
fn rows_that_are_taken_back_keep_what_they_found() {
    let pinned = |from: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kafka = "WITH ('connector'='kafka','topic'='t','bootstrap.servers'='localhost:1','format'='json')";
        let path = file.path().display();
        let script = format!(
            "CREATE TABLE ids (id BIGINT, k STRING{from}) {kafka}; \
             CREATE TABLE o (id BIGINT, b STRING, PRIMARY KEY (id) NOT ENFORCED) {kafka}; \
             CREATE TABLE side (key BIGINT, `value` STRING) WITH ('connector'='filesystem', 'path'='{path}', 'format'='csv'); \
             INSERT INTO o SELECT id, `value` FROM ids JOIN side ON id = key;"
        );
        compile(&script).unwrap().file_tables()[0].pinned
    };
    assert_eq!((pinned(""), pinned(", PRIMARY KEY (id) NOT ENFORCED")), (false, true));
}

#[test]
fn what_goes_wrong_is_told() {
    let case = case("x,one\n", "'format'='csv'", "SELECT id, `value` FROM ids JOIN side ON id = key");
    let error = case.rows().unwrap_err();
    assert!(error.contains("table 'side'") && error.contains("must be on the driver's machine"), "{error}");
    std::fs::remove_file(case.file.path()).unwrap();
    assert!(case.rows().unwrap_err().contains("No such file"));
    let side = "CREATE TABLE side (key BIGINT) WITH ('connector'='filesystem', 'path'='/x', 'format'='csv');";
    for (statements, expected) in [
        ("INSERT INTO rows_out SELECT 'a', key FROM side;", "is a file, not a stream"),
        ("INSERT INTO rows_out SELECT card, id FROM side LEFT JOIN plain ON id = key;", "put the stream on the side"),
        (
            "INSERT INTO rows_out SELECT p.card, q.id FROM plain p JOIN pay FOR SYSTEM_TIME AS OF p.ts AS q ON p.id = q.id;",
            "needs a right side that has versions",
        ),
    ] {
        let error = bad(&format!("{side} {statements}"));
        assert!(error.contains(expected), "{statements}: {error}");
    }
    for (options, expected) in [
        ("'format'='csv'", "lacks the option 'path'"),
        ("'path'='/x'", "lacks the option 'format'"),
        ("'path'='/x', 'format'='json', 'csv.header'='true'", "goes with 'format' = 'csv'"),
        ("'path'='/x', 'format'='csv', 'topic'='t'", "the filesystem connector has no option 'topic'"),
    ] {
        let error = bad(&format!("CREATE TABLE s (a INT) WITH ('connector'='filesystem', {options});"));
        assert!(error.contains(expected), "{options}: {error}");
    }
}

#[test]
fn files_that_take_too_much_memory_are_refused() {
    let case = case(CSV, "'format'='csv'", "SELECT id, `value` FROM ids JOIN side ON id = key");
    let (local, files) = LocalFiles::look(&case.query.file_tables()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(case.query.load_files(&files, &local, 10)).unwrap_err().to_string();
    assert!(error.contains("the maximum is 10;") && error.contains("--query-memory"), "{error}");
}
